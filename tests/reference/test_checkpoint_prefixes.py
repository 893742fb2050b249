"""Weights are found under their own names, whatever trained them: wrapped here by torch's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnd.checkpoint_files import find_weights
from cnd.decoders.icgan.checkpoints import load_swav
from cnd.decoders.ss_ae.features import Vgg
from cnd.errors import UserError
from cnd.generators.convert import read_checkpoint


class Network(nn.Module):
    """With names of its own that look like wrappers' too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.model = nn.Linear(2, 3)


NAMES = set(Network().state_dict())


def known(name: str) -> bool:
    return name in NAMES


def compiled(network: nn.Module) -> nn.Module:
    """As ``torch.compile`` names its weights; importing that takes seconds."""
    return lightning(network, "_orig_mod")


def lightning(network: nn.Module, name: str = "model") -> nn.Module:
    outer = nn.Module()
    outer.add_module(name, network)
    return outer


STACKS: dict[str, Any] = {
    "bare": lambda n: n.state_dict(),
    "DataParallel": lambda n: nn.DataParallel(n).state_dict(),
    "compiled": lambda n: compiled(n).state_dict(),
    "DataParallel of compiled": lambda n: {"state_dict": nn.DataParallel(compiled(n)).state_dict(), "epoch": 3},
    "compiled DataParallel": lambda n: {"model": compiled(nn.DataParallel(n)).state_dict()},
    "Lightning": lambda n: {"state_dict": lightning(n).state_dict(), "hyper_parameters": {"lr": 1.0}},
    "Lightning, compiled": lambda n: {"state_dict": lightning(compiled(n), "net").state_dict()},
    "Lightning in Lightning": lambda n: {"state_dict": lightning(lightning(n)).state_dict()},
    "in two dictionaries": lambda n: {"model": {"state_dict": n.state_dict()}, "optimizer": {"state": {}}},
    "averaged": lambda n: AveragedModel(n).state_dict(),
    "averaged, in DataParallel": lambda n: {"ema": nn.DataParallel(AveragedModel(n)).state_dict()},
}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def same(found: dict[str, Tensor], network: nn.Module) -> None:
    assert found.keys() == NAMES
    for name, tensor in network.state_dict().items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("stack", STACKS)
def test_any_stack_of_wrappers_comes_off(stack: str, network: Network) -> None:
    same(find_weights(STACKS[stack](network), known), network)


def test_parts_may_be_wrapped_too(network: Network) -> None:
    wrapped = Network()
    wrapped.blocks, wrapped.model = nn.DataParallel(network.blocks), compiled(network.model)
    assert "blocks.module.0.weight" in wrapped.state_dict() and "model._orig_mod.weight" in wrapped.state_dict()
    same(find_weights({"state_dict": nn.DataParallel(wrapped).state_dict()}, known), network)


@pytest.mark.parametrize("where", ["names", "keys"])
def test_averaged_weights_go_before_the_last_ones(where: str, network: Network) -> None:
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(network)
    with torch.no_grad():
        network.model.weight += 1
    average.update_parameters(network)
    last, ema = network.state_dict(), average.state_dict()
    if where == "names":
        names = {f"ema_model.{k}": v for k, v in ema.items()} | {f"online_model.{k}": v for k, v in last.items()}
        content: Any = names | {"initted": torch.tensor(True), "step": torch.tensor(2)}
    else:
        content = {"state_dict": last, "state_dict_ema": ema}
    same(find_weights(content, known), average.module)
    assert not torch.equal(average.module.model.weight, network.model.weight)


def test_what_is_not_the_networks_is_left_for_the_caller(network: Network) -> None:
    found = find_weights(lightning(network).state_dict() | {"loss.weight": torch.ones(1)}, known)
    assert found.keys() == NAMES | {"loss.weight"}
    assert find_weights({"epoch": 3, "state_dict": {}}, known) == find_weights([1], known) == {}


# ---------------------------------------------------------------- readers that other tests do not ask for this


def wrapped(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save({"state_dict": {f"model._orig_mod.module.{name}": tensor for name, tensor in tensors.items()}}, path)
    return path


def test_a_latent_diffusion_checkpoint(tmp_path: Path) -> None:
    """Whose own names begin with what wraps others."""
    tensors = {"model.diffusion_model.out.2.bias": torch.ones(3), "model_ema.decay": torch.ones(())}
    assert read_checkpoint(wrapped(tmp_path / "model.ckpt", tensors), print).keys() == tensors.keys()


def test_networks_of_features(tmp_path: Path) -> None:
    from timm.layers import BatchNormAct2d  # noqa: F401  # timm is importable since the imports above
    from timm.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, (3, 4, 6, 3), num_classes=0, channels=(4, 4, 4, 4))
    found = load_swav(wrapped(tmp_path / "swav.pth.tar", network.state_dict())).state_dict()
    assert torch.equal(found["network.conv1.weight"], network.conv1.weight)
    vgg = {"features.0.weight": torch.randn(4, 3, 3, 3), "features.0.bias": torch.zeros(4)}
    assert torch.equal(Vgg(wrapped(tmp_path / "vgg.pth", vgg)).blocks[0][0].weight, vgg["features.0.weight"])


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("features.0.weight", (4, 4, 3, 3), "features.0.weight: expected 3 channels, found 4: a network of"),
        ("input_fc.weight", (8, 5), "a network trained by SelfSuperReconst, of another architecture than ours"),
        ("space_maps.26.weight", (5, 676), "a network trained by SelfSuperReconst, of another architecture than ours"),
    ],
)
def test_what_selfsuperreconst_leaves_is_refused_in_one_line(
    name: str, shape: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "sub3_rgb_only_best.pth.tar"
    torch.save({"epoch": 49, "state_dict": {f"module.{name}": torch.zeros(shape)}, "optimizer": {}}, path)
    with pytest.raises(UserError) as raised:
        Vgg(path)
    assert str(raised.value).startswith(f"{path}: {told}") and "\n" not in str(raised.value)
