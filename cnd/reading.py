"""YAML with line numbers, and pydantic's complaints as one line naming file, line, key and remedy."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cnd.errors import UserError, nearest
from cnd.registry import BROKEN

MOST_NODES, MOST_NESTED = 100_000, 50  # of a file of settings
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is five times faster, where there is one


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A YAML mapping and the line (from 1) of each key path in it.

    Raises:
        UserError: the file is missing, is no valid YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    root, content = parse_yaml(text, str(path))
    if root is None or not isinstance(content, dict):
        raise UserError(f"{path}:1: expected a mapping of settings")
    lines: dict[tuple[str, ...], int] = {}

    def visit(node: yaml.Node, at: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                where = (*at, str(key.value))
                if where in lines:
                    raise UserError(f"{path}:{key.start_mark.line + 1}: key '{'.'.join(where)}' appears twice")
                lines[where] = key.start_mark.line + 1
                visit(value, where)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*at, str(index))] = value.start_mark.line + 1
                visit(value, (*at, str(index)))

    visit(root, ())
    return content, lines


def parse_yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The nodes and the values of a YAML text.

    Args:
        where: what to name in an error.

    Raises:
        UserError: it is no valid YAML; contains itself, or has more parts than a file of settings can have, both by way
            of anchors; is nested too deeply; or has control characters, which would steer the terminal.
    """
    try:
        _check_depth(text, where)  # before what is recursive, and in C
        root = yaml.compose(text, Loader=_YamlLoader)
        _check_nodes(root, where)
        return root, yaml.load(text, Loader=_YamlLoader)  # the safe loader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # 2024-99-99 is a ValueError
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def _check_depth(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_YamlLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_NESTED:
            raise UserError(f"{where}: more than {MOST_NESTED} levels of settings; write fewer")


def _check_nodes(root: yaml.Node | None, where: str) -> None:
    n_nodes = 0

    def visit(node: yaml.Node, above: tuple[yaml.Node, ...]) -> None:
        nonlocal n_nodes
        n_nodes += 1
        at = f"{where}:{node.start_mark.line + 1}"
        if any(node is other for other in above):
            raise UserError(f"{at}: contains itself, by an anchor (&) and its alias (*); write the values out")
        if n_nodes > MOST_NODES or len(above) > MOST_NESTED:
            raise UserError(f"{at}: far too many values, by aliases (*) of aliases; write them out")
        if isinstance(node, yaml.ScalarNode):
            if bad := next(filter(_steers, str(node.value)), None):
                raise UserError(f"{at}: holds the control character {bad!r}; take it out")
            return
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                visit(inner, (*above, node))

    if root is not None:
        visit(root, ())


def _steers(c: str) -> bool:
    """Whether a character would steer a terminal or turn the direction of writing, or cannot be written at all."""
    return c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cs") or c in "\u202a\u202b\u202d\u202e\u2066\u2067")


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Names that are valid beside the last key of ``location`` (a pydantic error location, union tags included)."""
    models: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            if part in candidate.model_fields:
                inner += models_in(candidate.model_fields[part].annotation)
            elif tag(candidate) == part:
                inner.append(candidate)
        models = inner or models
    return sorted({name for candidate in models for name in candidate.model_fields})


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in models_in(inner)]


def tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return str(field.default) if field is not None else None


def explain(error: ValidationError, model: type[BaseModel], where: Any) -> UserError:
    """Turn pydantic's first complaint into one line.

    Args:
        where: function from a key path (tuple) to what the user typed, such as ``file.yaml:12``.
    """
    # A misspelt key is reported as missing and as unknown: the second says what to do.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = tuple(str(part) for part in first["loc"])
    path = _without_tags(model, location)
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        problem = f"unknown key '{key}'{nearest(path[-1], _fields_at(model, location))}"
    elif first["type"] == "missing":
        problem = f"key '{key}' is missing; add it"
    elif first["type"] == "union_tag_not_found":
        problem = f"key '{key}.kind' is missing; add it, one of: {first['ctx'].get('expected_tags', '')}"
    else:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        value = first["input"]
        shown = f" = {value!r}" if isinstance(value, (str, int, float, bool, list)) else ""
        must = "" if first["type"] == "value_error" else "must be "
        problem = f"{key}{shown}: {must}{message}" if key else message
    if first["type"] == "union_tag_invalid":
        problem += "".join(f"; {name} cannot be used: {reason}" for name, reason in BROKEN.items())
    return UserError(f"{where(path)}: {problem}")


def _without_tags(model: type[BaseModel], location: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the union tags that pydantic mixes into an error location."""
    path: list[str] = []
    models: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [m for m in models if tag(m) == part and part not in m.model_fields]
        if tagged and len(models) > 1:
            models = tagged
            continue
        path.append(part)
        models = [m for c in models if part in c.model_fields for m in models_in(c.model_fields[part].annotation)]
    return tuple(path)
