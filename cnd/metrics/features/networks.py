"""The published networks, up to the layer that scores are read from. Only tensors are read from their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnd._compat import make_torchvision_importable
from cnd.checkpoint_files import MALFORMED, find_weights, open_checkpoint
from cnd.errors import UserError
from cnd.metrics.published import ConventionName, NetworkName
from cnd.metrics.resizing import for_network
from cnd.protocols import ImageArray

make_torchvision_importable()

from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn  # noqa: E402
from torchvision import models  # noqa: E402

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of colours
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 16
# of the names in the networks below: AlexNet and EfficientNet, Inception, ResNet, CLIP
STARTS = ("features.", "Conv2d_", "Mixed_", "conv1.", "bn1.", "layer", "visual.")


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), with which OpenAI's CLIP was trained."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Extractor:
    """Features float32 [n, n_features] of images uint8 [n, channels, height, width], flattened.

    Args:
        prepare: images to RGB from 0 to 1, float32 [n, 3, side, side].
    """

    def __init__(
        self, network: nn.Module, prepare: Callable[[ImageArray], np.ndarray], colours: tuple[Any, Any] = IMAGENET
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.prepare = prepare
        self.mean, self.std = (torch.tensor(c, device=self.device).view(1, 3, 1, 1) for c in colours)

    @torch.no_grad()
    def __call__(self, images: ImageArray) -> np.ndarray:
        blocks = []
        for start in range(0, len(images), BATCH):
            prepared = np.ascontiguousarray(
                self.prepare(images[start : start + BATCH])
            )  # another layout rounds otherwise
            x = torch.from_numpy(prepared).to(self.device)
            blocks.append(self.network((x - self.mean) / self.std).flatten(1).float().cpu().numpy())
        return np.concatenate(blocks)


def load_extractor(network: NetworkName, convention: ConventionName, path: Path) -> Extractor:
    """A published network with the weights of a file.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    tensors = _read(path)
    try:
        built = NETWORKS[network](tensors)
    except (RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: holds no weights of {network} ({reason}); python -m cnd.metrics weights") from error
    colours = OPENAI if network == "clip_vit_l14" else IMAGENET
    return Extractor(built, lambda images: for_network(images, convention, network), colours)


def _read(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name. A TorchScript archive (CLIP's) comes this far only with its published hash."""
    try:
        if path.suffix == ".pt":
            content: Any = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            content, _ = open_checkpoint(path, "state_dict")
    except (OSError, *MALFORMED) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: cannot be read ({reason}); get it again") from error
    return find_weights(content, lambda name: name.startswith(STARTS))


def alexnet(n_layers: int, tensors: Mapping[str, Tensor]) -> nn.Module:
    """AlexNet's first layers: what stands behind them cannot change their output, as ReLUs in place would a hook's."""
    prefix = "features."
    ours = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    layers: nn.Module = _filled(lambda: models.alexnet(weights=None).features, ours)[:n_layers]
    return layers


def inception_v3(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Pooled features; colours are normalised once more inside, as its published weights want it."""
    network = _filled(lambda: models.inception_v3(weights=None, transform_input=True, init_weights=False), tensors)
    network.fc = nn.Identity()
    return network


def efficientnet_b1(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Pooled features."""
    network = _filled(lambda: models.efficientnet_b1(weights=None), tensors)
    network.classifier = nn.Identity()
    return network


def swav(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Pooled features of a ResNet-50, without SwAV's heads."""
    heads = ("fc.", "projection_head.", "prototypes.")
    ours = {k: v for k, v in tensors.items() if not k.startswith(heads)}

    def build() -> nn.Module:
        network = models.resnet50(weights=None)
        network.fc = nn.Identity()
        return network

    return _filled(build, ours)


def clip_vision(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The image side of OpenAI's CLIP (ViT), projected, in float32; its size is read from the tensors."""
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    side = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5) * patch
    depth = len({name.split(".")[3] for name in tensors if name.startswith("visual.transformer.resblocks.")})
    network = VisionTransformer(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // 64,
        num_classes=tensors["visual.proj"].shape[1],
        pre_norm=True,
        norm_layer=nn.LayerNorm,  # epsilon 1e-5, as in CLIP
        act_layer=QuickGelu,
    )
    floats = {name: tensor.float() for name, tensor in tensors.items() if name.startswith("visual.")}
    network.load_state_dict(checkpoint_filter_fn(floats, network))
    found: nn.Module = network
    return found


def _filled(build: Callable[[], Any], tensors: Mapping[str, Tensor]) -> Any:
    """A network whose weights are the tensors; no random ones are drawn first, which takes seconds."""
    with torch.device("meta"):
        network = build()
    network.load_state_dict(tensors, assign=True)
    return network


NETWORKS: dict[NetworkName, Callable[[Mapping[str, Tensor]], nn.Module]] = {
    "alexnet2": lambda tensors: alexnet(5, tensors),
    "alexnet5": lambda tensors: alexnet(12, tensors),
    "inception_v3": inception_v3,
    "clip_vit_l14": clip_vision,
    "efficientnet_b1": efficientnet_b1,
    "swav": swav,
}
