"""An affine map from voxels into the concept bank, as a module."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cnd.protocols import Condition


class AffineMap(nn.Module):
    """From fMRI [b, n_voxels] to the condition of a vector in the space of the bank.

    Args:
        time_embedding_width: of the generator, where the pooled vector is added to the time embedding as it is: then
            nothing is added. None where it takes the place of a class embedding.
    """

    bank: Tensor

    def __init__(
        self, n_voxels: int, bank: Float[Tensor, "concepts width"], time_embedding_width: int | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.linear = nn.Linear(n_voxels, bank.shape[1])
        self.time_embedding_width = time_embedding_width

    def forward(self, fmri: Float[Tensor, "b voxels"]) -> tuple[Condition, None]:
        """The condition, and no attention."""
        vector = self.linear(fmri)
        width = self.time_embedding_width
        pooled = vector if width is None else torch.zeros(len(vector), width).to(vector)
        return Condition(vector[:, None], pooled), None
