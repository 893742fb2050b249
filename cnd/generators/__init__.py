"""Frozen latent diffusion models behind one interface (:class:`cnd.protocols.Generator`).

The only part of the package that imports diffusers. Only :func:`load` needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd import imagenet
from cnd.cache import file_hash
from cnd.config import DitGenerator, EmbeddedGenerator, GeneratorConfig
from cnd.errors import UserError

if TYPE_CHECKING:
    from cnd.generators.latent_diffusion import LatentDiffusion

WEIGHTS = Path(__file__).parent / "weights"

# How a folder comes to be; {path} is where.
LDM_SETUP = (
    "Download https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt (1.8 GB) and run "
    "'python -m cnd.generators convert model.ckpt --output {path}'."
)
DIT_SETUP = "Run 'hf download facebook/DiT-XL-2-256 --local-dir {path}' (3 GB)."

# What a folder must hold; its models have weights beside their config.json.
_LDM_FILES: tuple[str, ...] = (
    "unet/config.json",
    "class_embedding.safetensors",
    "vae/config.json",
    "scheduler/scheduler_config.json",
)
_DIT_FILES: tuple[str, ...] = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def missing(config: GeneratorConfig) -> str | None:
    """What is missing, where to get it and where to put it, in one line; None where everything is there."""
    if isinstance(config, EmbeddedGenerator):
        return None
    if isinstance(config, DitGenerator):
        name, setup, files = "DiT-XL-2-256", DIT_SETUP, _DIT_FILES
    else:
        name, setup, files = "cin256-v2", LDM_SETUP, _LDM_FILES
    if config.path is None:
        path = Path("weights") / name
        return f"generator.path is not set. {setup.format(path=path)} Then set generator.path={path}."
    setup = setup.format(path=config.path)
    if not config.path.is_dir():
        found = "is a file, expected a folder" if config.path.exists() else "no such folder"
        return f"generator.path: {config.path}: {found}; it should hold {name}. {setup}"
    absent = [file for file in files if not (config.path / file).is_file()]
    models = [Path(file).parent for file in files if file.endswith("/config.json")]
    absent += [f"{model}/*.safetensors" for model in models if not _has_weights(config.path / model)]
    return f"generator.path: {config.path}: no '{absent[0]}', so it does not hold {name}. {setup}" if absent else None


def _has_weights(model: Path) -> bool:
    return any(path.suffix in {".safetensors", ".bin"} for path in model.glob("*"))


def folder(config: GeneratorConfig) -> Path:
    """Folder of the generator's weights, in diffusers format.

    Raises:
        UserError: it is not there.
    """
    if isinstance(config, EmbeddedGenerator):
        return WEIGHTS / config.name
    problem = missing(config)
    if problem is not None or config.path is None:
        raise UserError(problem or "generator.path is not set")
    return config.path


def fingerprint(config: GeneratorConfig, planned: bool = False) -> dict[str, Any]:
    """Content hash of every file that decides what the generator computes.

    Args:
        planned: count a folder that is not there by its name.

    Raises:
        UserError: the folder is not there, and it is not only a plan.
    """
    if planned and missing(config) is not None:
        return config.model_dump(mode="json")
    return dict(_file_hashes(config))


@lru_cache  # the plan asks for every trial and fold
def _file_hashes(config: GeneratorConfig) -> dict[str, str]:
    root = folder(config)
    files = sorted(p for p in root.rglob("*") if p.suffix in {".json", ".safetensors", ".bin"})
    names = {p: str(p.relative_to(root)) for p in files}
    return {name: file_hash(p) for p, name in names.items() if p.name != "training.json" and not name.startswith(".")}


def class_names(config: GeneratorConfig) -> list[str]:
    """Names of the classes in the concept bank, in its order."""
    if isinstance(config, EmbeddedGenerator):
        return list(json.loads((folder(config) / "classes.json").read_text(encoding="utf-8")))
    return list(imagenet.class_names())


def class_indices(config: GeneratorConfig, names: Sequence[str], wnids: Sequence[str] = ()) -> list[int | None]:
    """The generator's class for each class of a data set; None for one that it does not have.

    Args:
        names: of the data set's classes, as the generator calls them.
        wnids: their WordNet ids, where they are known; the classes of ImageNet are found by these first.
    """
    if isinstance(config, EmbeddedGenerator):
        wnids = ()
    by_name = {name: index for index, name in enumerate(class_names(config))}
    by_wnid = imagenet.class_indices(wnids) if wnids else [None] * len(names)
    return [by_name.get(name) if index is None else index for name, index in zip(names, by_wnid, strict=True)]


def load(config: GeneratorConfig) -> LatentDiffusion:
    """The generator, frozen and in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    root = folder(config)
    if isinstance(config, EmbeddedGenerator):
        from cnd.generators.latent_diffusion import LatentDiffusion

        return LatentDiffusion.from_folder(root)
    if isinstance(config, DitGenerator):
        from cnd.generators.dit import DiffusionTransformer

        return DiffusionTransformer.from_folder(root)
    from cnd.generators.ldm import VqLatentDiffusion

    return VqLatentDiffusion.from_folder(root)
