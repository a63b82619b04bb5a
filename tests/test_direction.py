"""Which part of the house may know which, how large each may be, and that no module knows in which world it is."""

import ast
import io
import tokenize

import pytest

from lab.paths import repository_root

ROOT = repository_root()
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for part in ("rfmi", "lab")
    for path in sorted((ROOT / part).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
WALLS = {
    "rfmi": ("lab",),
    "lab.paths": ("rfmi", "lab"),
    "lab.oracles": ("lab.worlds", "lab.study", "lab.making", "lab.benchmarks"),
    "lab.worlds": ("lab.oracles", "lab.study", "lab.making", "lab.benchmarks"),
    "lab.making": ("lab.oracles", "lab.study", "lab.benchmarks"),
    "lab.study": ("lab.making", "lab.benchmarks"),
}


def inside(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def imports_of(name: str) -> set[str]:
    """The modules of the house that a module imports, wherever in it the import stands."""
    named = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports by dots"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {part if part in FILES else node.module for part in parts}
    return named & FILES.keys()


IMPORTS = {name: imports_of(name) for name in FILES}


@pytest.mark.parametrize("part", WALLS)
def test_imports_run_in_one_direction(part):
    wrong = [
        (name, other)
        for name in FILES
        if inside(name, part)
        for other in IMPORTS[name]
        if any(inside(other, wall) for wall in WALLS[part])
    ]
    assert wrong == []


def test_no_import_runs_in_a_circle():
    left = dict(IMPORTS)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_neither_the_instrument_nor_the_study_knows_a_world():
    packages = [name for name, path in FILES.items() if path.name == "__init__.py"]
    worlds = {name.split(".")[2] for name in packages if name.startswith("lab.worlds.")}
    strangers = [name for name in FILES if inside(name, "rfmi") or inside(name, "lab.study")]
    said = [
        (name, node.value)
        for name in strangers
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in worlds
    ]
    imported = [
        (name, other)
        for name in strangers
        for other in IMPORTS[name]
        if any(inside(other, f"lab.worlds.{world}") for world in worlds)
    ]
    assert "shapes" in worlds
    assert said == []
    assert imported == []


def lines_of_code(text: str) -> int:
    """Lines that hold more than a comment or a docstring, and are no part of an import or of a `raise`."""
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        text_alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text_alone or isinstance(node, ast.Import | ast.ImportFrom | ast.Raise):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_lines_of_code_are_counted_as_said():
    begin = '"""Said."""\nimport a\n\n# why\ndef f(x):\n    """Said."""\n'
    assert lines_of_code(begin + "    if x:\n        raise E(\n            1\n        )\n    return x\n") == 3


@pytest.mark.parametrize(("part", "limit"), [("rfmi", 6240), ("lab", 9000), ("lab.study", 1620)])
def test_the_parts_stay_small(part, limit):
    """Lines in all; rfmi has at most 3,000 of code besides, the rest says what arguments are and what is refused."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items() if inside(name, part)}
    assert sum(text.count("\n") for text in texts.values()) <= limit
    assert part != "rfmi" or sum(map(lines_of_code, texts.values())) <= 3265
