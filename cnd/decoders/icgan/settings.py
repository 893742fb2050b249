"""Settings of the inversion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cnd.settings import Config, Positive, Rate, Weight

Whole = Annotated[int, Field(ge=0)]


class InversionConfig(Config):
    """How noise and dense vectors of the training images are found (the published code does not have it)."""

    noise_steps: Whole = 0  # of Adam on the noise vectors; 0: the encoder's, or zeros where there is none
    dense_steps: Whole = 6  # of Adam on the dense vectors, from those of the noise vectors on
    lr: Rate = 0.1  # in standard deviations of the vectors under normal noise; it falls to zero by a cosine
    feature_loss: Weight = 0.1  # of 1 - cos of instance features beside the mean absolute error of pixels
    batch_size: Positive = 50
