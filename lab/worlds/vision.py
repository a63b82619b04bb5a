"""What pretrained models say of images: the answer to a question, where things are, how near they are, CLIP's cosine.

Each is one of transformers' own classes, loaded at its first use from the hub, or from a folder that an environment
variable names:

    RFMI_VISION_VQA          Salesforce/blip-vqa-capfilt-large          a BLIP that answers questions
    RFMI_VISION_DETECTOR     google/owlv2-base-patch16-ensemble         an OWLv2, which finds what is named
    RFMI_VISION_DEPTH        depth-anything/Depth-Anything-V2-Small-hf  a Depth Anything or DPT
    RFMI_VISION_CLIP         openai/clip-vit-base-patch32               a CLIP
    RFMI_VISION_DEVICE       cuda, where there is one
    RFMI_VISION_BATCH        16, images at once

Images are tensors (n, 3, h, w) in [0, 1], on any device. Processors are those that need no torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from lab.worlds.shapes.shipped import quietly

MODELS = {
    "RFMI_VISION_VQA": ("Salesforce/blip-vqa-capfilt-large", "BlipForQuestionAnswering"),
    "RFMI_VISION_DETECTOR": ("google/owlv2-base-patch16-ensemble", "Owlv2ForObjectDetection"),
    "RFMI_VISION_DEPTH": ("depth-anything/Depth-Anything-V2-Small-hf", "AutoModelForDepthEstimation"),
    "RFMI_VISION_CLIP": ("openai/clip-vit-base-patch32", "CLIPModel"),
}
VQA_SIDE = 480  # pixels, at which BLIP was trained to answer; its processor on the hub says 384
QUESTION_TOKENS = 35
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One thing found. name: as asked for. score: in [0, 1]. box: left, top, right, bottom, in pixels."""

    name: str
    score: float
    box: Box


def named(variable: str) -> str:
    """The folder or the hub's name of the model that a variable of `MODELS` stands for."""
    return os.environ.get(variable) or MODELS[variable][0]


@torch.no_grad()
def yes_probability(images: Tensor, questions: Sequence[str]) -> Tensor:
    """p(yes) / (p(yes) + p(no)), (n,), of the first token with which a BLIP answers question i about image i.

    questions: one an image. Those of one length are asked together, so that none is padded and none depends on others.
    """
    _check(images, questions, "questions")
    if not len(images):
        return torch.zeros(0)
    model, processor, tokenizer = _loaded("RFMI_VISION_VQA")
    start = model.config.text_config.bos_token_id
    rows = [tokenizer(text, truncation=True, max_length=QUESTION_TOKENS).input_ids for text in questions]
    answers = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no")]
    result = torch.zeros(len(rows))
    for length in {len(row) for row in rows}:
        for part in _batches([i for i, row in enumerate(rows) if len(row) == length]):
            tokens = torch.tensor([rows[i] for i in part], device=model.device)
            tokens[:, 0] = start + 1  # [ENC], which BLIP was trained with, where the hub's tokenizer writes [CLS]
            pixels = _pixels(images[part], processor, model, size={"height": VQA_SIDE, "width": VQA_SIDE})
            seen = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
            read = model.text_encoder(tokens, encoder_hidden_states=seen).last_hidden_state
            first = torch.full_like(tokens[:, :1], start)
            logits = model.text_decoder(first, encoder_hidden_states=read).logits[:, -1]
            result[part] = logits[:, answers].softmax(1)[:, 0].float().cpu()
    return result


@torch.no_grad()
def detect(
    images: Tensor, names: Sequence[str] | Sequence[Sequence[str]], threshold: float = 0.2, overlap: float = 0.5
) -> list[list[Detection]]:
    """What is found in each image, by falling score.

    names: asked for in every image, or one list of them an image.
    threshold: the least score. overlap: of two boxes of one name whose IoU is above it, the better one stays.
    """
    lists = [list(names)] * len(images) if not names or isinstance(names[0], str) else [list(each) for each in names]
    _check(images, lists, "lists of names")
    found: list[list[Detection]] = [[] for _ in lists]
    asking = [i for i, each in enumerate(lists) if each]
    if not asking:
        return found
    model, processor, tokenizer = _loaded("RFMI_VISION_DETECTOR")
    longest = model.config.text_config.max_position_embeddings
    size = tuple(images.shape[-2:])
    for part in _batches(asking):
        most = max(len(lists[i]) for i in part)
        tokens = torch.zeros(len(part), most, longest, dtype=torch.long)  # OWLv2 leaves out a row that begins with 0
        for row, i in enumerate(part):
            texts = [f"a photo of a {name}" for name in lists[i]]
            padded = tokenizer(texts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
            tokens[row, : len(texts)] = padded.input_ids
        pixels = _pixels(images[part], processor, model)
        answer = model(input_ids=tokens.flatten(0, 1).to(model.device), pixel_values=pixels)
        boxes = processor.post_process_object_detection(answer, threshold, [size] * len(part))
        for i, each in zip(part, boxes, strict=True):
            within = each["boxes"].cpu().clamp(min=0).minimum(torch.tensor([*size[::-1], *size[::-1]])).tolist()
            rows = zip(each["labels"].tolist(), each["scores"].tolist(), within, strict=True)
            things = [Detection(lists[i][label], score, tuple(box)) for label, score, box in rows]
            found[i] = _distinct([thing for thing in things if area(thing.box) > 0], overlap)
    return found


@torch.no_grad()
def depth(images: Tensor) -> Tensor:
    """How near each pixel is, (n, h, w), in units of the model's own: larger is nearer."""
    if not len(images):
        return images.new_zeros(0, *images.shape[-2:])
    model, processor, _ = _loaded("RFMI_VISION_DEPTH")
    maps = []
    for part in _batches(range(len(images))):
        answer = model(_pixels(images[part], processor, model)).predicted_depth[:, None]
        maps.append(functional.interpolate(answer, images.shape[-2:], mode="bicubic", align_corners=False)[:, 0])
    in_metres = getattr(model.config, "depth_estimation_type", "relative") == "metric"
    return torch.cat(maps).float().cpu() * (-1 if in_metres else 1)


@torch.no_grad()
def clip_features(images: Tensor) -> Tensor:
    """CLIP's projected features of images, (n, d), not normalised."""
    model, processor, _ = _loaded("RFMI_VISION_CLIP")
    parts = [
        model.get_image_features(_pixels(images[part], processor, model)).pooler_output.float().cpu()
        for part in _batches(range(len(images)))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, model.config.projection_dim)


@torch.no_grad()
def clip_cosine(images: Tensor, texts: Sequence[str]) -> Tensor:
    """CLIPScore without its factor and cut (arXiv 2104.08718): the cosine, (n,), of image i and text i.

    texts: one an image, cut at CLIP's 77 tokens.
    """
    _check(images, texts, "texts")
    if not len(images):
        return torch.zeros(0)
    model, _, tokenizer = _loaded("RFMI_VISION_CLIP")
    unique = list(dict.fromkeys(texts))
    places = [unique.index(text) for text in texts]
    parts = [
        model.get_text_features(**tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(model.device))
        for part in _batches(unique)
    ]
    read = torch.cat([part.pooler_output for part in parts]).float().cpu()
    return functional.cosine_similarity(clip_features(images), read[places])


def area(box: Box) -> float:
    """In square pixels; 0 where a side is negative."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def box_iou(one: Box, other: Box) -> float:
    """The area that two boxes share, by the area of their union; 0 where both are empty."""
    shared = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    union = area(one) + area(other) - shared
    return shared / union if union > 0 else 0.0


def _distinct(things: Sequence[Detection], overlap: float) -> list[Detection]:
    """Non-maximum suppression within each name."""
    kept: list[Detection] = []
    for thing in sorted(things, key=lambda each: -each.score):
        if all(thing.name != other.name or box_iou(thing.box, other.box) <= overlap for other in kept):
            kept.append(thing)
    return kept


def _check(images: Tensor, others: Sequence, name: str) -> None:
    if isinstance(others, str) or len(images) != len(others):
        raise ValueError(f"there are {len(images)} images and {len(others)} {name}; give a list of them, one an image")


def _batches(items: Sequence) -> Iterator[list]:
    size = int(os.environ.get("RFMI_VISION_BATCH") or 16)
    return (list(items[i : i + size]) for i in range(0, len(items), size))


def _pixels(images: Tensor, processor: Any, model: Any, **options: Any) -> Tensor:
    """What a processor makes of images, on the model's device."""
    pictures = list((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    made = processor(pictures, return_tensors="pt", input_data_format="channels_last", **options)
    return made.pixel_values.to(model.device, model.dtype)


def _loaded(variable: str) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer (None where there is none) of a variable of `MODELS`."""
    device = os.environ.get("RFMI_VISION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    return _load(variable, named(variable), device)


@cache
def _load(variable: str, name: str, device: str) -> tuple[Any, Any, Any]:
    default, class_name = MODELS[variable]
    advice = f"download it with `hf download {default} --local-dir FOLDER` and set {variable} to that folder"
    with quietly():
        import transformers

        try:
            model, report = getattr(transformers, class_name).from_pretrained(name, output_loading_info=True)
            processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
            tokenizer = None if "DEPTH" in variable else transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the model {name} of {variable} cannot be loaded; {advice}") from error
    if len(report["missing_keys"]) > len(model.state_dict()) // 20:  # transformers makes up what a folder lacks
        raise ValueError(f"the weights in {name} are not those of a {class_name}; {advice}")
    return model.eval().to(device), processor, tokenizer
