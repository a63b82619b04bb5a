"""T2I-CompBench's formulas (arXiv 2307.06350 and its ++ version), of boxes, probabilities, depths and counts alone.

published: what the published evaluator computes, where that differs from what it is meant to: "near" is true of two
    things on one line however far apart, in pixels whatever the image's size; a depth map (height, width) is read as
    [x, y]; an overlap of exactly a half scores 0; and only the first detection of a name counts, also for both of two
    things of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from torch import Tensor

from lab.worlds.vision import Box, Detection, box_iou

NEAR = 150  # pixels of an image of 512
FREE = 0.1  # the IoU below which two things count as apart
HIDING = 0.5  # the IoU from which one thing counts as in front of the other
LEAST = 0.5  # a spatial score below it is 0
AXES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}  # axis, and the sign of other less one


def attribute_score(probabilities: Sequence[float]) -> float:
    """The product of p(yes) over the noun phrases; 1 for none."""
    return prod(probabilities)


def flat_position(relation: str, one: Box, other: Box, side: int, published: bool = False) -> float:
    """How far `one` is left, right, top, bottom of `other` or near it, in [0, 1]; 0 for any other relation.

    side: the image's longer side, in pixels.
    """
    across, down = ((other[i] + other[i + 2] - one[i] - one[i + 2]) / 2 for i in (0, 1))
    far = max(abs(across), abs(down))
    if relation == "near":
        near = NEAR if published else NEAR * side / 512
        on_one_line = published and min(abs(across), abs(down)) < near
        return 1.0 if on_one_line or far <= near else near / far
    if relation not in AXES:
        return 0.0
    axis, sign = AXES[relation]
    along, beside = (across, down) if axis == 0 else (down, across)
    if along * sign <= 0 or abs(along) <= abs(beside):
        return 0.0
    iou = box_iou(one, other)
    return 1.0 if iou < FREE else FREE / iou


def deep_position(relation: str, one: Box, other: Box, near: Tensor, published: bool = False) -> float:
    """How far `one` is in front of `other`, or behind it, in [0, 1].

    near: (height, width), larger is nearer.
    """
    nearer = _inside(near, one, published) - _inside(near, other, published)
    if not (nearer > 0 if relation == "front" else nearer < 0):
        return 0.0
    iou = box_iou(one, other)
    if published and iou == HIDING:
        return 0.0
    return min(1.0, iou / HIDING)


def _inside(near: Tensor, box: Box, published: bool) -> float:
    """The mean of a map within a box; NaN, of which nothing is true, outside of the map."""
    (left, top, right, bottom) = (int(value) for value in box)
    if published:
        return near[left:right, top:bottom].mean().item()
    top, left = min(top, near.shape[0] - 1), min(left, near.shape[1] - 1)
    return near[top : max(bottom, top + 1), left : max(right, left + 1)].mean().item()


def pair_score(
    ones: Sequence[Detection],
    others: Sequence[Detection],
    position: Callable[[Box, Box], float],
    published: bool = False,
) -> float:
    """0.25 (s1 + s2) + 0.5 position of the best pair of detections; 0.25 s where only one of the two was found.

    ones, others: detections of the two names, by falling score, and the same ones where the names are the same.
    """
    if published:
        ones, others = ones[:1], others[:1]
    scores = [0.25 * each.score for each in (*ones, *others)]
    for one in ones:
        for other in others:
            if published or one is not other:
                scores.append(0.25 * (one.score + other.score) + 0.5 * position(one.box, other.box))
    return max(scores, default=0.0)


def numeracy_score(asked: Sequence[tuple[str, int]], found: Mapping[str, int]) -> float:
    """The mean over the things asked for of 0.5 for being there and 0.5 for their exact number; 0 for none."""
    points = [0.5 * (found[name] > 0) + 0.5 * (found[name] == number) for name, number in asked]
    return sum(points) / max(1, len(points))
