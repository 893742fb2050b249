"""Which kinds of a part there are: those of this package, and those of installed packages of the user's.

A package adds kinds by entry points, ``[project.entry-points."cnd.decoders"]`` with a line ``name = "module:Class"``.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Union

from pydantic import Field

from cnd.settings import Part

BUILT_IN: dict[str, tuple[str, ...]] = {
    "cnd.decoders": (
        "cnd.decoders.cnd.decoder:CndDecoder",
        "cnd.decoders.dc_ldm:DcLdmDecoder",
        "cnd.decoders.ridge:RidgeDecoder",
        "cnd.decoders.ridge_latents:RidgeLatentsDecoder",
        "cnd.decoders.ridge_pixels:RidgePixelsDecoder",
        "cnd.decoders.linear_contrastive:LinearContrastiveDecoder",
        "cnd.decoders.oracle:OracleDecoder",
        "cnd.decoders.free_condition:FreeConditionDecoder",
        "cnd.decoders.stimulus:StimulusDecoder",
        "cnd.decoders.mean_condition:MeanConditionDecoder",
        "cnd.decoders.random_class:RandomClassDecoder",
        "cnd.decoders.nearest_training_image:NearestTrainingImageDecoder",
        "cnd.decoders.external:ExternalDecoder",
        "cnd.decoders.ss_ae.decoder:SsAeDecoder",
        "cnd.decoders.icgan.decoder:IcGanDecoder",
    ),
    "cnd.metrics": (
        "cnd.metrics.nway:NWay",
        "cnd.metrics.accuracy:Accuracy",
        "cnd.metrics.pixels:PixelCorrelation",
        "cnd.metrics.pixels:StructuralSimilarity",
        "cnd.metrics.identification:Identification",
        "cnd.metrics.features.comparison:TwoWayIdentification",
        "cnd.metrics.features.comparison:FeatureDistance",
        "cnd.metrics.features.comparison:Retrieval",
    ),
    "cnd.data": (
        "cnd.data.simulated:SimulatedData",
        "cnd.data.digits69:Digits69Data",
        "cnd.data.miyawaki:MiyawakiData",
        "cnd.data.god:GodData",
        "cnd.data.bold5000:Bold5000Data",
        "cnd.data.folder:FolderData",
        "cnd.data.stimuli_folder:StimuliData",
    ),
    "cnd.pools": ("cnd.data.hcp:HcpPool", "cnd.data.subject_pool:SubjectPool"),
    "cnd.generators": (
        "cnd.generators.embedded:EmbeddedGenerator",
        "cnd.generators.ldm:LdmGenerator",
        "cnd.generators.dit:DitGenerator",
    ),
    "cnd.judges": ("cnd.metrics.judges.embedded:EmbeddedClassifier", "cnd.metrics.judges.timm:TimmClassifier"),
}
"""The classes of this package by group; a new one is a line here."""

BROKEN: dict[str, str] = {}
"""Parts of the user's packages that cannot be used, and why, by ``group: name``."""


@cache
def classes(group: str) -> dict[str, type[Part]]:
    """The classes of a group by kind.

    What is wrong with a part of the user's stands in :data:`BROKEN`.
    """
    kinds: dict[str, type[Part]] = {}
    for target in BUILT_IN[group]:
        _add(kinds, load(target))
    for point in entry_points(group=group):
        try:
            _add(kinds, point.load())
        except Exception as error:  # whatever is wrong with a foreign package must not stop what does not use it
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            BROKEN[f"{group}: {point.name}"] = f"{point.value}: {reason}"
    return kinds


def _add(kinds: dict[str, type[Part]], part: Any) -> None:
    if not (isinstance(part, type) and issubclass(part, Part) and "kind" in part.model_fields):
        raise TypeError(f"{part!r} is no settings class with a field 'kind' (cnd.settings.Part)")
    kind = str(part.model_fields["kind"].default)
    if kind in kinds:
        raise TypeError(f"kind '{kind}' is taken by {kinds[kind].__module__}; give it another")
    kinds[kind] = part


def union(group: str) -> Any:
    """The annotation of a field that holds any part of a group, told apart by ``kind``."""
    found = tuple(classes(group).values())
    return Annotated[Union[found], Field(discriminator="kind")] if len(found) > 1 else found[0]  # noqa: UP007


def find(group: str, kind: str) -> type[Part]:
    """The class of one kind.

    Raises:
        KeyError: there is none.
    """
    return classes(group)[kind]


def load(target: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
