"""The networks behind the judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnd.checkpoint_files import check_values
from cnd.errors import UserError, nearest
from cnd.metrics.judges.timm import TimmClassifier, timm_weights
from cnd.networks import load_resnet  # makes timm importable
from cnd.protocols import ImageArray

import timm  # isort: skip
from safetensors import SafetensorError  # isort: skip
from safetensors.torch import load_file  # isort: skip
from timm.data import create_transform, resolve_model_data_config  # isort: skip


def to_unit_range(images: np.ndarray) -> Tensor:
    """uint8 to -1..1, what the embedded classifiers were trained on."""
    return torch.from_numpy(images).float() / 127.5 - 1


class ImageClassifier:
    """A frozen network that gives class probabilities of uint8 images (:class:`cnd.protocols.Judge`).

    Args:
        prepare: uint8 [n, channels, height, width] to the network's input.
        name: what reports call it.
        batch: images at once.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[np.ndarray], Tensor] = to_unit_range,
        name: str = "embedded",
        batch: int = 200,
    ) -> None:
        self.network, self.prepare, self.name, self.batch = network, prepare, name, batch

    @classmethod
    def from_folder(cls, folder: Path) -> ImageClassifier:
        """A network that ships beside an embedded generator; grey images have equal channels for one of colours."""
        network = load_resnet(folder)
        channels = next(network.parameters()).shape[1]
        return cls(network, lambda images: to_unit_range(images).expand(-1, max(channels, images.shape[1]), -1, -1))

    @torch.no_grad()
    def probabilities(self, images: ImageArray) -> np.ndarray:
        """Softmax over classes, float64 [n, classes], of images uint8 [n, channels, height, width].

        The softmax is taken in float64: in float32 the many classes a confident network rules out would tie at 0.
        """
        return torch.cat([self.network(x).double().softmax(1).cpu() for x in self._inputs(images)]).numpy()

    @torch.no_grad()
    def features(self, images: ImageArray) -> np.ndarray:
        """Pooled features in front of the last layer, float32 [n, n_features]."""
        network: Any = self.network  # timm's networks all have these two
        blocks = [network.forward_head(network.forward_features(x), pre_logits=True) for x in self._inputs(images)]
        return torch.cat([block.flatten(1).float().cpu() for block in blocks]).numpy()

    def _inputs(self, images: ImageArray) -> Iterator[Tensor]:
        device = next(self.network.parameters()).device
        for start in range(0, len(images), self.batch):
            yield self.prepare(np.asarray(images[start : start + self.batch])).to(device)


def load_timm(config: TimmClassifier) -> ImageClassifier:
    """The classifier that a config names; it runs on a GPU where there is one.

    Raises:
        UserError: weights are missing or do not fit; the model has other classes than ImageNet-1K's.
    """
    network = _timm_network(config)
    if torch.cuda.is_available():
        network = network.cuda()
    return ImageClassifier(network, TimmPreparation(network), config.name, batch=50)


class TimmPreparation:
    """timm's own evaluation transform: resize by its interpolation, centre crop, normalise. Grey images become RGB."""

    def __init__(self, network: nn.Module):
        self.transform = create_transform(**resolve_model_data_config(network), is_training=False)

    def __call__(self, images: np.ndarray) -> Tensor:
        from PIL import Image

        colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
        return torch.stack([self.transform(Image.fromarray(np.ascontiguousarray(image))) for image in colour])


def _timm_network(config: TimmClassifier) -> nn.Module:
    base = config.name.partition(".")[0]
    if not timm.is_model(base):
        hint = nearest(base, timm.list_models())
        raise UserError(f"evaluation.classifiers: timm has no model '{base}'{hint if 'did you mean' in hint else ''}")
    tagged = timm.list_pretrained(f"{base}.*")
    if "." in config.name and config.name not in tagged:
        hint = nearest(config.name, tagged)
        raise UserError(f"evaluation.classifiers: timm has no weights '{config.name}'{hint}")
    name, path = timm_weights(config)
    try:
        weights = _read(path, name)
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": weights})
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: does not hold the weights of '{name}' ({reason}); get them again") from error
    if network.num_classes != 1000:
        raise UserError(
            f"evaluation.classifiers: '{name}' has {network.num_classes} classes; take a model of ImageNet-1K (1000)"
        )
    try:
        check_values({key: value for key, value in network.state_dict().items() if value.is_floating_point()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return network.eval().requires_grad_(False)


def _read(path: Path, name: str) -> dict[str, Any]:
    """Tensors by timm's keys. A package's file names them otherwise, in the same order."""
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    expected = timm.create_model(name).state_dict()
    pairs = list(zip(expected.items(), tensors.values(), strict=True))
    if wrong := [key for (key, ours), theirs in pairs if ours.shape != theirs.shape]:
        raise ValueError(f"'{wrong[0]}' has another shape")
    return {key: theirs for (key, _), theirs in pairs}
