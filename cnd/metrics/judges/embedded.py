"""The classifier that ships beside an embedded generator: its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cnd.keys import files_hash
from cnd.protocols import GeneratorChoice, Judge, JudgeChoice


class EmbeddedClassifier(JudgeChoice):
    """The classifier that ships beside the embedded generator."""

    kind: Literal["embedded"] = "embedded"

    def n_classes(self, generator: GeneratorChoice) -> int:
        """Those of the generator."""
        if not generator.brings_judge:
            raise ValueError(
                "evaluation.classifiers: kind 'embedded' ships with the embedded generators only; use kind 'timm'"
            )
        return len(generator.class_names())

    def of(self, generator: GeneratorChoice) -> JudgeChoice:
        """The one in the generator's folder."""
        return _Beside(folder=generator.folder() / "classifier")


class _Beside(JudgeChoice):
    kind: Literal["embedded"] = "embedded"
    folder: Path

    def identity(self) -> Any:
        return {"kind": self.kind, "files": files_hash(sorted(self.folder.iterdir()))}

    def load(self) -> Judge:
        from cnd.metrics.judges.networks import ImageClassifier

        return ImageClassifier.from_folder(self.folder)
