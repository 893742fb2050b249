"""The generator's class of each class of the data, where a file of the user's tells it (``label_map``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from cnd.errors import UserError
from cnd.protocols import GeneratorChoice

HOW = "a file that names the generator's class of each class of the data ('cat: tabby')"


def class_indices(
    generator: GeneratorChoice,
    names: Sequence[str],
    wnids: Sequence[str],
    label_map: Path | None,
    assigned: Mapping[str, int] | None = None,
) -> list[int | None]:
    """The generator's class for each class of a data set: by ``label_map``, else by name; None where neither tells.

    Args:
        assigned: by similarity (:mod:`cnd.workflow.assigned`), in place of a file.

    Raises:
        UserError: the map is malformed.
    """
    known = generator.class_indices(names, wnids)
    if assigned is not None:
        return [assigned.get(name, index) for name, index in zip(names, known, strict=True)]
    if label_map is None:
        return known
    chosen, index_of = read_label_map(label_map), places(generator)
    return [index_of[chosen[name]] if name in chosen else index for name, index in zip(names, known, strict=True)]


def read_label_map(path: Path) -> dict[str, str]:
    """``label_map`` of an experiment: a YAML or JSON mapping of text to text; ``no``, ``012`` and the like are text.

    Raises:
        UserError: the file cannot be read, or is no such mapping.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); label_map is {HOW}") from error
    nodes = root.value if isinstance(root, yaml.MappingNode) else []
    if not nodes or not all(isinstance(node, yaml.ScalarNode) for pair in nodes for node in pair):
        raise UserError(f"{path}: expected a line for each class of the data; label_map is {HOW}")
    pairs = [(key.value, value.value) for key, value in nodes]
    if twice := sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1):
        raise UserError(f"{path}: class '{twice[0]}' is there more than once; keep one line of it")
    return dict(pairs)


def places(generator: GeneratorChoice) -> dict[str, int]:
    """Index of each class of the generator, by its name and by its number."""
    names = generator.class_names()
    return {str(index): index for index in range(len(names))} | {name: index for index, name in enumerate(names)}
