"""The score as a reward for other trainers: the same numbers, called as they call."""

import numpy as np
import pytest
import torch

import rfmi
from lab.worlds import load_world
from rfmi.scoring import Method

METHOD = Method(nodes=2, noises=2)
PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module")
def pipeline():
    return load_world("shapes").pipeline()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_reward_is_the_score(pipeline, images):
    reward = rfmi.Reward(pipeline, method=METHOD, seed=3)
    rewards = reward(images, PROMPTS)
    assert isinstance(rewards, np.ndarray) and rewards.shape == (2,) and rewards.dtype == np.float64
    assert rewards.tolist() == rfmi.score(pipeline, images, PROMPTS, method=METHOD, seed=3).values.tolist()
    assert rewards.tolist() != rfmi.Reward(pipeline, method=METHOD, seed=4)(images, PROMPTS).tolist()


def test_trainers_call_it_by_names_and_with_more_than_it_uses(pipeline, images):
    reward = rfmi.Reward(pipeline, method=METHOD)
    plain = reward(images, PROMPTS).tolist()
    assert reward(prompts=tuple(PROMPTS), images=images, completions=None, step=7).tolist() == plain
    assert reward(images, tuple(PROMPTS), [{}, {}]).tolist() == plain  # as DDPO's metadata
    assert reward.__name__


def test_its_options_are_those_of_the_score(pipeline, images):
    reward = rfmi.Reward(pipeline, method=METHOD, negative_prompt="a green cross", micro_batch=1)
    expected = rfmi.score(pipeline, images, PROMPTS, method=METHOD, negative_prompt="a green cross").values
    np.testing.assert_allclose(reward(images, PROMPTS), expected, rtol=1e-4)


def test_its_identity_tells_weights_method_and_seed(pipeline):
    identity = rfmi.Reward(pipeline, method=METHOD).identity
    assert isinstance(identity, str) and identity == rfmi.Reward(pipeline, method=METHOD).identity
    others = [rfmi.Reward(pipeline).identity, rfmi.Reward(pipeline, method=METHOD, seed=1).identity]
    weight = next(pipeline.transformer.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.01)
        others.append(rfmi.Reward(pipeline, method=METHOD).identity)
        weight.copy_(before)
    assert len({identity, *others}) == 4
    assert rfmi.Reward(pipeline, method=METHOD).identity == identity


def test_what_does_not_fit_is_said_before_anything_is_scored(pipeline, images):
    with pytest.raises(ValueError, match="no score 'best'"):
        rfmi.Reward(pipeline, method="best")
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        rfmi.Reward(pipeline, method=METHOD)(images, PROMPTS[:1])
