"""What pretrained models say of images: what transformers' own calls say, in any batch, or which folder is no model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    DepthAnythingForDepthEstimation,
    DPTImageProcessorPil,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
)
from vision_models import build_all

from lab.worlds import vision
from lab.worlds.vision import Detection, box_iou, clip_cosine, clip_features, depth, detect, yes_probability

IMAGES = torch.rand(5, 3, 40, 56, generator=torch.Generator().manual_seed(0))
PICTURES = [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in IMAGES]
QUESTIONS = ["a red bus?", "a dog?", "two old friends?", "a cow?", "the sky?"]
CALLS = {
    "RFMI_VISION_VQA": lambda: yes_probability(IMAGES, QUESTIONS),
    "RFMI_VISION_DETECTOR": lambda: detect(IMAGES, ["dog"]),
    "RFMI_VISION_DEPTH": lambda: depth(IMAGES),
    "RFMI_VISION_CLIP": lambda: clip_cosine(IMAGES, QUESTIONS),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return build_all(tmp_path_factory.mktemp("vision"))


@pytest.fixture(autouse=True)
def environment(places, monkeypatch):
    for variable, folder in places.items():
        monkeypatch.setenv(variable, folder)
    monkeypatch.setenv("RFMI_VISION_BATCH", "2")


def test_an_answer_is_the_first_token_that_blip_generates(places):
    folder = places["RFMI_VISION_VQA"]
    model = BlipForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = BlipImageProcessorPil.from_pretrained(folder, size={"height": 480, "width": 480})
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = []
    for picture, question in zip(PICTURES, QUESTIONS, strict=True):
        tokens = tokenizer(question, return_tensors="pt").input_ids
        tokens[0, 0] = len(tokenizer) + 1
        answer = model.generate(
            input_ids=tokens, pixel_values=processor(picture, return_tensors="pt").pixel_values, max_new_tokens=1,
            interpolate_pos_encoding=True, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        p = answer.logits[0][0].softmax(0)
        expected.append(p[yes] / (p[yes] + p[no]))
    assert torch.allclose(yes_probability(IMAGES, QUESTIONS), torch.stack(expected), atol=1e-5)
    assert torch.stack(expected).std() > 0.01


def test_an_answer_does_not_depend_on_its_neighbours(monkeypatch):
    together = yes_probability(IMAGES, QUESTIONS)
    order = [3, 0, 4, 2, 1]
    again = yes_probability(IMAGES[order], [QUESTIONS[i] for i in order])
    assert torch.allclose(together[order], again, atol=1e-6)
    monkeypatch.setenv("RFMI_VISION_BATCH", "16")
    assert torch.allclose(yes_probability(IMAGES, QUESTIONS), together, atol=1e-6)


def test_detections_are_those_of_owlv2_within_the_image(places):
    folder = places["RFMI_VISION_DETECTOR"]
    model = Owlv2ForObjectDetection.from_pretrained(folder).eval()
    processor, tokenizer = Owlv2ImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(
        ["a photo of a dog", "a photo of a tall tree"], padding="max_length", truncation=True, return_tensors="pt"
    )
    for image, picture in zip(IMAGES, PICTURES, strict=True):
        with torch.no_grad():
            answer = model(texts.input_ids, processor(picture, return_tensors="pt").pixel_values)
        boxes = processor.post_process_object_detection(answer, 0.2, [(40, 56)])[0]
        found = detect(image[None], ["dog", "tall tree"], threshold=0.2, overlap=1.0)[0]
        scores = {round(score, 4) for score in boxes["scores"].tolist()}
        assert found and {round(each.score, 4) for each in found} <= scores
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        for each in found:
            left, top, right, bottom = each.box
            assert 0 <= left < right <= 56 and 0 <= top < bottom <= 40 and each.name in ("dog", "tall tree")


def test_each_image_may_be_asked_for_names_of_its_own():
    lists = [["dog"], [], ["cat", "dog", "tall tree"], ["cat"], []]
    found = detect(IMAGES, lists, threshold=0.0)
    assert [bool(each) for each in found] == [bool(names) for names in lists]
    for image, names, things in zip(IMAGES, lists, found, strict=True):
        (alone,) = detect(image[None], names, threshold=0.0)
        assert [each.name for each in things] == [each.name for each in alone] and {*names} >= {e.name for e in things}
        assert all(abs(a.score - b.score) < 1e-5 for a, b in zip(things, alone, strict=True))
    assert detect(IMAGES, []) == [[]] * 5


def test_two_boxes_of_one_thing_count_once():
    dog, again = Detection("dog", 0.9, (0, 0, 10, 10)), Detection("dog", 0.8, (0, 0, 10, 9))
    cat, far = Detection("cat", 0.7, (0, 0, 10, 10)), Detection("dog", 0.6, (20, 20, 30, 30))
    assert vision._distinct([far, cat, again, dog], 0.5) == [dog, cat, far]
    assert vision._distinct([far, cat, again, dog], 0.95) == [dog, again, cat, far]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),
        ((0, 0, 1, 1), (3, 3, 5, 5), 0),
    ],
)
def test_the_overlap_of_two_boxes(one, other, expected):
    assert box_iou(one, other) == box_iou(other, one) == pytest.approx(expected)


def test_depth_is_the_models_at_the_images_size(places, monkeypatch, tmp_path):
    folder = places["RFMI_VISION_DEPTH"]
    model = DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    processor = DPTImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        answer = model(processor(PICTURES, return_tensors="pt").pixel_values).predicted_depth
    near = depth(IMAGES)
    assert torch.allclose(near, functional.interpolate(answer[:, None], (40, 56), mode="bicubic")[:, 0], atol=1e-4)
    metres = tmp_path / "metres"
    shutil.copytree(folder, metres)
    config = json.loads((metres / "config.json").read_text())
    (metres / "config.json").write_text(json.dumps(config | {"depth_estimation_type": "metric"}))
    monkeypatch.setenv("RFMI_VISION_DEPTH", str(metres))
    assert near.std() > 0.01 and depth(IMAGES).mean() < 0 < near.mean()  # metres grow with distance


def test_clip_says_what_its_own_call_says(places):
    folder = places["RFMI_VISION_CLIP"]
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(PICTURES, return_tensors="pt").pixel_values
    with torch.no_grad():
        answer = model(**tokenizer(QUESTIONS, padding=True, return_tensors="pt"), pixel_values=pixels)
    expected = answer.logits_per_image.diagonal() / model.logit_scale.exp()
    assert torch.allclose(clip_cosine(IMAGES, QUESTIONS), expected, atol=1e-5)
    assert torch.allclose(functional.normalize(clip_features(IMAGES)), answer.image_embeds, atol=1e-5)
    assert clip_cosine(IMAGES[:2], ["a dog " * 100, "a dog"]).isfinite().all()


def test_no_images_have_no_answers():
    none = IMAGES[:0]
    assert yes_probability(none, []).shape == clip_cosine(none, []).shape == (0,)
    assert depth(none).shape == (0, 40, 56) and clip_features(none).shape == (0, 16)
    assert detect(none, ["dog"]) == detect(none, []) == []


@pytest.mark.parametrize("call", [yes_probability, clip_cosine, detect])
def test_a_list_of_another_length_is_named(call):
    with pytest.raises(ValueError, match="there are 5 images and 2 "):
        call(IMAGES, ["a dog", "a cat"] if call is not detect else [["dog"], ["cat"]])


@pytest.mark.parametrize("variable", vision.MODELS)
def test_a_model_that_is_not_there_is_named_with_where_to_put_it(variable, places, monkeypatch, tmp_path):
    folder = Path(places[variable])
    empty, cut, changed, unheld = (tmp_path / name for name in ("empty", "cut", "changed", "unheld"))
    empty.mkdir()
    for place in (cut, changed, unheld):
        shutil.copytree(folder, place)
    weights = load_file(folder / "model.safetensors")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-999])
    save_file({f"other.{name}": value for name, value in weights.items()}, changed / "model.safetensors")
    (unheld / "preprocessor_config.json").unlink()
    others = [places[other] for other in vision.MODELS if other != variable]
    for place in (empty, tmp_path / "nowhere", cut, changed, unheld, *others):
        monkeypatch.setenv(variable, str(place))
        with pytest.raises(ValueError, match=f"hf download {vision.MODELS[variable][0]} .* set {variable} to") as fault:
            CALLS[variable]()
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("variable", vision.MODELS)
def test_the_hubs_model_is_taken_where_no_folder_is_named(variable, monkeypatch):
    monkeypatch.delenv(variable)
    assert vision.named(variable) == vision.MODELS[variable][0]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"the model {vision.MODELS[variable][0]} of {variable} cannot be loaded"):
        CALLS[variable]()
