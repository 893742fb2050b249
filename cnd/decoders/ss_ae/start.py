"""Where the decoder's training starts: the layer that reads the voxels as a ridge regression of small maps of stimuli.

Most of what a short training has to find is this linear map out of noisy voxels, which has a closed form. The authors
start from random weights, keep them sparse by penalties and train for thousands of steps.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.ss_ae.model import ImageDecoder, unit_range
from cnd.linear.ridge import solve_leave_one_out
from cnd.protocols import FmriSplit

ALPHAS = np.logspace(1, 6, 11)
BATCH = 100  # images in memory at once


def small_maps(
    images: Float[Tensor, "n c h w"], features: nn.Module, size: tuple[int, int]
) -> Float[Tensor, "n k h w"]:
    """Maps that tell most of an image at the decoder's smallest size: its pixels at twice that size, four of them as
    channels of one position, then its features, coarsest first, which are averaged over each position.
    """
    pixels = F.pixel_unshuffle(F.adaptive_avg_pool2d(images, (2 * size[0], 2 * size[1])), 2)
    averages = [F.adaptive_avg_pool2d(maps, size) for maps in reversed(features(images))]
    return torch.cat([pixels, *averages], 1)


@torch.no_grad()
def start_from_ridge(decoder: ImageDecoder, features: nn.Module, items: FmriSplit, rows: np.ndarray) -> None:
    """Set the first channels of the layer that reads the voxels; any that are left keep their random weights.

    The penalty of each target is that of the least leave-one-out error; targets are z-scored.

    Args:
        rows: positions of the training items to learn from.
    """
    n_channels, size, device = decoder.start[0], decoder.start[1:], decoder.read.weight.device
    parts = [
        small_maps(unit_range(items.images, part, device), features, size)[:, :n_channels].cpu()
        for part in np.array_split(rows, range(BATCH, len(rows), BATCH))
    ]
    targets = torch.cat(parts).flatten(1).double().numpy()
    targets = (targets - targets.mean(0)) / np.maximum(targets.std(0), 1e-6)
    fmri = decoder.standardised(torch.from_numpy(items.fmri[rows])).double().numpy()
    mean = fmri.mean(0)
    weights, _ = solve_leave_one_out(fmri - mean, targets, ALPHAS)
    known = weights.shape[1]
    decoder.read.weight[:known] = torch.from_numpy(weights.T).to(decoder.read.weight)
    decoder.read.bias[:known] = torch.from_numpy(-mean @ weights).to(decoder.read.bias)
