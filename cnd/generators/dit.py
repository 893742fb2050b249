"""DiT-XL/2-256 (Peebles & Xie 2023) as a frozen generator: its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from cnd.generators.folders import FolderGenerator

if TYPE_CHECKING:
    from cnd.generators.diffusion_transformer import DiffusionTransformer


class DitGenerator(FolderGenerator):
    """DiT-XL/2-256, the folder of a DiTPipeline. It has no cross-attention, so the condition replaces the class vector:
    this is another method, and labelled so."""

    has_cross_attention: ClassVar[bool] = False
    model: ClassVar[str] = "DiT-XL-2-256"
    licence: ClassVar[str] = "CC BY-NC 4.0 (facebookresearch/DiT)"
    setup: ClassVar[str] = "Run 'hf download facebook/DiT-XL-2-256 --local-dir {path}' (3 GB)."
    needed: ClassVar[tuple[str, ...]] = (
        "transformer/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
    )
    kind: Literal["dit"] = "dit"

    def load(self) -> DiffusionTransformer:
        """The generator, frozen and in evaluation mode.

        Raises:
            UserError: a file is missing or damaged.
        """
        from cnd.generators.diffusion_transformer import DiffusionTransformer

        return DiffusionTransformer.from_folder(self.folder())

    def warnings(self) -> list[str]:
        """That this is not the paper's method."""
        return [
            "A different method: DiT has no cross-attention, so the decoded vector replaces the class vector and the "
            "context tokens are not used."
        ]
