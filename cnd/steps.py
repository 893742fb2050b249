"""A step: one computation, what it starts from, and the key that its result is kept under.

A key names everything a result depends on: the settings, the content of the files they name, the keys of the steps
it needs, and the code that runs. The code follows from the modules of the function and of the settings' classes by
their imports (:func:`cnd.keys.code_hash`); nobody lists it. Rows that share a step therefore share its key, and a new
decoder changes no other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cnd.keys import code_hash, content_hash
from cnd.settings import Config

FORMAT = 2
"""Of what is kept on disk; a change leaves all earlier results alone."""


@dataclass(frozen=True, eq=False)
class Step:
    """One computation.

    Attributes:
        name: of the kind of result; the folder that the cache keeps it in.
        make: ``make(bench, folder, **settings, **needs)`` writes the result into a folder; where it is not kept,
            ``make(bench, **settings, **needs)`` returns it. ``bench`` is a :class:`cnd.protocols.Bench`. Arguments that
            a ``functools.partial`` fixes identify nothing and enter no key.
        settings: by name: settings objects, tuples of them, or JSON values.
        needs: by name: the steps it starts from; None where there is none.
        load: ``load(bench, folder, **settings, **needs)`` reads what ``make`` wrote; None: the folder itself.
        kept: False for what is quicker to make than to read, such as an edit of data.
    """

    name: str
    make: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Step | None] = field(default_factory=dict)
    load: Callable[..., Any] | None = None
    kept: bool = True

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the key is made of, as JSON values; the cache keeps it beside the result."""
        return {
            "format": FORMAT,
            "settings": {name: _identity(value) for name, value in self.settings.items()},
            "needs": {name: step and step._described() for name, step in self.needs.items()},
            "code": code_hash(*sorted({_module_of(self.make), *_modules(list(self.settings.values()))})),
        }

    def _described(self) -> dict[str, Any]:
        """Name and key; of a step that is not kept also what it needs, since no file of its own would tell."""
        described: dict[str, Any] = {"name": self.name, "key": self.key}
        return described if self.kept else described | {"needs": self.inputs["needs"]}

    @cached_property
    def key(self) -> str:
        """Content hash of everything that the result depends on."""
        return content_hash({"step": self.name, **self.inputs})

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``make`` and ``load``."""
        return {**self.settings, **self.needs}


def upstream(step: Step) -> Iterator[Step]:
    """The kept steps that a step needs, directly or not, in order of computation, each once; itself last."""
    met: set[tuple[str, str]] = set()

    def visit(at: Step) -> Iterator[Step]:
        if (at.name, at.key) in met:
            return
        met.add((at.name, at.key))
        for need in at.needs.values():
            if need is not None:
                yield from visit(need)
        if at.kept:
            yield at

    yield from visit(step)


def _identity(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    return [_identity(item) for item in value] if isinstance(value, tuple | list) else value


def _module_of(make: Callable[..., Any]) -> str:
    """Of a function, or of the one inside a ``functools.partial``, whose arguments then enter no key."""
    return str(getattr(make, "func", make).__module__)


def _modules(value: Any) -> set[str]:
    """Modules of the classes of settings objects, wherever they stand inside one another."""
    if isinstance(value, Config):
        inner = [getattr(value, name) for name in type(value).model_fields]
        return {type(value).__module__} | _modules(inner)
    if isinstance(value, tuple | list):
        return {module for item in value for module in _modules(item)}
    return set()
