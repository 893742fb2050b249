"""Hashes: of JSON values, of files, and of the code that a module runs."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

TELLS = (
    "cnd", "cnd.errors", "cnd.json_files", "cnd.registry", "cnd.generators.pipeline", "cnd.decoders.affine",
    "cnd.decoders.affine_map",
)  # fmt: skip
"""Modules that only state the version, word messages, write files, list the parts or export: editing one changes no
result. Were one missing here, results would be made again for nothing; none can be wrong."""


def content_hash(content: Any) -> str:
    """32 hex digits (128 bits) of SHA-256 of JSON values; the order of a mapping's keys does not matter.

    Raises:
        TypeError: something in it is no JSON value.
        ValueError: a number is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. A file of unchanged time and size is read once in a process."""
    status = path.stat()
    return _known_file_hash(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16384)  # a data set may have one image a file
def _known_file_hash(path: Path, modified: int, size: int) -> str:
    return read_and_hash(path)


def read_and_hash(path: Path) -> str:
    """As :func:`file_hash`, always read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_hash(files: Iterable[Path]) -> str:
    """Hash of the names and the content of files, in this order."""
    return content_hash([[path.name, file_hash(path)] for path in files])


# ---------------------------------------------------------------- code


@lru_cache(maxsize=256)
def code_hash(*modules: str) -> str:
    """Hash of all that modules run: their code, and that of every module of their packages that they import.

    Imports inside functions count; those for type checkers and names in strings do not. Comments, docstrings, layout
    and assertions do not count. Compiled code is hashed, which differs between versions of Python too.

    Args:
        modules: dotted names, e.g. ``cnd.decoders.ridge``. Imports are followed into their packages and into ``cnd``.
    """
    return content_hash([[name, module_hash(name)] for name in sorted(closure(modules))])


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and what they import, directly or not, within their own packages and ``cnd``."""
    modules = list(modules)
    roots = {"cnd", *(name.partition(".")[0] for name in modules)}
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name in TELLS:
            continue
        found.add(name)
        waiting += [imported for imported in _imports(name) if imported.partition(".")[0] in roots]
    return found


@lru_cache(maxsize=1024)
def _imports(name: str) -> tuple[str, ...]:
    """Modules that a module imports, with the packages that hold them (their ``__init__`` runs too)."""
    file = source_file(name)
    if file is None:
        return ()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    named: list[str] = [name.rpartition(".")[0]]
    for node in _nodes(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            named += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    parents = {".".join(parts[: i + 1]) for parts in (n.split(".") for n in named if n) for i in range(len(parts))}
    return tuple(sorted(n for n in parents if source_file(n) is not None))


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING:``, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from _nodes(ast.Module(node.orelse, []))
            continue
        yield node
        if not isinstance(node, ast.expr):  # no expression holds an import
            yield from _nodes(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


@lru_cache(maxsize=4096)
def source_file(name: str) -> Path | None:
    """The Python file of a module; None where it is none, or not written in Python."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin
    if origin.name != "__init__.py":
        return None
    place = origin.parent.joinpath(*rest)
    return next((p for p in (place / "__init__.py", place.with_name(f"{place.name}.py")) if p.is_file()), None)


@lru_cache(maxsize=1024)
def module_hash(name: str) -> str:
    """Hash of one module's own code."""
    file = source_file(name)
    if file is None:
        return "not Python"
    # compiling drops comments, docstrings and assertions by itself
    return _of_code(compile(file.read_bytes(), "", "exec", dont_inherit=True, optimize=2))


def _of_code(code: CodeType) -> str:
    fixed = (code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    exceptions = getattr(code, "co_exceptiontable", b"")
    constants = [_of_constant(constant) for constant in code.co_consts]
    return hashlib.sha256(repr((fixed, names, code.co_code, exceptions, constants)).encode()).hexdigest()


def _of_constant(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _of_code(constant)
    if isinstance(constant, tuple):
        return repr([_of_constant(item) for item in constant])
    if isinstance(constant, frozenset):  # its order differs from process to process
        return repr(sorted(_of_constant(item) for item in constant))
    return repr(constant)
