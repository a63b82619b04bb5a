"""The vocabulary of the world: what an object can be, what can hold between two, and what is kept for validation."""

SHAPES = ("circle", "square", "triangle", "cross", "diamond")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses", "diamond": "diamonds"}
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
TEXTURES = ("solid", "striped", "dotted")
SIZES = ("small", "large")
COUNTS = ("one", "two", "three", "four")

RELATIONS = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "below": "below",
    "front": "in front of",
    "behind": "behind",
    "bigger": "bigger than",
    "smaller": "smaller than",
    "same_color": "of the same color as",
    "different_color": "of a different color than",
}
_KEYS = tuple(RELATIONS)
OPPOSITE = {a: b for i in range(0, len(_KEYS), 2) for a, b in (_KEYS[i : i + 2], _KEYS[i : i + 2][::-1])}
RELATIONS_OF = {
    "spatial": ("left", "right", "above", "below"),
    "3d_spatial": ("front", "behind"),
    "non_spatial": ("bigger", "smaller", "same_color", "different_color"),
}
CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")

# Attribute pairs that are rare in training: how often a prompt names one, by how often it names any other pair.
RARE = {
    ("red", "triangle"): 0.001,
    ("striped", "square"): 0.0025,
    ("blue", "cross"): 0.005,
    ("dotted", "triangle"): 0.01,
    ("yellow", "diamond"): 0.025,
}

WORDS = frozenset(
    [*SHAPES, *PLURALS.values(), *COLORS, *TEXTURES, *SIZES, *COUNTS, "a", "and", ","]
    + [word for relation in RELATIONS.values() for word in relation.split()]
)
