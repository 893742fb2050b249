"""Frozen latent diffusion models behind one interface (:class:`cnd.protocols.Generator`).

The only part of the package that imports diffusers. :func:`missing`, :func:`fingerprint` and :func:`plan_fingerprint`
need no torch.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.cache import file_hash
from cnd.config import DitGenerator, EmbeddedGenerator, GeneratorConfig
from cnd.errors import UserError

if TYPE_CHECKING:
    from cnd.generators.latent_diffusion import LatentDiffusion

WEIGHTS = Path(__file__).parent / "weights"

LDM_SETUP = (
    "Download https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt (1.8 GB), run "
    "'python -m cnd.generators convert model.ckpt --output pretrained/cin256-v2' and set "
    "generator.path=pretrained/cin256-v2."
)
DIT_SETUP = (
    "Run 'hf download facebook/DiT-XL-2-256 --local-dir pretrained/DiT-XL-2-256' (3 GB) and set "
    "generator.path=pretrained/DiT-XL-2-256."
)

# What a folder must hold, besides its weights.
_LDM_FILES: tuple[str, ...] = (
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "class_embedding.safetensors",
)
_DIT_FILES = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def missing(config: GeneratorConfig) -> str | None:
    """What is missing, where to get it and where to put it, in one line; None where everything is there."""
    if isinstance(config, EmbeddedGenerator):
        return None
    if isinstance(config, DitGenerator):
        name, setup, files = "DiT-XL-2-256", DIT_SETUP, _DIT_FILES
    else:
        name, setup, files = "cin256-v2", LDM_SETUP, _LDM_FILES
    if config.path is None:
        return f"generator.path is not set: it names the folder of {name}. {setup}"
    if not config.path.is_dir():
        found = "is a file, expected a folder" if config.path.exists() else "no such folder"
        return f"generator.path: {config.path}: {found}; it should hold {name}. {setup}"
    absent = [file for file in files if not (config.path / file).is_file()]
    return f"generator.path: {config.path}: no '{absent[0]}', so it does not hold {name}. {setup}" if absent else None


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


@lru_cache  # the plan asks for every trial and fold
def fingerprint(config: GeneratorConfig) -> dict[str, str]:
    """Content hash of every file that decides what the generator computes.

    Raises:
        UserError: the folder is not there.
    """
    root = folder(config)
    files = sorted(p for p in root.rglob("*") if p.suffix in {".json", ".safetensors", ".bin"})
    names = {p: str(p.relative_to(root)) for p in files}
    return {name: file_hash(p) for p, name in names.items() if p.name != "training.json" and not name.startswith(".")}


def plan_fingerprint(config: GeneratorConfig) -> dict[str, Any]:
    """What identifies the generator in a plan, also where its files are not here yet."""
    return dict(fingerprint(config)) if missing(config) is None else config.model_dump(mode="json")


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
