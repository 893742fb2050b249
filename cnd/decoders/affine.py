"""Decoders that are one affine map from voxels into the concept bank, and their exported form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Decoder, Lab

if TYPE_CHECKING:
    from torch import Tensor, nn

PROBE = 1024.0  # how far the map is followed along each voxel: float32 then holds its slope beside its intercept
AT_ONCE = 1000  # voxels


class AffineDecoder(Decoder):
    """What it fits is a :class:`cnd.decoders.conditioned.ByEmbedding` of an affine function."""

    def network(self, n_voxels: int, bank: Tensor, time_embedding_width: int | None) -> nn.Module:
        """The untrained map, with the bank among its weights: what an exported decoder holds."""
        from cnd.decoders.affine_map import AffineMap

        return AffineMap(n_voxels, bank, time_embedding_width)

    def export(self, lab: Lab, n_voxels: int, experiment: dict[str, Any], folder: Path) -> None:
        """Fit the map again, which has no chance in it, and write it as a pipeline of diffusers."""
        import torch

        from cnd.generators.pipeline import write_pipeline

        if not self.has_condition:
            raise UserError(
                f"decoder.kind = {self.kind}: its condition alone does not give its images, so it cannot be exported "
                "as a pipeline; choose 'ridge'"
            )
        if not lab.given.generator.has_cross_attention:
            kind = lab.given.generator.kind
            raise UserError(f"generator.kind = {kind}: cannot be exported as a pipeline; use 'embedded' or 'ldm'")
        fitted: Any = self.fit(lab.value(lab.given.training), lab)
        weight, bias = coefficients(fitted.predict, n_voxels)
        weights = {"linear.weight": torch.from_numpy(weight), "linear.bias": torch.from_numpy(bias)}
        write_pipeline(experiment, n_voxels, weights, lab.generator, folder)


def coefficients(affine: Callable[[np.ndarray], np.ndarray], n_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Slope float32 [width, n_voxels] and intercept [width] of an affine function of patterns [n, n_voxels]."""
    bias = affine(np.zeros((1, n_voxels), np.float32))[0]
    slopes = []
    for first in range(0, n_voxels, AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, n_voxels))
        probes = np.zeros((len(rows), n_voxels), np.float32)
        probes[np.arange(len(rows)), rows] = PROBE
        slopes.append((affine(probes) - bias) / PROBE)
    return np.ascontiguousarray(np.concatenate(slopes).T, dtype=np.float32), bias.astype(np.float32)
