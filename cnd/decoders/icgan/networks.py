"""Where the networks of IC-GAN come from: files of the user's, or small ones that ship with the package.

The small ones are trained by ``experiments/generators/icgan.py`` on images like the stimuli, without labels. Their
instance features come from neither the judge, which scores the result, nor the network behind the simulated cortex.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cnd.errors import UserError
from cnd.keys import files_hash
from cnd.settings import Config, FileOf

if TYPE_CHECKING:
    from torch import nn

    from cnd.decoders.icgan.features import InstanceFeatures
    from cnd.decoders.icgan.generator import InstanceGenerator

WEIGHTS = Path(__file__).parent / "weights"
GENERATOR, FEATURES, ENCODER, NOTES = "generator.safetensors", "features", "encoder", "training.json"

Shape = tuple[int, int, int]
"""Channels, height and width of images."""


class Networks(NamedTuple):
    """The frozen networks.

    Attributes:
        encoder: from images between -1 and 1 to noise vectors, where an inversion starts; None: it starts from zeros.
    """

    generator: InstanceGenerator
    features: InstanceFeatures
    encoder: nn.Module | None

    def to(self, device: Any) -> Networks:
        """The same on another device."""
        encoder = None if self.encoder is None else self.encoder.to(device)
        return Networks(self.generator.to(device), self.features.to(device), encoder)


class Sources(Config):
    """Files of the user's; None: the small networks that ship with the package and make images like the stimuli."""

    generator: FileOf | None = None
    features: FileOf | None = None

    def identity(self) -> Any:
        """Content of the files."""
        if self.generator is None:
            return {folder.name: files_hash(_files(folder)) for folder in embedded().values()}
        return super().identity()


def load(sources: Sources, shape: Shape) -> Networks:
    """The networks for images of a shape.

    Raises:
        UserError: a file cannot be read, or is of another network, or the networks do not fit each other or the images.
    """
    if sources.generator is None or sources.features is None:
        return _load_embedded(shape)
    from cnd.decoders.icgan.checkpoints import load_generator, load_swav

    found = Networks(load_generator(sources.generator.path), load_swav(sources.features.path), None)
    layout = found.generator.layout
    if layout.image_shape != shape:
        raise UserError(
            f"{sources.generator.path}: makes images of {shown(layout.image_shape)}, the stimuli have {shown(shape)} "
            "(decoder.generator_weights); give another, or stimuli of its size (data.image_size)"
        )
    if layout.n_features != found.features.n_features:
        raise UserError(
            f"{sources.generator.path}: takes {layout.n_features} instance features, and {sources.features.path} gives "
            f"{found.features.n_features} (decoder.feature_weights); give two that belong together"
        )
    return found


def shown(shape: Shape) -> str:
    """A shape for people."""
    return "x".join(map(str, shape))


# ---------------------------------------------------------------- the small ones


def embedded() -> dict[Shape, Path]:
    """Folders of the networks that ship with the package, by the shape of their images."""
    found = {}
    for folder in sorted(path.parent for path in WEIGHTS.glob(f"*/{NOTES}")):
        channels, height, width = json.loads((folder / NOTES).read_text(encoding="utf-8"))["image_shape"]
        found[channels, height, width] = folder
    return found


def problem_without_files(shape: Shape) -> str | None:
    """What to do where no network that ships with the package makes images of this shape; None where one does."""
    if shape in (known := embedded()):
        return None
    return (
        "decoder.generator_weights is not set, and the IC-GANs that ship with the package make images of "
        f"{' or '.join(map(shown, known))}, the stimuli have {shown(shape)}; set decoder.generator_weights to "
        "G_ema_best0.pth of icgan_biggan_imagenet_res256 and decoder.feature_weights to swav_800ep_pretrain.pth.tar "
        "(both linked from github.com/facebookresearch/ic_gan)"
    )


def _load_embedded(shape: Shape) -> Networks:
    from safetensors.torch import load_file

    from cnd.decoders.icgan.features import SmallFeatures
    from cnd.decoders.icgan.generator import from_tensors
    from cnd.networks import load_resnet

    if problem := problem_without_files(shape):
        raise UserError(problem)
    folder = embedded()[shape]
    tensors = {name: tensor.float() for name, tensor in load_file(folder / GENERATOR).items()}
    features = SmallFeatures(load_resnet(folder / FEATURES))
    return Networks(from_tensors(tensors), features, load_resnet(folder / ENCODER))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NOTES)
