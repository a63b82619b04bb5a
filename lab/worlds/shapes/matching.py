"""From pixels to places where a silhouette of the world fits.

Every pixel is read as one of the world's paints: a hue, how much of the pixel it covers (the rest is ground) and how
dark its tone is. For every hue, silhouettes T are laid over the pixels M that have it; with w = 0 where another hue may
hide something, and R the rim around T, a place explains

    gain = sum M (2 T - R) - w T^2 - 0.1 (1 - w) T,

which is largest where T is the object; there it is about the object's visible area. The best place is sought on every
other pixel first, then by half pixels.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.worlds.shapes.rendering import BRIGHT, DARK_TONE, GROUND, SIDE, template
from lab.worlds.shapes.words import COLORS, SHAPES, SIZES, TEXTURES

KINDS = tuple((shape, size) for shape in SHAPES for size in SIZES)
PATCH = 38  # the side of a patch: the largest object, its rim, and a move of two pixels
MARGIN = 21  # the empty margin around a picture
CENTRE = MARGIN - PATCH // 2  # a patch's top less its centre's distance from the top of the picture
AGREEMENT = 0.9  # the least intersection over union of an object's silhouette and its pixels
VISIBLE = 0.5  # the least share of an object that must be seen
_UNKNOWN_PAINT = 0.15  # the distance in RGB beyond which a pixel is none of the world's paints
_LEVELS = 32  # of each channel, in the table of paints
_LEAST_PIXELS = 60  # of one hue, below which no object is sought
_HIDDEN_PRICE = 0.1
_EXPLANATIONS = 4  # kept of every place
_NEAR = 8  # pixels between the centres of explanations of one place, at most
_FIRST, _LAST = 6, 58  # where centres may lie
_NO_HUE, OUTSIDE = len(COLORS), len(COLORS) + 1


class Paints(NamedTuple):
    """Maps (n, 106, 106), margin included: the hue (6 for none of the world's, 7 outside the picture), the share of a
    pixel that is not ground, the share of the dark tone in that, and how far the pixel's color is from all this in RGB.
    """

    label: Tensor
    covered: Tensor
    dark: Tensor
    distance: Tensor

    def of(self, picture: Tensor, hue: Tensor) -> tuple[Tensor, Tensor]:
        """(M, w) of the gain, (k, 106, 106) each, for k pairs of a picture and a hue."""
        covered = self.covered[picture]
        own = covered * (self.label[picture] == hue[:, None, None])
        return own, 1 - covered + own

    def without_hues(self, explained: Tensor) -> Paints:
        """The same pictures with ground in place of the pixels `explained` (n, 106, 106), and one hue for all else."""
        inside = self.label != OUTSIDE
        label, nothing = torch.where(inside, 0, self.label), torch.zeros_like(self.distance)
        return Paints(label, torch.where(explained & inside, 0, self.covered), self.dark, nothing)


class Places(NamedTuple):
    """Places of objects: picture and hue (k,); kind of silhouette, phase in half pixels, top and left of the patch,
    (k,) each, or (k, 4) where a place has that many explanations, best first.
    """

    picture: Tensor
    hue: Tensor
    kind: Tensor
    phase: Tensor
    top: Tensor
    left: Tensor

    def at(self, which: Tensor) -> Places:
        """Some of the places, by index or by mask."""
        return Places(*(each[which] for each in self))

    def explained_by(self, choice: Tensor) -> Places:
        """The same places with one of their explanations each, (k,)."""
        return Places(self.picture, self.hue, *(each.gather(1, choice[:, None])[:, 0] for each in self[2:]))

    def read(self, maps: Tensor) -> Tensor:
        """Patches (k, 38, 38) of maps (n, 106, 106) of the pictures."""
        return patches(maps, self.picture, self.top, self.left)

    def drawn(self, silhouettes: Tensor) -> Tensor:
        """One of patches (10, 4, 38, 38), put into a map (106, 106) of its own for every place."""
        maps = torch.zeros(len(self.kind), SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
        lines, columns = (start[:, None] + torch.arange(PATCH) for start in (self.top, self.left))
        each = torch.arange(len(maps))[:, None, None]
        maps[each, lines[:, :, None], columns[:, None]] = silhouettes[self.kind, self.phase]
        return maps


class Silhouettes(NamedTuple):
    """Coverages T (10, 4, 38, 38) of every kind and phase; `grown` by two pixels; `edge`, the pixels beside or on their
    outline; `dark`, the dark tone's shares (10, 4, 3, 38, 38) in the three textures.
    """

    coverage: Tensor
    grown: Tensor
    edge: Tensor
    dark: Tensor


@cache
def _paint_table() -> Tensor:
    """(32^3, 4): hue, coverage and share of dark tone of the paint nearest to each color, and its distance."""
    level = torch.linspace(0, 1, _LEVELS)
    colors = torch.cartesian_prod(level, level, level)
    grid = torch.cartesian_prod(torch.linspace(0, 1, 21), torch.linspace(-0.2, 1, 13))  # below 0: a little too bright
    tone = 1 - (1 - DARK_TONE) * grid[:, 1:]
    table = torch.tensor([_NO_HUE, 1.0, 0.0]).repeat(len(colors), 1)
    least = torch.full((len(colors),), _UNKNOWN_PAINT)
    for hue, color in enumerate(COLORS):
        paints = (1 - grid[:, :1]) * torch.tensor(GROUND) + grid[:, :1] * tone * torch.tensor(BRIGHT[color])
        distance, nearest = torch.cdist(colors, paints).min(1)
        better = distance < least
        least = torch.where(better, distance, least)
        table[better] = F.pad(grid[nearest[better]].clamp_min(0), (1, 0), value=hue)
    return torch.cat([table, least[:, None]], 1)


def read_paints(pictures: Tensor) -> Paints:
    """The paints of pictures (n, 3, 64, 64) in [0, 1]."""
    red, green, blue = (pictures * (_LEVELS - 1)).round().long().unbind(1)
    label, *rest = _paint_table()[(red * _LEVELS + green) * _LEVELS + blue].unbind(-1)
    margin = [MARGIN] * 4
    covered, dark, distance = (F.pad(x, margin, value=value) for x, value in zip(rest, (1.0, 0.0, 0.0), strict=True))
    return Paints(F.pad(label, margin, value=OUTSIDE), covered, dark, distance)


def _shifted(patch: Tensor) -> Tensor:
    """(4, ...): a patch as it is, and moved by half a pixel to the right, downwards, and both."""
    right = (patch + patch.roll(1, -1)) / 2
    return torch.stack([patch, right, (patch + patch.roll(1, -2)) / 2, (right + right.roll(1, -2)) / 2])


def _grown(coverage: Tensor, pixels: int) -> Tensor:
    return F.max_pool2d(coverage, 2 * pixels + 1, 1, pixels)


@cache
def silhouettes() -> Silhouettes:
    """The world's silhouettes."""
    coverages, patterns = [], []
    for kind in KINDS:
        drawn = [template(*kind, texture) for texture in TEXTURES]
        pad = [(PATCH - len(drawn[0][0])) // 2] * 4
        coverage = _shifted(F.pad(torch.from_numpy(drawn[0][0]).float(), pad))
        dark = _shifted(F.pad(torch.stack([torch.from_numpy(c * p).float() for c, p in drawn]), pad))
        coverages.append(coverage)
        patterns.append(dark / coverage[:, None].clamp_min(1e-6))
    coverage = torch.stack(coverages)
    edge = _grown(coverage, 1) + _grown(-coverage, 1) > 0.5
    return Silhouettes(coverage, _grown(coverage, 2), edge, torch.stack(patterns))


@cache
def _kernels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gain as weights of (M, w): coarse (10, 2, 19, 19), and fine (10, 2 x 38 x 38, 81) over moves by half pixels
    (81, 2: down and right, in halves); and the share of the price (10,) that is the same everywhere.
    """
    coverage = silhouettes().coverage
    rim = silhouettes().grown - coverage
    weights = torch.stack([2 * coverage - rim, -(coverage**2) + _HIDDEN_PRICE * coverage], 2)  # (10, 4, 2, 38, 38)
    moves = torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5))
    fine = [
        weights[:, 2 * (down % 2) + right % 2].roll((down // 2, right // 2), (-2, -1)).flatten(1)
        for down, right in moves.tolist()
    ]
    price = _HIDDEN_PRICE * coverage[:, 0].sum((-2, -1))
    return 4 * F.avg_pool2d(weights[:, 0], 2), torch.stack(fine, -1), moves, price


def patches(maps: Tensor, row: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Patches (..., 38, 38) of maps (n, 106, 106), for indices of shape (...)."""
    reach = torch.arange(PATCH)
    corner = (row * maps.shape[-2] + top) * maps.shape[-1] + left
    return maps.take(corner[..., None, None] + reach[:, None] * maps.shape[-1] + reach)


def agreement(kind: Tensor, phase: Tensor, own: Tensor, known: Tensor) -> Tensor:
    """Intersection over union (...) of silhouettes, kind and phase of shape (...), and patches M, (..., 38, 38), whose
    unknown pixels (w = 0) are taken for agreeing; 0 where less than `VISIBLE` of a silhouette is known.

    At the edge, differences in coverage of up to a half are none, for blur and for moves of half a pixel; elsewhere,
    differences of up to a fifth.
    """
    world = silhouettes()
    coverage, free = world.coverage[kind, phase], torch.where(world.edge[kind, phase], 0.5, 0.2)
    difference = own - coverage
    wrong = (difference.abs() - free).clamp_min_(0) / (1 - free) * known
    excess = (wrong * (difference > 0) * (world.grown[kind, phase] > 0)).sum((-2, -1))
    missing = (wrong * (difference < 0)).sum((-2, -1))
    area, visible = coverage.sum((-2, -1)), (coverage * known).sum((-2, -1))
    return (area - missing) / (area + excess) * (visible >= VISIBLE * area)


def _search(own: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The best place for maps M and w (n, 106, 106) and its explanations: gains (n, 4), falling, -inf where a
    silhouette does not fit or lies elsewhere; and (4, n, 4): kind, phase, top, left.
    """
    coarse, fine, moves, price = _kernels()
    gain = F.conv2d(F.avg_pool2d(torch.stack([own, known], 1), 2), coarse)  # place i: the patch whose top is 2 i
    first, last = (_FIRST + CENTRE + 1) // 2, (_LAST + CENTRE) // 2
    gain = gain[..., first : last + 1, first : last + 1]
    best = gain.flatten(2).argmax(2)
    top, left = 2 * (best // gain.shape[-1] + first), 2 * (best % gain.shape[-1] + first)
    row = torch.arange(len(own))[:, None].expand_as(top)
    around = torch.stack([patches(maps, row, top, left) for maps in (own, known)], 2)
    gain, move = torch.bmm(around.flatten(2).transpose(0, 1), fine).transpose(0, 1).max(2)
    down, right = moves[move].unbind(-1)
    gain, kind = (gain - price).topk(_EXPLANATIONS)
    place = torch.stack([2 * (down % 2) + right % 2, top + down // 2, left + right // 2])
    phase, top, left = place.gather(2, kind.expand(3, -1, -1))
    row = row[:, :_EXPLANATIONS]
    fits = agreement(kind, phase, patches(own, row, top, left), patches(known, row, top, left)) >= AGREEMENT - 0.1
    gain, order = torch.where(fits, gain, -torch.inf).sort(1, descending=True)
    place = torch.stack([kind, phase, top, left]).gather(2, order.expand(4, -1, -1))
    elsewhere = ((place[2:] - place[2:, :, :1]).abs() > _NEAR).any(0)
    return gain.masked_fill(elsewhere, -torch.inf), place


def find_places(paints: Paints) -> Places:
    """Places of objects and their explanations (k, 4), picture by picture and hue by hue, the one that explains most
    first, until nothing is left.
    """
    inner = slice(MARGIN, -MARGIN)
    solid = torch.where(paints.covered > 0.5, paints.label, _NO_HUE)[:, inner, inner].flatten(1)
    counts = torch.stack([(solid == hue).sum(1) for hue in range(len(COLORS))], 1)
    picture, hue = (counts >= _LEAST_PIXELS).nonzero().unbind(1)
    own, known = paints.of(picture, hue)
    places = [torch.empty(6, 0, _EXPLANATIONS, dtype=torch.long)]
    while len(picture):
        gain, place = _search(own, known)
        place = torch.where(gain.isfinite(), place, place[:, :, :1])
        some = gain[:, 0] > 0
        picture, hue, own, known, place = picture[some], hue[some], own[some], known[some], place[:, some]
        places.append(torch.cat([torch.stack([picture, hue])[..., None].expand(-1, -1, _EXPLANATIONS), place]))
        own = own * (Places(picture, hue, *place[:, :, 0]).drawn(_grown(silhouettes().coverage, 1)) == 0)
        rest = (own > 0.5).sum((1, 2)) >= _LEAST_PIXELS
        picture, hue, own, known = picture[rest], hue[rest], own[rest], known[rest]
    picture, hue, *place = torch.cat(places, 1)
    return Places(picture[:, 0], hue[:, 0], *place).at(picture[:, 0].argsort(stable=True))
