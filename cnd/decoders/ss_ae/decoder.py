"""SS-AE (Gaziv et al. 2022; Beliy et al. 2019), reference [6] of the paper: reconstruction without a generator.

An encoder from images to fMRI is trained on pairs. Then, with the encoder frozen, a decoder from fMRI to images is
trained on pairs, on images without fMRI (encoder, then decoder: the image must come back) and on fMRI without images
(decoder, then encoder: the pattern must come back). Nothing steers a diffusion model: there is no condition to analyse.

Departures from the published method, besides sizes and schedules (:mod:`cnd.decoders.ss_ae.settings`):

- Features of encoder and perceptual loss are local Gabor energy unless ``perceptual_weights`` names weights of a VGG
  network, which cannot be downloaded at run time. Those of the judge, which scores the result, take no part.
- Unlabelled fMRI is that of the training set and, if asked for, of the data source's pool; theirs was that of the test
  set, which here is the switch ``decoding.transductive``.
- Unlabelled images are those of the training set and of a folder of the user's; theirs were 50,000 of ImageNet.
- The layer that reads the voxels starts from a ridge regression instead of random weights under penalties on
  sparseness (``decoding.voxel_start``), and the encoder has weight decay for theirs. Patterns are z-scored over voxels
  on their way into the decoder. Weights of voxels by signal-to-noise ratio, which takes test repetitions, are left out.
- The checkpoint is that of the least loss of held-out training items; theirs is that of the least training loss.

No trained encoder or decoder is published: release v1 of github.com/WeizmannVision/SelfSuperReconst holds data, MiDaS's
depth networks, and VGG networks of ImageNet with depth (``vgg19_rgbd_large_norm_within_img_best.pth.tar``, four
channels, or one). For RGB its scripts take torchvision's VGG, and so does ``perceptual_weights``. What its scripts
leave (``checkpoints/NAME_best.pth.tar``: ``state_dict`` with ``module.`` before each name) is refused in one line.

- Its decoder (``input_fc``, ``blocks.I.2`` and ``.3``, ``top.1``) has our layers in our order at ``channels: [64, 64,
  64, 64]``, ``kernel_size: 5`` and images of 112x112, but enlarges by bicubic interpolation, ours by bilinear, and
  reads patterns as they are, where ours z-scores each over its voxels. Loading it would need both as switches, and the
  voxels in the order of its ``sbj_X.npz``.
- Its encoder is another network: VGG19 before the poolings, bicubic to 112x112 first; batch norm, convolutions of
  stride 2; 3x3 patches of 26x26 and 12x12 positions; a map over space for each voxel that scales of one size share, a
  mixture of channels and a bias for each scale, then their sum weighted by absolute values (``branch_mix``). Ours has
  one grid, one mixture and one bias for all scales, takes features after the poolings, and the image besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from cnd.data.pictures import images_in, size_of
from cnd.decoders.ss_ae.settings import SsAeDecoderConfig, SsAeEncoderConfig
from cnd.decoders.ss_ae.step import WEIGHTS, decoder_step, encoder_step, image_decoder
from cnd.protocols import Decoder, Fitted, Given, Lab, Noise, Patterns, Reconstruction, TrainingSet
from cnd.settings import FileOf
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.decoders.ss_ae.model import ImageDecoder


class SsAeDecoder(Decoder):
    """Self-supervised autoencoder: an image encoder, and a decoder that is trained through it."""

    uses_generator: ClassVar[bool] = False
    shares: ClassVar[Mapping[str, float]] = {"encoder": 0.3, "decoder": 0.65}
    kind: Literal["ss_ae"] = "ss_ae"
    perceptual_weights: Path | None = None  # of torchvision's vgg16 or vgg19 (.pth or .safetensors); None: Gabor energy
    encoding: SsAeEncoderConfig = SsAeEncoderConfig()
    decoding: SsAeDecoderConfig = SsAeDecoderConfig()

    def steps(self, given: Given) -> dict[str, Step]:
        """``ss_ae_encoder``, then ``ss_ae_decoder``."""
        weights = None if self.perceptual_weights is None else FileOf(path=self.perceptual_weights)
        first = encoder_step(self.encoding, weights, given)
        second = decoder_step(self.encoding, self.decoding, weights, first, given)
        return {"ss_ae_encoder": first, "ss_ae_decoder": second}

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """The trained decoder."""
        from safetensors.torch import load_file

        folder: Path = lab.value(self.steps(lab.given)["ss_ae_decoder"])
        network = image_decoder(self.decoding, train, seed=0)
        network.load_state_dict(load_file(folder / WEIGHTS))
        return _FittedSsAe(network.eval().to(lab.device), lab)

    def missing(self) -> list[str]:
        """The weights or the folder of images, where they are not there."""
        found = []
        weights, images = self.perceptual_weights, self.decoding.images
        if weights is not None and not weights.is_file():
            found.append(
                f"{weights}: no such file (decoder.perceptual_weights); give those of torchvision's vgg16 or vgg19"
            )
        if images is not None and not (images.is_dir() and images_in(images)):
            found.append(
                f"{images}: no folder with PNG or JPEG files (decoder.decoding.images); give one or leave it out"
            )
        return found

    def check(self) -> None:
        """Read the weights and the heads of the images, where there are any.

        Raises:
            UserError: one cannot be read.
        """
        if self.perceptual_weights is not None:
            from cnd.decoders.ss_ae.features import Vgg

            Vgg(self.perceptual_weights)
        if self.decoding.images is not None:
            for path in images_in(self.decoding.images):
                size_of(path)

    def warnings(self) -> list[str]:
        """What its scores do not compare with."""
        found = []
        if self.decoding.transductive:
            found.append(
                "Transductive: fMRI of the test set entered the training of SS-AE (decoder.decoding.transductive); "
                "scores are not comparable with an inductive protocol."
            )
        if self.perceptual_weights is None:
            found.append(
                "SS-AE without VGG: its features are Gabor energy, to which the simulated cortex responds too; the "
                "published method has VGG networks trained on ImageNet (decoder.perceptual_weights)."
            )
        return found


class _FittedSsAe:
    def __init__(self, network: ImageDecoder, lab: Lab) -> None:
        self.network, self.lab = network, lab

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """One image of each item, the same for every sample: nothing is drawn by chance."""
        from cnd.decoders.ss_ae.model import reconstruct

        images = reconstruct(self.network, np.ascontiguousarray(items.fmri))
        self.lab.report("sample", 1.0, len(items), {})
        return Reconstruction(np.repeat(images[:, None], noise.samples, axis=1))
