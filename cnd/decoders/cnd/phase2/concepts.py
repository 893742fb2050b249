"""What the concept layers of a trained module do (eq. 6): the module with parts of them replaced, and their measures.

Nothing is trained again. Of a module with L concept layers, layer l makes of tokens h_l the tokens

    h_(l+1) = m_l(h_l + g_l),    g_l = W_O softmax(Q K^T / sqrt(d)) V,    m_l(h) = h + MLP_l(h),

so the bank reaches the condition through the g_l only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cnd.protocols import Condition

if TYPE_CHECKING:
    from cnd.decoders.cnd.phase2.model import ConceptLayer, ConditionModule

Pass = Callable[["ConceptLayer", Tensor, Tensor], Tensor]
"""One layer's pass: ``(layer, tokens, bank)`` to the tokens that leave it."""


def even(layer: ConceptLayer, tokens: Tensor, bank: Tensor) -> Tensor:
    """Every concept has the weight 1 / n: the tokens gather the mean value."""
    attention = layer.attention(tokens, bank)
    return layer.update(tokens, layer.gather(torch.full_like(attention, 1 / attention.shape[-1]), bank))


def top(layer: ConceptLayer, tokens: Tensor, bank: Tensor) -> Tensor:
    """The concept with the largest weight has all of it, for each head and token."""
    attention = layer.attention(tokens, bank)
    one = torch.zeros_like(attention).scatter_(-1, attention.argmax(-1, keepdim=True), 1.0)
    return layer.update(tokens, layer.gather(one, bank))


def none(layer: ConceptLayer, tokens: Tensor, bank: Tensor) -> Tensor:
    """Nothing is gathered, g = 0; the MLP stays."""
    return layer.update(tokens, torch.zeros_like(tokens))


def skip(layer: ConceptLayer, tokens: Tensor, bank: Tensor) -> Tensor:
    """The layer is not there, nor is its MLP."""
    return tokens


def mean_gathered(layer: ConceptLayer, tokens: Tensor, bank: Tensor) -> Tensor:
    """Every item gathers what the items gather on average."""
    gathered = layer.gather(layer.attention(tokens, bank), bank)
    return layer.update(tokens, gathered.mean(0, keepdim=True).expand_as(gathered))


PASSES: dict[str, Pass] = {
    "even attention": even,
    "top concept only": top,
    "no attention": none,
    "no concept layers": skip,
}


@torch.no_grad()
def condition_with(module: ConditionModule, fmri: Float[Tensor, "b voxels"], each: Pass) -> Condition:
    """What the module makes of the patterns when ``each`` stands for the pass of every concept layer."""
    tokens = module.tokens(fmri)
    for layer in module.concept_layers:
        tokens = each(layer, tokens, module.bank)  # type: ignore[arg-type]  # all are ConceptLayers
    return module.condition(tokens)


@torch.no_grad()
def attention_entropy(module: ConditionModule, fmri: Float[Tensor, "b voxels"]) -> float:
    """Mean over layers, heads, tokens and items of H(a) / log n: 1 for even attention, 0 for a single concept.

    a are the n weights of one head and token, H(a) = - sum_c a_c log a_c.
    """
    found = []
    tokens = module.tokens(fmri)
    for layer in module.concept_layers:
        attention = layer.attention(tokens, module.bank)  # type: ignore[operator]
        found.append(torch.special.entr(attention).sum(-1).mean() / math.log(attention.shape[-1]))
        tokens, _ = layer(tokens, module.bank)
    return float(torch.stack(found).mean())


@torch.no_grad()
def bank_share(module: ConditionModule, fmri: Float[Tensor, "b voxels"]) -> float:
    """Share of the condition's variance over items that passes through the concept bank.

    Let z be the condition (context and pooled vector side by side) and z' the condition when every layer's g is
    replaced by its mean over these items; d = z - z' is what the items' own gathering does. With covariances over
    items, summed over the elements of z,

        Var(z) = Cov(z, z') + Cov(z, d),    share = Cov(z, d) / Var(z),

    so the share through the bank and the share around it add up to one. It is 0 where nothing gathered depends on the
    item, and 1 where all that depends on the item was gathered. Where the two ways oppose each other it may leave 0..1.
    NaN for a condition that does not vary.
    """
    with_own, with_mean = (_centred(c) for c in (module(fmri)[0], condition_with(module, fmri, mean_gathered)))
    total = (with_own**2).sum()
    return float((with_own * (with_own - with_mean)).sum() / total) if total > 0 else math.nan


def _centred(condition: Condition) -> Float[Tensor, "b elements"]:
    """Context and pooled vector of each item side by side, in float64, minus their mean over items."""
    both = torch.cat([condition.context.flatten(1), condition.pooled], 1).double()
    return both - both.mean(0)
