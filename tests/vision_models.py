"""What a world of hub models needs, in small: models of the real classes, of random weights, in the places that
`lab.worlds.vision` looks into, and prompts in T2I-CompBench's file form.
"""

from string import ascii_lowercase

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
)

from lab.worlds.shapes.shipped import quietly

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def build_vqa(folder):
    """A BLIP that answers questions; its text tokens are letters, digits and "yes", "no"."""
    signs = [*ascii_lowercase, *"0123456789?!.,'-"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", *signs, *(f"##{sign}" for sign in signs)]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=512)
    n = len(tokens)
    text = SMALL | {"vocab_size": n + 2, "encoder_hidden_size": 16, "max_position_embeddings": 64}
    text |= {"bos_token_id": n, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(text_config=text, vision_config=SMALL | {"image_size": 384, "patch_size": 96})
    _write(folder, BlipForQuestionAnswering(config), BlipImageProcessorPil(), tokenizer)


def build_clip(folder):
    """A CLIP that looks at 32 by 32 pixels."""
    tokenizer = _clip_tokenizer(77)
    vision = SMALL | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=_clip_text(tokenizer), vision_config=vision, projection_dim=16)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    _write(folder, CLIPModel(config), processor, tokenizer)


def build_detector(folder):
    """An OWLv2 that looks at 32 by 32 pixels, and sees at most four things."""
    tokenizer = _clip_tokenizer(16)
    vision = SMALL | {"image_size": 32, "patch_size": 16}
    text = _clip_text(tokenizer) | {"max_position_embeddings": 16}
    config = Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    processor = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    _write(folder, Owlv2ForObjectDetection(config), processor, tokenizer, spread=0.2)


def build_depth(folder):
    """A Depth Anything that looks at 28 by 28 pixels."""
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8,
    )  # fmt: skip
    processor = DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=True)
    _write(folder, DepthAnythingForDepthEstimation(config), processor, spread=0.2)


BUILDERS = {
    "RFMI_VISION_VQA": build_vqa,
    "RFMI_VISION_CLIP": build_clip,
    "RFMI_VISION_DETECTOR": build_detector,
    "RFMI_VISION_DEPTH": build_depth,
}


def build_all(folder):
    """All four in folders of their own; returns the environment that points to them."""
    environment = {}
    for variable, build in BUILDERS.items():
        environment[variable] = str(folder / variable.lower())
        build(environment[variable])
    return environment


def write_prompts(folder, train=14, val=7):
    """Sentences of our own as {category}_train.txt and {category}_val.txt, without a final newline; returns the
    environment that points to them.
    """
    things = "kettle lantern wagon anvil trumpet barrel ladder".split()
    paints = "teal maroon ochre crimson ivory indigo".split()
    forms = "hexagonal domed narrow curved flat".split()
    stuffs = "velvet copper woollen marble".split()
    flat = ("on the left of", "on top of", "next to", "on the right of", "on the bottom of", "on the top of")
    folder.mkdir(parents=True, exist_ok=True)
    for category, sentence in {
        "color": lambda i, a, b: f"a {paints[i % 6]} {a} and a {paints[(i + 1) % 6]} {b}",
        "shape": lambda i, a, b: f"a {forms[i % 5]} {a} and a {forms[(i + 2) % 5]} {b}",
        "texture": lambda i, a, b: f"a {stuffs[i % 4]} {a} and a {stuffs[(i + 1) % 4]} {b}",
        "spatial": lambda i, a, b: f"a {a} {flat[i % 6]} a {b}",
        "3d_spatial": lambda i, a, b: f"a {a} {('in front of', 'behind', 'hidden by')[i % 3]} a {b}",
        "numeracy": lambda i, a, b: f"{('two', 'three', 'one')[i % 3]} {a}s and {('four', 'five')[i % 2]} {b}s",
        "non_spatial": lambda i, a, b: f"A miller is carrying a {a} past a {b}.",
        "complex": lambda i, a, b: f"The {paints[i % 6]} {a} {('was on top of', 'rolled to')[i % 2]} the dull {b}.",
    }.items():
        texts = [sentence(i, things[i % 7], things[(i + 1 + i // 7) % 7]) for i in range(train + val)]
        (folder / f"{category}_train.txt").write_text("\n".join(texts[:train]), "utf-8")
        (folder / f"{category}_val.txt").write_text("\n".join(texts[train:]), "utf-8")
    return {"RFMI_COMPBENCH": str(folder)}


def _write(folder, model, *others, spread=0.5):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # so large that images and texts matter
            torch.nn.init.normal_(parameter, std=spread)
    with quietly():
        for each in (model, *others):
            each.save_pretrained(folder)


def _clip_tokenizer(longest):
    """Bytes, inside and at the end of a word: every text has tokens; none of them is 0, which OWLv2 takes for none."""
    tokens = [chr(byte) for byte in range(33, 127)]
    tokens = ["<|unused|>", *tokens, *(f"{token}</w>" for token in tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=longest)


def _clip_text(tokenizer):
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return SMALL | {"vocab_size": len(tokenizer)} | ids
