"""Settings of SS-AE: its two networks, their losses and their trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cnd.settings import Config, Positive, Rate, Weight

Whole = Annotated[int, Field(ge=0)]
Channels = Annotated[tuple[Positive, ...], Field(min_length=2)]


class SsAeEncoderConfig(Config):
    """Image to fMRI, trained on pairs. In brackets what the authors' code has for their GOD images of 112x112."""

    width: Positive = 16  # channels of each scale after its convolution [32]
    grid: Positive = 8  # positions a side that a voxel weighs [26 and 12]
    cosine: Weight = 0.1  # weight of the cosine distance beside the squared error; in the cycle of fMRI too
    max_shift: Whole = 2  # pixels that images are shifted by, at most [3, 3 %]
    max_steps: Positive = 100  # [950: 50 epochs]
    batch_size: Annotated[int, Field(ge=2)] = 64  # [64]
    lr: Rate = 3e-3  # of Adam, a cosine to zero [1e-3, a fifth of it every 10 epochs]
    weight_decay: Weight = 0.1  # of AdamW [none; sparseness and smoothness of the readout]


class SsAeDecoderConfig(Config):
    """fMRI to image, trained with the encoder frozen. In brackets as above."""

    channels: Channels = (32, 32, 16, 8)  # at the smallest size, then after each doubling [64, 64, 64, 64]
    kernel_size: Literal[3, 5, 7] = 3  # [5]
    pixel: Weight = 2.5  # weights of the image loss: absolute error of pixels [1, of pixels over their mean, about 0.4]
    perceptual: Weight = 1.0  # cosine distance of features, mean over scales [8.4, VGG16]
    total_variation: Weight = 0.3  # [0.3]
    image_cycle: Weight = 1.0  # of the image loss of images sent through the encoder and back [1]
    # of the fMRI loss of patterns sent through the decoder and back [1, and 0 in their script for RGB]
    fmri_cycle: Weight = 1.0
    images: Path | None = None  # folder of PNG or JPEG files that join the training images in the image cycle
    pools: bool = False  # unlabelled fMRI of the data source joins the training patterns in the fMRI cycle
    transductive: bool = False  # [True] fMRI of the test set joins them, and the report says so loudly
    max_steps: Positive = 250  # [7500: 150 epochs]
    batch_size: Positive = 12  # pairs [24]
    image_batch: Positive = 20  # images of the image cycle [48]
    fmri_batch: Positive = 8  # patterns of the fMRI cycle [16]
    lr: Rate = 3e-3  # of Adam with AMSGrad, a cosine to zero [5e-3, a fifth of it at epochs 100 and 140]
    voxel_lr: Rate = 1e-4  # of the layer that reads the voxels: it has many inputs, which are mostly noise [5e-3, too]
    voxel_start: Literal["ridge", "random"] = "ridge"  # of that layer: see the module ``start`` [random, and penalties]
    checkpoint: Literal["last", "validation"] = "validation"  # validation: the least image loss of held-out items
    n_checkpoints: Positive = 8  # evenly spaced; at each the weights are scored
    curve_items: Whole = 60  # held-out items whose reconstructions are scored there; 0: no curve
