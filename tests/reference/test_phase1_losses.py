"""The contrastive losses against double loops over the printed equations, and their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnd.decoders.cnd.phase1 import losses
from cnd.decoders.cnd.phase1.model import MaskedAutoencoder, patch_mask, random_order
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config

TINY = EncoderConfig(patch_size=4, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2)
N_VOXELS = 30


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patterns(n: int, n_voxels: int = N_VOXELS, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, n_voxels, generator=generator(seed), dtype=dtype)


def looped_info_nce(anchor: Tensor, positive: Tensor, temperature: float, negatives: str) -> float:
    """Eq. 1 (3, 4) pattern by pattern."""

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)) / temperature

    a, p = anchor.double().numpy(), positive.double().numpy()
    total = 0.0
    for i in range(len(a)):
        numerator = math.exp(similarity(a[i], p[i]))
        others = a if negatives == "anchors" else p
        denominator = numerator + sum(math.exp(similarity(a[i], others[k])) for k in range(len(a)) if k != i)
        total -= math.log(numerator / denominator)
    return total / len(a)


# ---------------------------------------------------------------- InfoNCE


@pytest.mark.parametrize("negatives", ["anchors", "positives"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("n", [2, 9])
def test_info_nce_is_equation_1(n: int, temperature: float, negatives: Any) -> None:
    anchor, positive = patterns(n, seed=1), patterns(n, seed=2)
    loss = losses.info_nce(anchor, positive, temperature, negatives)
    assert loss.item() == pytest.approx(looped_info_nce(anchor, positive, temperature, negatives), rel=1e-5)


def test_with_positives_as_negatives_it_is_cross_entropy() -> None:
    anchor, positive = patterns(7, seed=1), patterns(7, seed=2)
    logits = F.cosine_similarity(anchor[:, None], positive[None], dim=2) / 0.1
    expected = F.cross_entropy(logits, torch.arange(7))
    torch.testing.assert_close(losses.info_nce(anchor, positive, 0.1, "positives"), expected)


@pytest.mark.parametrize("negatives", ["anchors", "positives"])
def test_gradients_of_info_nce(negatives: Any) -> None:
    anchor = patterns(4, 6, seed=1, dtype=torch.float64).requires_grad_()
    positive = patterns(4, 6, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, p: losses.info_nce(a, p, 0.3, negatives), (anchor, positive))


@pytest.mark.parametrize("negatives", ["anchors", "positives"])
def test_known_values(negatives: Any) -> None:
    orthogonal = 3 * torch.eye(5)
    best = losses.info_nce(orthogonal, orthogonal, 0.5, negatives)
    assert best.item() == pytest.approx(math.log(1 + 4 * math.exp(-2)), rel=1e-5)
    collapsed = losses.info_nce(torch.ones(5, 3), torch.ones(5, 3), 0.1, negatives)
    assert collapsed.item() == pytest.approx(math.log(5), rel=1e-5)
    # exp(1 / tau) overflows here; the loss must not
    opposite = losses.info_nce(orthogonal, -orthogonal, 1e-3, negatives)
    assert opposite.item() == pytest.approx(1000 + (math.log(4)), rel=1e-5)


def test_scale_of_a_pattern_does_not_matter() -> None:
    anchor, positive = patterns(5, seed=1), patterns(5, seed=2)
    loss = losses.info_nce(anchor * torch.rand(5, 1, generator=generator()), 7 * positive, 0.1, "anchors")
    torch.testing.assert_close(loss, losses.info_nce(anchor, positive, 0.1, "anchors"))


# ---------------------------------------------------------------- parts


def test_masked_reconstruction_counts_masked_voxels_only() -> None:
    prediction, fmri = patterns(4, seed=1), patterns(4, seed=2)
    mask = patch_mask(random_order(4, 8, generator()), 0.75).repeat_interleave(4, dim=1)[:, :N_VOXELS]
    errors = [(prediction[i, j] - fmri[i, j]).item() ** 2 for i, j in mask.nonzero().tolist()]
    assert losses.masked_reconstruction(prediction, fmri, mask).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_gradients_of_masked_reconstruction() -> None:
    prediction = patterns(3, 6, seed=1, dtype=torch.float64).requires_grad_()
    fmri, mask = patterns(3, 6, dtype=torch.float64), patterns(3, 6, seed=3) > 0
    assert torch.autograd.gradcheck(lambda p: losses.masked_reconstruction(p, fmri, mask), (prediction,))


def test_sparsification_zeroes_a_fifth_of_the_voxels_of_each_sample() -> None:
    fmri = patterns(500, 120) + 10
    sparse = losses.sparsify(fmri, 0.2, generator())
    zero = sparse == 0
    assert zero.sum(dim=1).eq(24).all()
    assert torch.equal(sparse[~zero], fmri[~zero])
    assert fmri.ne(0).all()  # the original is the positive of the self-contrast and stays as it was
    # other voxels in every sample: standard error of a frequency sqrt(0.2 * 0.8 / 500) = 0.018
    assert (zero.float().mean(dim=0) - 0.2).abs().max() < 0.08
    assert len(zero.unique(dim=0)) == 500


def test_no_sparsification() -> None:
    fmri = patterns(3)
    assert torch.equal(losses.sparsify(fmri, 0.0, generator()), fmri)


# ---------------------------------------------------------------- double contrast


CASES = [  # alpha_s, alpha_c, self_contrast_view, views that must be computed, views in the self-contrast
    (1, 0, "first", 1, [0]),
    (1, 0, "both", 1, [0]),
    (1, 0, "independent", 1, [0]),
    (0, 1, "first", 2, []),
    (0, 1, "both", 2, []),
    (0, 1, "independent", 2, []),
    (1, 0.5, "first", 2, [0]),
    (1, 0.5, "both", 2, [0, 1]),
    (1, 0.5, "independent", 3, [2]),
]


@pytest.mark.parametrize("negatives", ["anchors", "positives"])
@pytest.mark.parametrize(("alpha_s", "alpha_c", "view", "n_views", "in_self"), CASES)
def test_loss_is_equation_5_on_the_views_it_needs(
    alpha_s: float, alpha_c: float, view: Any, n_views: int, in_self: list[int], negatives: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = Phase1Config(alpha_s=alpha_s, alpha_c=alpha_c, self_contrast_view=view, negatives=negatives)
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS), patterns(6)
    sparsified = losses.sparsify(fmri, 0.2, generator(1))
    seen: list[Tensor] = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda *a: seen.append(predict(*a)) or seen[-1])
    total, parts = losses.double_contrastive_loss(model, fmri, sparsified, config, generator(2))

    views = torch.cat(seen).detach().split(6)
    assert len(views) == n_views
    order = random_order(6 * n_views, 8, generator(2))
    for v, masks in zip(views, order.split(6), strict=True):  # an own mask for each view
        torch.testing.assert_close(v, predict(sparsified, masks, 0.75))
    expected = {}
    if alpha_c:
        expected["cross_contrast"] = looped_info_nce(views[0], views[1], 0.1, negatives)
    if in_self:
        expected["self_contrast"] = sum(looped_info_nce(views[v], fmri, 0.1, negatives) for v in in_self)
    assert {n: p.item() for n, p in parts.items()} == pytest.approx(expected, rel=1e-4)
    weights = {"cross_contrast": alpha_c, "self_contrast": alpha_s}
    assert total.item() == pytest.approx(sum(weights[n] * p for n, p in expected.items()), rel=1e-4)


def test_baseline_of_masked_reconstruction_alone() -> None:
    config = Phase1Config(alpha_s=0, alpha_c=0, reconstruction_weight=2, mask_ratio=0.5)
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS), patterns(6)
    total, parts = losses.double_contrastive_loss(model, fmri, fmri, config, generator(1))
    prediction, mask = model(fmri, 0.5, generator(1))
    hidden = mask.repeat_interleave(4, dim=1)[:, :N_VOXELS]
    expected = F.mse_loss(prediction[hidden], fmri[hidden])
    assert list(parts) == ["reconstruction"]
    torch.testing.assert_close(total, 2 * expected)


def test_reconstruction_adds_to_the_contrast() -> None:
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS), patterns(6)
    plain, _ = losses.double_contrastive_loss(model, fmri, fmri, Phase1Config(), generator(1))
    config = Phase1Config(reconstruction_weight=0.3)
    total, parts = losses.double_contrastive_loss(model, fmri, fmri, config, generator(1))
    torch.testing.assert_close(total, plain + 0.3 * parts["reconstruction"])


# ---------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("micro_batch_size", [1, 4, 7, 100])
@pytest.mark.parametrize("view", ["first", "both", "independent"])
def test_micro_batches_keep_every_negative(view: Any, micro_batch_size: int) -> None:
    config = Phase1Config(self_contrast_view=view, reconstruction_weight=0.5)
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS).double(), patterns(10, dtype=torch.float64)
    full, micro = generator(3), generator(3)
    total, parts = losses.double_contrastive_loss(model, fmri, fmri, config, full)
    expected = torch.autograd.grad(total, list(model.parameters()))
    again, same_parts = losses.backward_in_micro_batches(model, fmri, fmri, config, micro, micro_batch_size)
    torch.testing.assert_close(again, total.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(same_parts, {n: p.detach() for n, p in parts.items()}, rtol=1e-12, atol=0)
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12, msg=name)
    assert torch.equal(full.get_state(), micro.get_state())  # the next step draws the same numbers


def test_micro_batches_bound_the_rows_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS), patterns(10)
    rows: list[int] = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda *a: rows.append(len(a[0])) or predict(*a))
    losses.backward_in_micro_batches(model, fmri, fmri, Phase1Config(), generator(), 7)
    assert rows == [7, 7, 6] * 2


def test_chunks_of_a_forward_pass_do_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fmri = MaskedAutoencoder(TINY, N_VOXELS), patterns(10)
    whole, _ = losses.double_contrastive_loss(model, fmri, fmri, Phase1Config(), generator())
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", 3)
    chunked, _ = losses.double_contrastive_loss(model, fmri, fmri, Phase1Config(), generator())
    torch.testing.assert_close(chunked, whole)
