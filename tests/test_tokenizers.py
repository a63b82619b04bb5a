"""One token a word, in every prompt of the world; the round trip through transformers alone; pooling; faults."""

import re
from random import Random

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lab.making.tokenizers import MAX_TOKENS, make_tokenizer
from lab.worlds.shapes import prompts
from lab.worlds.shapes.grammar import draw_prompt
from lab.worlds.shapes.words import CATEGORIES, WORDS
from rfmi.pipelines.vocabulary import CLOSED, check_vocabulary

TOKENIZER = make_tokenizer()
LONGEST = "a large striped red circle, a red square and a small red cross"  # 13 words and a comma


def words_of(prompt):
    return re.findall(r"[^\s,]+|,", prompt)


def text_encoder(tokenizer):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval()


def test_every_word_is_one_token_of_its_own():
    tokens = {word: TOKENIZER(word, add_special_tokens=False).input_ids for word in WORDS}
    assert {word for word, ids in tokens.items() if len(ids) != 1} == set()
    assert len({ids[0] for ids in tokens.values()}) == len(WORDS)
    assert TOKENIZER.tokenize("Two  RED\nCircles") == TOKENIZER.tokenize("two red circles")


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_are_read_word_by_word_and_fit(category):
    random = Random(0)
    texts = [*prompts(category, "train"), *prompts(category, "val")]
    texts += [str(draw_prompt(category, random, even=True)) for _ in range(500)]
    for text, ids in zip(texts, TOKENIZER(texts).input_ids, strict=True):
        assert TOKENIZER.convert_ids_to_tokens(ids[1:-1]) == [f"{word}</w>" for word in words_of(text)]
        assert (ids[0], ids[-1]) == (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) and len(ids) <= MAX_TOKENS
    check_vocabulary([*texts, LONGEST], TOKENIZER)


@pytest.mark.parametrize("kind", [CLIPTokenizer, AutoTokenizer])
def test_a_saved_tokenizer_loads_with_transformers_alone(tmp_path, kind):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path, local_files_only=True)
    texts = list(prompts("complex"))
    assert loaded(texts).input_ids == TOKENIZER(texts).input_ids
    assert (len(loaded), loaded.model_max_length) == (len(TOKENIZER), MAX_TOKENS)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|startoftext|>", "<|endoftext|>", "<|padding|>")
    assert loaded.decode(loaded(texts[0]).input_ids, skip_special_tokens=True) == texts[0].replace(",", " ,")


def test_the_vocabulary_is_the_same_every_time():
    assert make_tokenizer().get_vocab() == TOKENIZER.get_vocab()
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(len(TOKENIZER)))


def test_the_256_bytes_are_those_of_the_tokenizers_library():
    byte_level = pytest.importorskip("tokenizers.pre_tokenizers").ByteLevel
    assert {token for token, i in TOKENIZER.get_vocab().items() if i < 256} == set(byte_level.alphabet())


def test_unknown_words_become_several_tokens_and_no_end_of_text():
    ids = TOKENIZER("a pink circlet", add_special_tokens=False).input_ids
    assert len(ids) > 3 and TOKENIZER.eos_token_id not in ids


def test_a_text_encoder_pools_at_the_end_of_text_whatever_the_padding():
    encoder, text = text_encoder(TOKENIZER), "a red circle and a blue square"
    padded = TOKENIZER([text], padding="max_length", return_tensors="pt").input_ids
    assert padded.argmax(1).item() == len(words_of(text)) + 1  # readers that pool at the largest id agree
    with torch.no_grad():
        pooled = encoder(padded).text_embeds
        assert torch.allclose(pooled, encoder(padded[:, : len(words_of(text)) + 2]).text_embeds, atol=1e-6)
        assert not torch.allclose(pooled, encoder(padded.flip(1)).text_embeds, atol=1e-3)


def test_the_pipeline_of_stable_diffusion_3_embeds_a_prompt():
    encoder = text_encoder(TOKENIZER)
    pipeline = StableDiffusion3Pipeline(
        transformer=None,
        scheduler=None,
        vae=None,
        text_encoder=encoder,
        tokenizer=TOKENIZER,
        text_encoder_2=encoder,
        tokenizer_2=TOKENIZER,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    with torch.no_grad():
        tokens, pooled = pipeline._get_clip_prompt_embeds(["a red circle", ""], device="cpu")
    assert tokens.shape == (2, MAX_TOKENS, 16) and pooled.shape == (2, 8)
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-3)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a pink circle", "does not know the word 'pink'"),
        ("a red circle.", "does not know the word 'circle.'"),
        ("a red circle,, a blue square", "does not know the word ',,'"),
        ("a redcircle", "does not know the word 'redcircle'"),
        ("a <|endoftext|>", "does not know the word"),
        ("a red circle and " * 100 + "a pink circle", "does not know the word 'pink'"),
        ("a red circle and " * 100 + "a cross", "has 402 words and commas and would be cut"),
        (LONGEST + " and", "has 15 words and commas and would be cut; the text encoders take 14"),
    ],
)
def test_faults_are_named_in_one_sentence(prompt, message):
    with pytest.raises(ValueError, match=message) as fault:
        check_vocabulary(["a red circle", prompt], TOKENIZER)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 200


def test_an_open_vocabulary_takes_every_word(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    check_vocabulary(["a pink circle"], CLIPTokenizer.from_pretrained(tmp_path, **{CLOSED: False}))
    with pytest.raises(ValueError, match="'pink'"):
        check_vocabulary(["a pink circle"], CLIPTokenizer.from_pretrained(tmp_path))
