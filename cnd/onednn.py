"""Linear layers by oneDNN on a CPU with AVX-512.

PyTorch gives float32 matrix products to MKL, which on AMD's processors stays with AVX2 and so with half the arithmetic;
oneDNN, which it uses for convolutions, does not (EPYC of 2024, one core: 111 and 240 GFLOP/s at 592 x 1024 x 3072).
Values differ by rounding only. On a GPU, in other precision, and for small products, where calling oneDNN takes longer
than MKL's whole work, nothing changes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 2**20
"""Multiplications of a product that is worth the call."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def there_is_onednn() -> bool:
    """Whether this machine gains by it."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def with_onednn(module: AnyModule) -> AnyModule:
    """The module itself, its linear layers by oneDNN from now on; weights and their names stay."""
    if there_is_onednn():
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Linear
    return module


class Linear(nn.Linear):
    """As ``torch.nn.Linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """input weight^T + bias."""
        if not _suits(input, self.weight):
            return super().forward(input)
        flat: Tensor = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)  # type: ignore[no-untyped-call]
        return flat.view(*input.shape[:-1], self.out_features)


def _suits(input: Tensor, weight: Tensor) -> bool:
    return (
        input.dtype == weight.dtype == torch.float32
        and input.device.type == "cpu"
        and input.numel() * len(weight) >= SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # which chooses for itself
    )


def _product(
    a: Float[Tensor, "n k"], b: Float[Tensor, "m k"], bias: Float[Tensor, " m"] | None = None
) -> Float[Tensor, "n m"]:
    """a b^T + bias; either may be a transposed view."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """The layer with its gradients, three products; those that nobody needs are left out."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input if weight.requires_grad else None, weight)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_input else None,
            _product(gradient.t(), input.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
