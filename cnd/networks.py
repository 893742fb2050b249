"""Small timm ResNets kept as ``config.json`` + ``model.safetensors``: the embedded judges and the simulated cortex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnd._compat import make_torchvision_importable
from cnd.json_files import write_json

make_torchvision_importable()

from safetensors.torch import load_file, save_file  # noqa: E402
from timm.models.resnet import BasicBlock, ResNet  # noqa: E402


def build_resnet(config: dict[str, Any]) -> nn.Module:
    """timm's ResNet of basic blocks from keyword arguments as JSON keeps them."""
    return ResNet(BasicBlock, **{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


def save_half(tensors: dict[str, Tensor], path: Path) -> None:
    """Write floating-point tensors in half precision, the others as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}, path)


def save_resnet(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write the network to a folder that :func:`load_resnet` reads."""
    save_half(model.state_dict(), folder / "model.safetensors")
    write_json(folder / "config.json", config)


def load_resnet(folder: Path) -> nn.Module:
    """The network in evaluation mode, float32, without gradients."""
    model = build_resnet(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.float().eval().requires_grad_(False)
