"""Which generators there are, for ``python -m cnd.generators list``. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from cnd import registry
from cnd.protocols import GeneratorChoice

LABELS = """Data with other classes than a generator's:
  images, ImageNet generator    nothing: a classifier tells the class of each photograph
  images, embedded generator    label_map=FILE (class of the data: class of the generator) and evaluation.truth=label
  labels without images         as the generator names its classes (ImageNet: also by WordNet id), or label_map=FILE
  images that none can draw     no generator: decoder.kind ridge_pixels, ss_ae or nearest_training_image"""


def lines() -> list[str]:
    """What to print: one paragraph a generator, then what each can do with labels of its own."""
    found = []
    for choice in choices():
        names = choice.class_names()
        missing = choice.missing()
        found += [
            f"{' '.join(f'generator.{key}={value}' for key, value in _chosen_by(choice))}",
            f"  classes   {len(names)}: {', '.join(names[:3])}, ...",
            f"  images    {_drawn(choice)}",
            f"  licence   {choice.licence}",
            f"  here      {'yes' if not missing else missing[0]}",
        ]
    return [*found, "", LABELS]


def choices() -> Iterator[GeneratorChoice]:
    """Every kind that is registered, the user's own included; of a kind with several names each."""
    for part in registry.classes("cnd.generators").values():
        name = part.model_fields.get("name")
        names = get_args(name.annotation) if name is not None else ()
        for settings in [{"name": value} for value in names] or [{}]:
            yield part.model_validate(settings)  # type: ignore[misc]


def _chosen_by(choice: GeneratorChoice) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in choice.model_dump(mode="json").items() if value is not None]


def _drawn(choice: GeneratorChoice) -> str:
    form = choice.image_form()
    if form is None:
        return "not stated"
    channels, size = form
    return f"{size}x{size} {'grey' if channels == 1 else 'RGB'}"
