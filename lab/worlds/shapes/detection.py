"""From pixels to objects, by analysis and synthesis.

A place where a silhouette fits counts as an object only where the silhouette drawn there agrees with the picture, and
every pixel it lacks is covered by another such object. Blobs, halves and shapes of another world are no objects. First
come objects of one of the world's colors; what they leave is looked at once more with all colors taken for one, so that
a circle of two colors, or of a foreign one, is a circle of unclear color.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lab.worlds.shapes.matching import (
    AGREEMENT,
    CENTRE,
    KINDS,
    MARGIN,
    OUTSIDE,
    PATCH,
    Paints,
    Places,
    agreement,
    find_places,
    patches,
    read_paints,
    silhouettes,
)
from lab.worlds.shapes.rendering import SceneObject
from lab.worlds.shapes.words import COLORS, TEXTURES

OVERLAP = 8.0  # the least number of pixels two silhouettes share where they are said to overlap
COLOR_ERROR = 0.08  # the largest mean distance in RGB between the pixels of an object and its paints
PATTERN_ERROR = 0.13  # the largest mean squared difference between an object's pattern and its texture's
UNCLEAR = "unclear"
CHUNK = 64


@dataclass(frozen=True)
class Detection:
    """What a picture shows: `objects` from back to front, of "unclear" color or texture where it is none of the
    world's, and `overlaps` as pairs (behind, in front) of places in them.
    """

    objects: tuple[SceneObject, ...]
    overlaps: tuple[tuple[int, int], ...]


@torch.no_grad()
def detect(pictures: Tensor) -> list[Detection]:
    """The objects in pictures (n, 3, 64, 64) in [0, 1]; computed on the processor, whatever their device."""
    return [each for chunk in pictures.split(CHUNK) for each in _detect(chunk.detach().float().cpu())]


def _detect(pictures: Tensor) -> list[Detection]:
    paints = read_paints(pictures)
    clear, places, overlaps = _look(paints)
    drawn = torch.zeros_like(paints.covered).index_add_(0, places.picture, places.drawn(silhouettes().grown))
    unclear, other_places, _ = _look(paints.without_hues(drawn > 0))
    results = []
    for picture in range(len(pictures)):
        here, others = ((of.picture == picture).nonzero()[:, 0].tolist() for of in (places, other_places))
        pairs = [(i, j) for i, j in overlaps if i in here]
        order = _from_back_to_front(here, pairs)
        seats = tuple((order.index(i), order.index(j)) for i, j in pairs)
        objects = [clear[k] for k in order] + [replace(unclear[k], color=UNCLEAR) for k in others]
        results.append(Detection(tuple(objects), seats))
    return results


def _look(paints: Paints) -> tuple[list[SceneObject], Places, list[list[int]]]:
    """The objects in all pictures, their places, and pairs (behind, in front) of them that overlap."""
    places = _explain(paints, find_places(paints))
    i, j, shared = _meeting(places)
    i_over_j, j_over_i = (_errors(paints, [places.at(a)], [places.at(b)])[:, 0, 0] for a, b in ((i, j), (j, i)))
    behind, front = torch.where(i_over_j < j_over_i, j, i), torch.where(i_over_j < j_over_i, i, j)
    kept = _verify(paints, places, behind, front)
    number = kept.cumsum(0) - 1
    meeting = (shared >= OVERLAP) & kept[behind] & kept[front]
    overlaps = torch.stack([number[behind], number[front]], 1)[meeting].tolist()
    return _describe(paints, places.at(kept)), places.at(kept), overlaps


def _neighbors(places: Places) -> tuple[Tensor, Tensor]:
    """Pairs (i, j) of different places in one picture whose patches meet."""
    near = places.picture[:, None] == places.picture
    for start in (places.top, places.left):
        near &= (start[:, None] - start).abs() < PATCH
    return near.fill_diagonal_(False).nonzero().unbind(1)


def _meeting(places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs i < j of places of different hues whose silhouettes come within four pixels, and the pixels they share."""
    i, j = _neighbors(places)
    apart = (i < j) & (places.hue[i] != places.hue[j])
    i, j = i[apart], j[apart]
    corner = places.top[i], places.left[i]
    close, shared = (
        (what[places.kind[i], places.phase[i]] * patches(places.drawn(what), j, *corner)).sum((1, 2))
        for what in (silhouettes().grown, silhouettes().coverage)
    )
    return i[close > 0], j[close > 0], shared[close > 0]


def _errors(paints: Paints, front: Sequence[Places], behind: Sequence[Places]) -> Tensor:
    """Squared errors (p, A, B), less a constant, of drawing p places over p others, with A explanations over B."""
    inner = slice(MARGIN, -MARGIN)
    over, under = (
        torch.stack([each.drawn(silhouettes().coverage)[:, inner, inner].flatten(1) for each in side], 1)
        for side in (front, behind)
    )
    own_over, own_under = (
        paints.of(side[0].picture, side[0].hue)[0][:, None, inner, inner].flatten(2) for side in (front, behind)
    )
    alone = (over**2 - 2 * own_over * over).sum(2, keepdim=True)
    return alone + (1 - over) ** 2 @ (under**2).mT - 2 * (1 - over) @ (own_under * under).mT


def _explain(paints: Paints, places: Places) -> Places:
    """One explanation a place: the best, and for two that meet, those which drawn one over the other, in either order,
    agree best with the picture. Of several such pairs, the one that shares most pixels decides.
    """
    choice = torch.zeros_like(places.picture)
    i, j, shared = _meeting(places.explained_by(choice))
    n = places.kind.shape[1]
    mine, theirs = ([places.explained_by(choice + k).at(which) for k in range(n)] for which in (i, j))
    errors = torch.stack([_errors(paints, mine, theirs), _errors(paints, theirs, mine).mT], 1)
    best = errors.flatten(1).argmin(1) % n**2
    for pair in shared.argsort().tolist():
        choice[i[pair]], choice[j[pair]] = best[pair] // n, best[pair] % n
    return places.explained_by(choice)


def _verify(paints: Paints, places: Places, behind: Tensor, front: Tensor) -> Tensor:
    """Which places hold objects, a mask (k,), now that a pixel counts as hidden only by such an object in front (or by
    the border, or at an edge where two meet), and as another object's only outside the silhouette. Their color, too,
    must be the world's.
    """
    world = silhouettes()
    i, j = _neighbors(places)
    same = places.hue[i] == places.hue[j]
    beside, hiding = (
        (i[which], j[which], patches(places.drawn(what), j[which], places.top[i[which]], places.left[i[which]]))
        for what, which in ((world.coverage, same), (world.grown, ~same))
    )
    in_front = torch.zeros(len(places.hue), len(places.hue), dtype=torch.bool)
    in_front[behind, front] = True
    edge, free = world.edge[places.kind, places.phase], world.coverage[places.kind, places.phase] == 0
    hiding[2].mul_(in_front[hiding[0], hiding[1]][:, None, None] | edge[hiding[0]])
    own, known, outside = _seen(paints, places)
    seen = own * ~free
    kept = (places.read(paints.distance) * seen).sum((1, 2)) <= COLOR_ERROR * seen.sum((1, 2))
    while True:
        taken, hidden = (
            torch.zeros_like(own).index_add_(0, at, there * kept[other, None, None]).clamp_max_(1)
            for at, other, there in (beside, hiding)
        )
        hidden = hidden.maximum(outside)
        agree = agreement(places.kind, places.phase, own * (1 - taken * free), 1 - (1 - known) * hidden)
        stay = kept & (agree >= AGREEMENT)
        if bool((stay == kept).all()):
            return kept
        kept = stay


def _seen(paints: Paints, places: Places) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (k, 38, 38) at every place: M and w of its hue, and what lies outside the picture."""
    label, covered = places.read(paints.label), places.read(paints.covered)
    own = covered * (label == places.hue[:, None, None])
    return own, 1 - covered + own, (label == OUTSIDE).float()


def _describe(paints: Paints, places: Places) -> list[SceneObject]:
    """The places in words. A texture is the one whose pattern differs least, in the mean square, from what is seen."""
    world = silhouettes()
    weight = world.coverage[places.kind, places.phase] * _seen(paints, places)[0]
    error = weight[:, None] * (places.read(paints.dark)[:, None] - world.dark[places.kind, places.phase]) ** 2
    error, texture = (error.sum((-2, -1)) / weight.sum((-2, -1))[:, None]).min(1)
    texture = torch.where(error <= PATTERN_ERROR, texture, len(TEXTURES))
    x = places.left + places.phase % 2 / 2 - CENTRE
    y = places.top + places.phase // 2 / 2 - CENTRE
    columns, names = (places.kind, places.hue, texture, x, y), (*TEXTURES, UNCLEAR)
    return [
        SceneObject(KINDS[kind][0], COLORS[hue], names[texture], KINDS[kind][1], x, y)
        for kind, hue, texture, x, y in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _from_back_to_front(objects: list[int], overlaps: list[tuple[int, int]]) -> list[int]:
    """An order of the objects in which those behind come first, as far as the overlaps allow one."""
    left, order = list(objects), []
    while left:
        order.append(next((i for i in left if not any((j, i) in overlaps for j in left)), left[0]))
        left.remove(order[-1])
    return order
