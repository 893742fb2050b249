"""The judges F of Algorithm 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cnd.networks import load_resnet


class ImageClassifier:
    """A frozen network that gives class probabilities of uint8 images (:class:`cnd.protocols.Classifier`)."""

    def __init__(self, network: nn.Module):
        self.network = network

    @classmethod
    def from_folder(cls, folder: Path) -> ImageClassifier:
        """A network that ships beside an embedded generator."""
        return cls(load_resnet(folder))

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax over classes, float64 [n, classes], of images uint8 [n, channels, height, width].

        The softmax is taken in float64: in float32 the many classes a confident network rules out would tie at 0.
        """
        parts = [self.network(p.float() / 127.5 - 1).double().softmax(1) for p in torch.from_numpy(images).split(200)]
        return torch.cat(parts).numpy()
