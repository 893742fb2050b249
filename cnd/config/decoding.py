"""What turns decoded conditions into images and scores: generator, sampling, judges, and which decoder runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnd.settings import Config, Positive, Rate


class EmbeddedGenerator(Config):
    """A small latent diffusion model whose weights ship with the package."""

    kind: Literal["embedded"] = "embedded"
    name: Literal["simulated", "digits"] = "simulated"


class LdmGenerator(Config):
    """cin256-v2 (Rombach et al. 2022), converted to a diffusers folder by ``python -m cnd.generators convert``."""

    kind: Literal["ldm"] = "ldm"
    path: Path | None = None


class DitGenerator(Config):
    """DiT-XL/2-256 (Peebles & Xie 2023). It has no cross-attention, so the condition replaces the class vector: this is
    another method, and labelled so."""

    kind: Literal["dit"] = "dit"
    path: Path | None = None  # folder of a DiTPipeline


GeneratorConfig = Annotated[EmbeddedGenerator | LdmGenerator | DitGenerator, Field(discriminator="kind")]


class SamplingConfig(Config):
    """DDIM sampling of the test items (sec. 4.2, 5.2)."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 250
    guidance: Annotated[float, Field(ge=1)] = 1.0  # classifier-free guidance; 1 is none
    samples_per_item: Positive = 5
    batch_size: Positive = 50


class EmbeddedClassifier(Config):
    """The classifier that ships beside the embedded generator."""

    kind: Literal["embedded"] = "embedded"


class TimmClassifier(Config):
    """Any ImageNet-1K model of timm."""

    kind: Literal["timm"] = "timm"
    name: str = "vit_base_patch16_224"
    weights: Path | None = None  # .safetensors; None: the weights installed or cached on this machine


ClassifierConfig = Annotated[EmbeddedClassifier | TimmClassifier, Field(discriminator="kind")]


class EvaluationConfig(Config):
    """n-way top-1 accuracy (sec. 4.3, Algorithm 1)."""

    n_way: tuple[Annotated[int, Field(ge=2)], ...] = (50, 100)  # the first one is the table's score
    top_k: Positive = 1
    truth: Literal["classifier", "label"] = "classifier"  # true class: F's top-1 on the image, or the label
    classifiers: tuple[ClassifierConfig, ...] = (EmbeddedClassifier(),)  # the first one gives the table's score

    @model_validator(mode="after")
    def _not_empty(self) -> EvaluationConfig:
        if not self.n_way:
            raise ValueError("n_way must name at least one number of classes")
        if self.top_k >= min(self.n_way):
            raise ValueError("top_k must be smaller than every n_way")
        if not self.classifiers:
            raise ValueError("classifiers must name at least one")
        names = [getattr(classifier, "name", classifier.kind) for classifier in self.classifiers]
        if len(set(names)) < len(names):
            raise ValueError("classifiers must have different names: scores are kept by name")
        return self


class CndDecoder(Config):
    """The paper's two phases."""

    kind: Literal["cnd"] = "cnd"


class RidgeDecoder(Config):
    """Control: ridge from voxels into the concept bank, then the same frozen generator."""

    kind: Literal["ridge"] = "ridge"
    alphas: tuple[Rate, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories


class OracleDecoder(Config):
    """Control: the true class conditions the generator; what the generator and the judge allow at best."""

    kind: Literal["oracle"] = "oracle"


DecoderConfig = Annotated[CndDecoder | RidgeDecoder | OracleDecoder, Field(discriminator="kind")]
