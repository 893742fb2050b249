"""YAML with line numbers, and pydantic's complaints as one line naming file, line, key and remedy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from cnd.errors import UserError, nearest
from cnd.registry import BROKEN

MOST_NODES, MOST_NESTED = 100_000, 50  # of a file of settings
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is five times faster, where there is one
_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7]+|0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""What words without quotes mean, and how they begin. As in YAML 1.2: by version 1.1 ``no`` was false, ``010`` was 8,
``1:30`` was 90 and ``2020-01-01`` a date. Here they are text, of which a setting makes a number or a truth value if it
needs one, and else says so."""
NOT_PLAIN = re.compile(r"(?i:yes|no|on|off)|[-+]?0[0-9]+|[-+]?[0-9]+(?::[0-9]+)+")


class _YamlLoader(_Base):  # type: ignore[misc]
    """The safe loader with :data:`_PLAIN`."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (f"{_TAG}{n}" for n in (*_PLAIN, "timestamp"))]
        for first, known in _Base.yaml_implicit_resolvers.items()
    }


for _name, (_pattern, _first) in _PLAIN.items():
    _YamlLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})$"), list(_first))


def refuse_words(value: Any) -> None:
    """Refuse text that some programs read as a number or a truth value, where nothing says which of them is meant.

    Raises:
        ValueError: ``no``, ``010``, ``1:30`` and such.
    """
    if isinstance(value, str) and NOT_PLAIN.fullmatch(value):
        raise ValueError(f"'{value}' is text here; write true or false, or a number without leading 0 or colons")


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
    if "\0" in text:
        raise UserError(f"{path}: is not UTF-8 text (byte {text.index(chr(0))}); save it as UTF-8")
    root, content = parse_yaml(text.removeprefix("\ufeff"), str(path))
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
    elif first["type"] == "union_tag_invalid":
        kinds = re.findall(r"'([^']*)'", first["ctx"]["expected_tags"])
        problem = (
            f"{key}.kind = '{first['ctx']['tag']}': there is no such kind{nearest(str(first['ctx']['tag']), kinds)}"
        )
        if "did you mean" in problem:
            problem += f" There are: {', '.join(kinds)}"
        problem += "".join(f"; {name} cannot be used: {reason}" for name, reason in BROKEN.items())
    else:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        value = first["input"]
        shown = f" = {value!r}" if isinstance(value, (str, int, float, bool, list)) else ""
        must = "" if first["type"] == "value_error" else "must be "
        message = _WANTED.get(first["type"], lambda _: message)(value)
        problem = f"{key}{shown}: {must}{message}" if key else message
    return UserError(f"{where(path)}: {problem}")


def _a_list(value: Any) -> str:
    return f"a list, e.g. {yaml.dump([value], default_flow_style=True, width=10**6, Dumper=yaml.SafeDumper).strip()}"


def _a_mapping(value: Any) -> str:
    return "a mapping of settings" + (f", e.g. {{kind: {value}}}" if isinstance(value, str) else "")


def _text(value: Any) -> str:
    told = str(value).lower() if isinstance(value, bool) else value
    return "text" + (f": put it in quotes, '{told}'" if isinstance(value, (bool, int, float)) else "")


_WANTED: dict[str, Callable[[Any], str]] = {
    "tuple_type": _a_list,
    "list_type": _a_list,
    "dict_type": _a_mapping,
    "model_type": _a_mapping,
    "model_attributes_type": _a_mapping,
    "string_type": _text,
    "path_type": lambda value: "a path",
}
"""What must stand in a place, with what stands there as an example, by the kind of pydantic's complaint."""


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
