"""Small latent diffusion models whose weights ship with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cnd.generators.folders import file_hashes
from cnd.protocols import GeneratorChoice

if TYPE_CHECKING:
    from cnd.generators.latent_diffusion import LatentDiffusion

WEIGHTS = Path(__file__).parent / "weights"


class EmbeddedGenerator(GeneratorChoice):
    """A small latent diffusion model whose weights ship with the package."""

    brings_judge: ClassVar[bool] = True
    of_photographs: ClassVar[bool] = False
    licence: ClassVar[str] = "MIT, with this package"
    kind: Literal["embedded"] = "embedded"
    name: Literal["simulated", "digits"] = "simulated"

    def identity(self) -> Any:
        """Content of the files."""
        return {"kind": self.kind, "files": file_hashes(self.folder())}

    def folder(self) -> Path:
        """Folder within the package."""
        return WEIGHTS / self.name

    def load(self) -> LatentDiffusion:
        """The generator, frozen and in evaluation mode."""
        from cnd.generators.latent_diffusion import LatentDiffusion

        return LatentDiffusion.from_folder(self.folder())

    def image_form(self) -> tuple[int, int]:
        """As it was trained."""
        return {"simulated": (3, 64), "digits": (1, 32)}[self.name]

    def class_space(self) -> str:
        """Its own."""
        return f"the embedded generator '{self.name}'"

    def class_names(self) -> list[str]:
        """Names of its classes, in the order of the concept bank."""
        return list(json.loads((self.folder() / "classes.json").read_text(encoding="utf-8")))
