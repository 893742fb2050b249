"""cin256-v2 (Rombach et al. 2022) as a frozen generator: its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from cnd.generators.folders import FolderGenerator

if TYPE_CHECKING:
    from cnd.generators.vq_diffusion import VqLatentDiffusion

SETUP = (
    "Download https://ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt (1.8 GB) and run "
    "'python -m cnd.generators convert model.ckpt --output {path}'."
)


class LdmGenerator(FolderGenerator):
    """cin256-v2, converted to a diffusers folder by ``python -m cnd.generators convert``."""

    model: ClassVar[str] = "cin256-v2"
    licence: ClassVar[str] = "MIT (CompVis/latent-diffusion); trained on ImageNet, which is for research only"
    setup: ClassVar[str] = SETUP
    needed: ClassVar[tuple[str, ...]] = (
        "unet/config.json",
        "class_embedding.safetensors",
        "vae/config.json",
        "scheduler/scheduler_config.json",
    )
    kind: Literal["ldm"] = "ldm"

    def load(self) -> VqLatentDiffusion:
        """The generator, frozen and in evaluation mode.

        Raises:
            UserError: a file is missing or damaged.
        """
        from cnd.generators.vq_diffusion import VqLatentDiffusion

        return VqLatentDiffusion.from_folder(self.folder())
