"""What a result is computed by, as a hash: the source of a function of the notebook and of those it names there; the
plain values it names; the modules of the functions and classes of `rfmi` and `lab` that it names; the modules that the
caller adds, with all that is in a package. Comments, docstrings and layout do not count.
"""

import ast
import dis
import hashlib
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lab.paths import repository_root
from rfmi.files import plain

OWN_PACKAGES = ("rfmi", "lab")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Two equal values give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def code_version(*modules: Any) -> str:
    """The hash of modules or their names, of a package every module in it; of worlds, by their `sources` and `identity`;
    of other files, by their paths in the checkout, as "data/base_model/checksums.json".
    """
    sources = {}
    for module in modules:
        if isinstance(module, str) and "/" in module:
            sources[module] = hashlib.sha256((repository_root() / module).read_bytes()).hexdigest()
        elif hasattr(module, "sources"):
            sources[module.name] = [code_version(*module.sources), getattr(module, "identity", {})]
        else:
            module = importlib.import_module(module) if isinstance(module, str) else module
            file = Path(module.__file__)
            for path in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
                name = f"{module.__name__}:{path.relative_to(file.parent).as_posix()}"
                sources[name] = bare(path.read_text(encoding="utf-8"))
    return digest(sources)[:16]


def bare(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


class Meaning:
    """What a function's result is computed by: texts by name, and modules, `uses` among them.

    strict: whether a value that no text can stand for is refused
    """

    def __init__(self, function: Callable[..., Any], uses: Iterable[Any], strict: bool) -> None:
        self.texts: dict[str, str] = {}
        self.modules: dict[str, Any] = {getattr(each, "__name__", str(each)): each for each in uses}
        self.strict, self.home = strict, getattr(function, "__module__", None)
        self.add(getattr(function, "__name__", "function"), function)

    def version(self) -> str:
        """The hash of all of it."""
        return digest([self.texts, code_version(*(self.modules[name] for name in sorted(self.modules)))])[:16]

    def add(self, name: str, value: Any) -> None:
        """Add a value that is named in the code, and all that it names in turn."""
        value = inspect.unwrap(value) if callable(value) else value
        home = getattr(value, "__module__", None) or ""
        if isinstance(value, ModuleType):
            return
        if isinstance(value, partial):
            self.add(f"{name}.func", value.func)
            self.add(f"{name}.arguments", [value.args, value.keywords])
        elif isinstance(value, FunctionType | type):
            if home == "__main__":
                self.add_source(name, value)
            elif home == self.home or home.split(".")[0] in OWN_PACKAGES:
                self.modules[home] = sys.modules[home]
        elif hasattr(value, "sources"):
            self.modules[name] = value
        elif not callable(value):
            self.add_value(name, asdict(value) if is_dataclass(value) else value)

    def add_source(self, name: str, value: FunctionType | type) -> None:
        """Add a function or class of the notebook and what its code names."""
        if name in self.texts:
            return
        try:
            self.texts[name] = bare(inspect.getsource(value))
        except (OSError, SyntaxError) as error:  # a lambda within a call is no statement of its own
            if self.strict:
                raise ValueError(f"the source of {name} cannot be read; define it with `def` in a cell") from error
            self.texts[name] = value.__code__.co_code.hex() if isinstance(value, FunctionType) else name
        if isinstance(value, type):
            return
        self.add_value(f"{name}.defaults", [value.__defaults__, value.__kwdefaults__])
        read = names_read(value.__code__, "LOAD_GLOBAL", "LOAD_NAME") & value.__globals__.keys()
        attributes = names_read(value.__code__, "LOAD_ATTR", "LOAD_METHOD")
        names = inspect.getclosurevars(value).nonlocals | {each: value.__globals__[each] for each in read}
        for each, item in names.items():
            self.add(each, item)
            if isinstance(item, ModuleType) and item.__name__.split(".")[0] in OWN_PACKAGES:
                for attribute in attributes & set(dir(item)):
                    self.add(f"{each}.{attribute}", getattr(item, attribute))

    def add_value(self, name: str, value: Any) -> None:
        """Add a plain value."""
        try:
            self.texts[name] = canonical(value)
        except (TypeError, ValueError) as error:
            if self.strict:
                raise TypeError(
                    f"{name} is a {type(value).__name__}, which the key of a unit cannot hold; make it a parameter of "
                    "plain values, or make it within the function"
                ) from error
            self.texts[name] = type(value).__name__


def names_read(code: CodeType, *operations: str) -> set[str]:
    """The names that a function, and the functions in it, read by these operations."""
    inner = [names_read(constant, *operations) for constant in code.co_consts if isinstance(constant, CodeType)]
    own = {each.argval for each in dis.get_instructions(code) if each.opname in operations}
    return own.union(*inner)
