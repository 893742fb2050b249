"""Folders of weights: what must be in them, what identifies them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from cnd import imagenet
from cnd.errors import UserError
from cnd.keys import file_hash
from cnd.protocols import IMAGENET, GeneratorChoice


class FolderGenerator(GeneratorChoice):
    """A generator whose folder the user brings; its classes are those of ImageNet."""

    model: ClassVar[str]  # its published name
    setup: ClassVar[str]  # how the folder comes to be; {path} is where
    needed: ClassVar[tuple[str, ...]]  # files; models have weights beside their config.json

    path: Path | None = None

    def identity(self) -> Any:
        """Content of the files; settings stand for a folder that is not there."""
        return self.model_dump(mode="json") if self.missing() else {"kind": self.kind, "files": file_hashes(self.path)}

    def missing(self) -> list[str]:
        """What is missing, where to get it and where to put it."""
        if self.path is None:
            path = Path("weights") / self.model
            return [f"generator.path is not set. {self.setup.format(path=path)} Then set generator.path={path}."]
        setup = self.setup.format(path=self.path)
        if not self.path.is_dir():
            found = "is a file, expected a folder" if self.path.exists() else "no such folder"
            return [f"generator.path: {self.path}: {found}; it should hold {self.model}. {setup}"]
        absent = [file for file in self.needed if not (self.path / file).is_file()]
        models = [Path(file).parent for file in self.needed if file.endswith("/config.json")]
        absent += [f"{model}/*.safetensors" for model in models if not _has_weights(self.path / model)]
        told = f"generator.path: {self.path}: no '{{}}', so it does not hold {self.model}. {setup}"
        return [told.format(absent[0])] if absent else []

    def folder(self) -> Path:
        """Folder of the weights.

        Raises:
            UserError: it is not there.
        """
        problems = self.missing()
        if problems or self.path is None:
            raise UserError(problems[0])
        return self.path

    def image_form(self) -> tuple[int, int]:
        """Those of the published models of both kinds."""
        return 3, 256

    def class_space(self) -> str:
        """As :mod:`cnd.imagenet` counts them."""
        return IMAGENET

    def class_names(self) -> list[str]:
        """Names of ImageNet's classes."""
        return list(imagenet.class_names())

    def class_indices(self, names: Any, wnids: Any = ()) -> list[int | None]:
        """By WordNet id where it is known, else by name."""
        by_name = super().class_indices(names)
        by_wnid = imagenet.class_indices(wnids) if wnids else [None] * len(names)
        return [known if index is None else index for known, index in zip(by_name, by_wnid, strict=True)]


def _has_weights(model: Path) -> bool:
    return any(path.suffix in {".safetensors", ".bin"} for path in model.glob("*"))


@lru_cache  # the plan asks for every trial and fold
def file_hashes(root: Path) -> dict[str, str]:
    """Content hash of every file that decides what a generator computes, by its name below ``root``."""
    files = sorted(p for p in root.rglob("*") if p.suffix in {".json", ".safetensors", ".bin"})
    names = {p: str(p.relative_to(root)) for p in files}
    return {name: file_hash(p) for p, name in names.items() if p.name != "training.json" and not name.startswith(".")}
