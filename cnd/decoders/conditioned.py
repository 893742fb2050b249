"""What decoders share that steer the frozen generator: from a condition to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.protocols import Condition, Generator, Lab, Noise, Patterns, Reconstruction

if TYPE_CHECKING:
    from torch import Tensor


class ByCondition(ABC):
    """Draws each item under its condition (:class:`cnd.protocols.Conditioning`)."""

    def __init__(self, generator: Generator, lab: Lab, facts: Mapping[str, Any] | None = None) -> None:
        self.generator, self.lab, self.facts = generator.to(lab.device), lab, dict(facts or {})

    @abstractmethod
    def condition(self, items: Patterns) -> Condition:
        """What steers the generator for each item."""

    def attention(self, items: Patterns) -> Tensor | None:
        """Attention over the concept bank, [item, concepts]; None where there is none."""
        return None

    def start(self, items: Patterns, noise: Tensor) -> tuple[Tensor, int]:
        """What denoising starts from, [item, sample, c, h, w] as the common noise, and the steps left out before it."""
        return noise, 0

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """DDIM from the common noise under each item's condition."""
        from cnd.generators.sampling import draw

        condition, attention = self.condition(items).to(self.lab.device), self.attention(items)
        start, skip = self.start(items, noise.latents(len(items), self.generator.latent_shape))
        report = lambda fraction, seen, metrics: self.lab.report("sample", fraction, seen, metrics)  # noqa: E731
        images = draw(self.lab.sampling, self.generator, condition, start, report, skip)
        return Reconstruction(images, None if attention is None else attention.cpu().numpy(), self.facts)


class ByEmbedding(ByCondition):
    """Vectors in the space of the concept bank take the place of the class embedding.

    Args:
        predict: fMRI float32 [n, voxels] to vectors [n, width].
    """

    def __init__(
        self, predict: Callable[[np.ndarray], np.ndarray], lab: Lab, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(lab.generator, lab, facts)
        self.predict = predict

    def condition(self, items: Patterns) -> Condition:
        """The predicted vectors as conditions."""
        import torch

        vectors = torch.from_numpy(np.ascontiguousarray(self.predict(items.fmri), dtype=np.float32))
        return self.generator.embedding_condition(vectors)
