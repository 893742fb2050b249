"""What a reader must know about the maps, in plain words: where the hidden states come from, what a quantity shows."""

from __future__ import annotations

from cnd.cortex.drawing.maps import ENCODING, PATTERN, WEIGHT, Quantity

ORIGIN = {
    "reconstruction": (
        "The hidden states come from a UNet that was steered by conditions decoded from these very voxels, so voxels "
        "must predict them to some degree: a replication of the paper, not evidence of what the brain represents."
    ),
    "stimulus": (
        "The hidden states come from the true image, noised to the step, with the true class: the voxels had no part "
        "in making them. What voxels predict here they share with the stimulus (not circular)."
    ),
}
_CAUTION = {
    WEIGHT: (
        "A large weight does not mean that a voxel carries the information: ridge also weights voxels that only cancel "
        "the noise of others (Haufe et al. 2014)."
    ),
    PATTERN: (
        "The pattern is the covariance of a voxel with the decoded components (Haufe et al. 2014, without the inverse "
        "covariance of the components): how strongly the voxel follows them. It is not a test."
    ),
    ENCODING: (
        "Only voxels that are predicted better than after training on permuted pairs have a colour: in at least one of "
        "the averaged layers or steps (smallest p times their number, then FDR {fdr} over voxels). The palest colour "
        "is an R² of 0 or less."
    ),
}


def caution(quantity: Quantity, fdr: float) -> str:
    """What a map of ``quantity`` does not say; ``fdr`` is the rate that its mask keeps."""
    return _CAUTION[quantity].format(fdr=percent(fdr))


def percent(share: float) -> str:
    """0.05 as ``5 %``."""
    return f"{100 * share:.3g} %"
