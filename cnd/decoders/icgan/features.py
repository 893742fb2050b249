"""Instance features: what a network trained without labels sees in an image, as a vector of a fixed length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd._compat import make_torchvision_importable
from cnd.errors import UserError

make_torchvision_importable()

from timm.models.resnet import Bottleneck, ResNet  # noqa: E402

SIZE = 224  # pixels a side that the ResNet-50 was trained on
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
LAYERS = (3, 4, 6, 3)  # blocks of a ResNet-50's stages
HEADS = ("fc.", "projection_head.", "prototypes.")  # of its trainings; no part of the features


class InstanceFeatures(nn.Module):
    """From images between -1 and 1 [n, c, h, w] to features [n, n_features]."""

    n_features: int


class SwavFeatures(InstanceFeatures):
    """Pooled features of a ResNet-50, of length one, as published: it was trained by SwAV (Caron et al. 2020)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, n_features: int) -> None:
        super().__init__()
        self.network, self.n_features = network, n_features
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        x = (images.expand(-1, 3, -1, -1) / 2 + 0.5 - self.mean) / self.std
        x = F.interpolate(x, size=(SIZE, SIZE), mode="bicubic", align_corners=True)  # both as published
        return F.normalize(self.network(x))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> SwavFeatures:
        """The network of a state dict with torchvision's names; channels are read from it, heads are left alone.

        Raises:
            UserError: it is of another network.
        """
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEADS)}
        try:
            channels = tuple(len(body[f"layer{stage}.0.conv1.weight"]) for stage in range(1, len(LAYERS) + 1))
            network = ResNet(Bottleneck, LAYERS, num_classes=0, channels=channels)
            missing = network.load_state_dict(body, strict=False).missing_keys
        except LookupError as error:
            raise UserError(f"no weights of a ResNet-50: {error} is missing") from error
        except RuntimeError as error:
            raise UserError(f"no weights of a ResNet-50: {' '.join(str(error).split())[:150]}") from error
        if named := [name for name in missing if not name.endswith("num_batches_tracked")]:
            raise UserError(f"no weights of a ResNet-50: '{named[0]}' is missing")
        return cls(network, network.num_features)


class SmallFeatures(InstanceFeatures):
    """Features of a small network whose last layer centres them, of length sqrt(n_features).

    The published length, one, leaves a generator that is trained for minutes deaf to them: beside them its spectrally
    normalised layers hear noise of length sqrt(n_noise).
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.n_features = network, int(network.num_classes)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        return F.normalize(self.network(images)) * self.n_features**0.5
