"""Frozen latent diffusion models behind one interface (:class:`cnd.protocols.Generator`).

The only part of the package that imports diffusers.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cnd.cache import file_hash
from cnd.config import EmbeddedGenerator, GeneratorConfig
from cnd.errors import UserError

if TYPE_CHECKING:
    from cnd.generators.latent_diffusion import LatentDiffusion

WEIGHTS = Path(__file__).parent / "weights"


def folder(config: GeneratorConfig) -> Path:
    """Folder of the generator's weights, in diffusers format."""
    if isinstance(config, EmbeddedGenerator):
        return WEIGHTS / config.name
    raise UserError(f"generator.kind '{config.kind}' is not available yet")


@lru_cache  # the plan asks for every trial and fold
def fingerprint(config: GeneratorConfig) -> dict[str, str]:
    """Content hash of every file that decides what the generator computes."""
    files = sorted(p for p in folder(config).rglob("*") if p.suffix in {".json", ".safetensors"})
    return {str(p.relative_to(folder(config))): file_hash(p) for p in files if p.name != "training.json"}


def load(config: GeneratorConfig) -> LatentDiffusion:
    """The generator, frozen and in evaluation mode."""
    from cnd.generators.latent_diffusion import LatentDiffusion

    return LatentDiffusion.from_folder(folder(config))
