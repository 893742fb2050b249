"""Whose features: those of a judge of the experiment, or of a published network whose weights lie on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cnd.errors import UserError
from cnd.keys import file_hash
from cnd.metrics.published import CONVENTIONS, FOLDER, TITLES, ConventionName, NetworkName, Weights
from cnd.protocols import ImageArray, Truth
from cnd.settings import Part

Extract = Callable[[ImageArray], np.ndarray]
"""From images uint8 [n, channels, height, width] to features float32 [n, n_features]."""


class FeatureSource(Part):
    """A network that sees the images."""

    kind: Any

    @property
    def name(self) -> str:
        """In names of metrics."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """For people."""
        raise NotImplementedError

    def extractor(self, truth: Truth) -> Extract:
        """The network, loaded.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        raise NotImplementedError


class JudgeFeatures(FeatureSource):
    """What one of the experiment's judges reads its classes from. No published score has these features."""

    kind: Literal["judge"] = "judge"
    judge: str | None = None  # name of the judge; None: the first one

    @property
    def name(self) -> str:
        """``judge``, with the name of one that is not the first."""
        return "judge" + (f"/{self.judge}" if self.judge else "")

    @property
    def title(self) -> str:
        """``features of the judge``."""
        return f"features of {self.judge or 'the judge'}"

    def extractor(self, truth: Truth) -> Extract:
        """Raises:
        UserError: no such judge, or one without features.
        """
        judges = truth.judges
        name = self.judge or next(iter(judges), None)
        if name is None or name not in judges:
            known = f"choose among {', '.join(judges)}" if judges else "evaluation.classifiers names none"
            raise UserError(f"evaluation.metrics: features.judge: there is no judge '{name or ''}'; {known}")
        found: Extract | None = getattr(judges[name], "features", None)
        if found is None:
            raise UserError(f"evaluation.metrics: features.judge: '{name}' gives no features; name another judge")
        return found


class PublishedFeatures(FeatureSource):
    """A network of the field's eight scores, by the sizes and the weights of a published convention."""

    kind: Literal["published"] = "published"
    network: NetworkName
    convention: ConventionName = "mindeye2"
    weights: Path | None = None  # None: the published file's name in pretrained/metrics

    @property
    def name(self) -> str:
        """``alexnet2_mindeye2``."""
        return f"{self.network}_{self.convention}"

    @property
    def title(self) -> str:
        """``AlexNet(2), MindEye2``."""
        return f"{TITLES[self.network]}, {CONVENTIONS[self.convention].title}"

    def identity(self) -> Any:
        """The content of the file decides, wherever it lies."""
        path = self.file()
        known = {"kind": self.kind, "network": self.network, "convention": self.convention}
        return known | {"weights": file_hash(path) if path.is_file() else {"missing": str(path)}}

    def published(self) -> Weights:
        """The file that the convention takes."""
        return CONVENTIONS[self.convention].weights[self.network]

    def file(self) -> Path:
        """Where it should lie."""
        return self.weights or FOLDER / self.published().file

    def missing(self) -> list[str]:
        """What is not there, or is not what it should be: scores by it are then not computed."""
        problem = self.published().problem(self.file())
        return [problem] if problem else []

    def extractor(self, truth: Truth) -> Extract:
        """Raises:
        UserError: the file cannot be read, or is of another network.
        """
        from cnd.metrics.features.networks import load_extractor

        return load_extractor(self.network, self.convention, self.file())


AnyFeatures = Annotated[JudgeFeatures | PublishedFeatures, Field(discriminator="kind")]
