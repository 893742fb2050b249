"""Linear layers by oneDNN against PyTorch's own in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cnd import onednn
from cnd.onednn import Linear, with_onednn

pytestmark = pytest.mark.skipif(not onednn.there_is_onednn(), reason="a processor without AVX-512")
SHAPE, WIDTH, WIDTH_OUT = (8, 37, 64), 64, 96  # 1.8 million multiplications


def layer(bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_onednn(nn.Linear(WIDTH, WIDTH_OUT, bias=bias))


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_values_and_gradients(bias: bool, transposed: bool) -> None:
    fast = layer(bias)
    exact = copy.deepcopy(fast).double()
    found = []
    for module, x in ((fast, inputs()), (exact, inputs(torch.float64))):
        if transposed:  # a view of other strides
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        x.requires_grad_()
        out = module(x)
        out.square().sum().backward()
        found.append([out, x.grad, *(p.grad for p in module.parameters())])
    assert type(found[0][0].grad_fn).__name__ == "ViewBackward0" and len(found[0]) == 3 + bias
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


def test_frozen_weights_cost_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, products = layer().requires_grad_(False), []
    original = onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *a: products.append(a) or original(*a))
    x = inputs().requires_grad_()
    frozen(x).sum().backward()
    assert len(products) == 2 and frozen.weight.grad is None and x.grad is not None


def test_the_same_twice() -> None:
    assert torch.equal(layer()(inputs()), layer()(inputs()))


def test_weights_keep_their_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    names = list(model.state_dict())
    assert type(with_onednn(model)[0]) is Linear and list(model.state_dict()) == names


def test_other_precision_and_small_products_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_product", lambda *a: pytest.fail("by oneDNN"))
    layer()(inputs()[:1])
    layer().double()(inputs(torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer()(inputs()).dtype == torch.bfloat16


def test_without_avx_512_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "there_is_onednn", lambda: False)
    assert type(layer()) is nn.Linear
