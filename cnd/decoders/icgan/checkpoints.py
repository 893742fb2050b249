"""Published networks read from files of the user's: the generator, and the ResNet-50 of the instance features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from cnd.checkpoint_files import check_values, find_weights, open_checkpoint
from cnd.decoders.icgan.features import SwavFeatures
from cnd.decoders.icgan.generator import InstanceGenerator, from_tensors
from cnd.errors import UserError

GENERATOR_KEY, FEATURES_KEY = "decoder.generator_weights", "decoder.feature_weights"
COUNTERS = ("num_batches_tracked",)  # integers among the weights


def load_generator(path: Path) -> InstanceGenerator:
    """The generator in a file with the published names, at any size, frozen.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    starts = ("shared_feat.", "linear.", "blocks.", "output_layer.")
    tensors = read_tensors(path, GENERATOR_KEY, lambda name: name.startswith(starts))
    try:
        return from_tensors(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error} ({GENERATOR_KEY}); take G_ema_best0.pth of an IC-GAN (BigGAN)") from error


def load_swav(path: Path) -> SwavFeatures:
    """The features of a ResNet-50 with torchvision's names, such as SwAV's, frozen.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    tensors = read_tensors(path, FEATURES_KEY, lambda name: name.startswith(("conv1.", "bn1.", "layer")))
    try:
        return SwavFeatures.of(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error} ({FEATURES_KEY}); take swav_800ep_pretrain.pth.tar") from error


def read_tensors(path: Path, key: str, known: Callable[[str], bool]) -> Mapping[str, Tensor]:
    """Tensors of a checkpoint, by the names of the network; what else is in it is left alone.

    Raises:
        UserError: the file cannot be read, or holds no finite weights.
    """
    try:
        content, _ = open_checkpoint(path, "state_dict")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({key}): {error.strerror}") from error
    tensors = find_weights(content, known)
    if not tensors:
        raise UserError(f"{path}: holds no state dict ({key}); give a file of a network's weights alone")
    try:
        check_values({name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTERS)})
    except UserError as error:
        raise UserError(f"{path}: {error} ({key})") from error
    return tensors
