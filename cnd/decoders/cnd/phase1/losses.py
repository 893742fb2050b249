"""The double contrastive loss (sec. 3.2, eq. 1 and 3 to 5) on whole patterns of voxels.

Padding never enters: predictions come from the model cut to the real voxels.

``negatives`` picks what an anchor is compared with besides its positive: ``"anchors"``, the other items' anchors,
as eq. 1, 3 and 4 are printed, or ``"positives"``, the other items' positives, the usual in-batch InfoNCE.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cnd.decoders.cnd.phase1.model import MaskedAutoencoder, patch_mask, random_order
from cnd.decoders.cnd.phase1.settings import Phase1Config
from cnd.decoders.training import autocast

Patterns = Float[Tensor, "batch voxels"]
Scalar = Float[Tensor, ""]

ROWS_AT_ONCE = 128
"""Patterns of one forward pass. On a CPU the activations of more leave its caches (10 to 20 % slower at width 64);
a GPU is busy with as many."""


def info_nce(
    anchor: Patterns, positive: Patterns, temperature: float, negatives: Literal["anchors", "positives"]
) -> Scalar:
    """InfoNCE with cosine similarity, mean over the batch (eq. 1).

    -log exp(s_ii) / (exp(s_ii) + sum_{k != i} exp(s_ik)), s_ii = cos(anchor_i, positive_i) / temperature and
    s_ik = cos(anchor_i, other_k) / temperature, ``other`` being the anchors or the positives.
    """
    anchor, positive = F.normalize(anchor, dim=1), F.normalize(positive, dim=1)
    s_ii = (anchor * positive).sum(dim=1) / temperature
    s_ik = anchor @ (anchor if negatives == "anchors" else positive).T / temperature
    same = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    return (torch.where(same, s_ii, s_ik).logsumexp(dim=1) - s_ii).mean()


def cross_contrast(first: Patterns, second: Patterns, config: Phase1Config) -> Scalar:
    """Contrast of two masked views' predictions: anchor v_i^dm1, positive v_i^dm2 (eq. 3)."""
    return info_nce(first, second, config.temperature, config.negatives)


def self_contrast(prediction: Patterns, fmri: Patterns, config: Phase1Config) -> Scalar:
    """Contrast of a masked view's prediction with its original: anchor v_i^dm, positive v_i (eq. 4)."""
    return info_nce(prediction, fmri, config.temperature, config.negatives)


def masked_reconstruction(prediction: Patterns, fmri: Patterns, mask: Bool[Tensor, "batch voxels"]) -> Scalar:
    """Mean squared error over the masked voxels (True in ``mask``); padded voxels are not among them."""
    return ((prediction - fmri).square() * mask).sum() / mask.sum()


def sparsify(fmri: Patterns, fraction: float, generator: torch.Generator) -> Patterns:
    """Set a random ``fraction`` of the voxels of each sample to zero, others for each sample (sec. 8.2)."""
    n_zero = round(fraction * fmri.shape[1])
    if n_zero == 0:
        return fmri
    noise = torch.rand(fmri.shape, generator=generator, device=generator.device)
    return fmri.scatter(1, noise.topk(n_zero, dim=1, sorted=False).indices.to(fmri.device), 0.0)


def count_views(config: Phase1Config) -> int:
    """Masked views of a pattern that the weights call for: 1, 2, or 3 with a view of its own for the self-contrast."""
    if config.alpha_c == 0:
        return 1
    return 3 if config.alpha_s > 0 and config.self_contrast_view == "independent" else 2


def draw_inputs(
    model: MaskedAutoencoder, sparsified: Patterns, config: Phase1Config, generator: torch.Generator
) -> tuple[Float[Tensor, "rows voxels"], Int[Tensor, "rows patches"]]:
    """Every pattern once a view, view by view, each row with a random mask (order of patches) of its own."""
    inputs = sparsified.repeat(count_views(config), 1)
    return inputs, random_order(len(inputs), model.encoder.n_patches, generator, inputs.device)


def predict(
    model: MaskedAutoencoder,
    inputs: Float[Tensor, "rows voxels"],
    order: Int[Tensor, "rows patches"],
    config: Phase1Config,
) -> Float[Tensor, "rows voxels"]:
    """Predictions of all voxels; the network runs in ``config.precision``, the result has that of ``inputs``."""
    with autocast(config.precision, inputs.device):
        prediction = model.predict(inputs, order, config.mask_ratio)
    return prediction.to(inputs.dtype)


def combine(
    views: Float[Tensor, "views batch voxels"],
    fmri: Patterns,
    order: Int[Tensor, "rows patches"],
    patch_size: int,
    config: Phase1Config,
) -> tuple[Scalar, dict[str, Scalar]]:
    """L = alpha_C L_C + alpha_S L_S, plus the masked reconstruction of the first view for baselines (eq. 5).

    Args:
        views: predictions of all voxels from each masked view.
        fmri: the original patterns, neither masked nor sparsified.
        order: the masks, as drawn by :func:`draw_inputs`.
    """
    parts: dict[str, Scalar] = {}
    if config.alpha_c > 0:
        parts["cross_contrast"] = cross_contrast(views[0], views[1], config)
    if config.alpha_s > 0:
        chosen = {"first": views[:1], "both": views[:2], "independent": views[-1:]}[config.self_contrast_view]
        parts["self_contrast"] = torch.stack([self_contrast(view, fmri, config) for view in chosen]).sum()
    if config.reconstruction_weight > 0:
        mask = patch_mask(order[: len(fmri)], config.mask_ratio).repeat_interleave(patch_size, dim=1)
        parts["reconstruction"] = masked_reconstruction(views[0], fmri, mask[:, : fmri.shape[1]])
    weights = {
        "cross_contrast": config.alpha_c,
        "self_contrast": config.alpha_s,
        "reconstruction": config.reconstruction_weight,
    }
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum(), parts


def double_contrastive_loss(
    model: MaskedAutoencoder, fmri: Patterns, sparsified: Patterns, config: Phase1Config, generator: torch.Generator
) -> tuple[Scalar, dict[str, Scalar]]:
    """Mask, predict and contrast one batch (eq. 5). What a weight of 0 makes useless is not computed.

    Args:
        fmri: the original patterns: positives of the self-contrast, target of the reconstruction.
        sparsified: what is masked and fed to the model.

    Returns:
        total and its unweighted parts, among "cross_contrast", "self_contrast", "reconstruction".
    """
    inputs, order = draw_inputs(model, sparsified, config, generator)
    chunks = _slices(len(inputs), ROWS_AT_ONCE)
    views = torch.cat([predict(model, inputs[rows], order[rows], config) for rows in chunks])
    return combine(views.view(-1, *fmri.shape), fmri, order, model.encoder.config.patch_size, config)


def backward_in_micro_batches(
    model: MaskedAutoencoder,
    fmri: Patterns,
    sparsified: Patterns,
    config: Phase1Config,
    generator: torch.Generator,
    micro_batch_size: int,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """As :func:`double_contrastive_loss` then ``backward()``, with ``micro_batch_size`` patterns in memory at once.

    Every pattern keeps all its negatives: a first pass without graph gives the predictions, the loss its gradient
    with respect to them, and a second pass with the same masks carries that on into the weights. The gradient is
    the full batch's but for rounding; the price is one more forward pass. With ``scaler`` it comes scaled.
    """
    inputs, order = draw_inputs(model, sparsified, config, generator)
    chunks = _slices(len(inputs), micro_batch_size)
    with torch.no_grad():
        views = torch.cat([predict(model, inputs[rows], order[rows], config) for rows in chunks])
    views.requires_grad_()
    total, parts = combine(views.view(-1, *fmri.shape), fmri, order, model.encoder.config.patch_size, config)
    (gradient,) = torch.autograd.grad(total if scaler is None else scaler.scale(total), views)
    for rows in chunks:
        torch.autograd.backward(predict(model, inputs[rows], order[rows], config), gradient[rows])
    return total.detach(), parts


def _slices(n_rows: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n_rows, size)]
