"""Data sets, one config each; what reads them is ``cnd/data/<kind>.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnd.settings import Config, Fraction, Positive, Rate

# ---------------------------------------------------------------- unlabelled pools for pre-training


class HcpPool(Config):
    """fMRI without stimuli (:mod:`cnd.data.hcp`): packed HCP (``.npz`` with V1..V4) or any time-by-vertex array."""

    kind: Literal["hcp"] = "hcp"
    path: Path
    window: Positive = 1  # volumes averaged into one pattern; the volumes are z-scored over time first


class SubjectPool(Config):
    """The training fMRI of another subject of the same data set."""

    kind: Literal["subject"] = "subject"
    subject: Positive


PoolConfig = Annotated[HcpPool | SubjectPool, Field(discriminator="kind")]

# ---------------------------------------------------------------- data sets


class SimulatedData(Config):
    """Simulated visual cortex seeing rendered objects (:mod:`cnd.data.simulated`)."""

    kind: Literal["simulated"] = "simulated"
    subject: Annotated[int, Field(ge=1, le=5)] = 1  # own receptive fields, mixing and voxel count
    brain_seed: Annotated[int, Field(ge=0)] = 0  # another seed is another set of five subjects
    stimulus_seed: Annotated[int, Field(ge=0)] = 0
    n_voxels: Annotated[int, Field(ge=64, le=6000)] = 1200  # of subject 1; the others differ by up to 15 %
    images_per_category: Positive = 8  # of the 150 training categories
    test_images_per_category: Positive = 4  # of the 50 test categories
    test_repetitions: Positive = 35  # trials averaged for a test item
    snr: Rate = 0.03  # median over voxels of single-trial signal variance / noise variance
    noise_correlation: Fraction = 0.3  # share of the noise variance that is smooth over the cortex
    drift: Fraction = 0.2  # share of the noise variance that drifts slowly over a run
    n_unlabelled: Annotated[int, Field(ge=0)] = 3000  # rest-like patterns, the stand-in for HCP
    unlabelled_signal: bool = True  # False: a null pool of noise without the generative subspace
    validation_split: bool = False  # score held-out *training* categories instead of the test set

    @model_validator(mode="after")
    def _noise_shares(self) -> SimulatedData:
        if self.noise_correlation + self.drift > 1:
            raise ValueError("noise_correlation + drift must not exceed 1: both are shares of the noise variance")
        return self


class Digits69Data(Config):
    """Handwritten sixes and nines, real fMRI of visual cortex (:mod:`cnd.data.digits69`)."""

    kind: Literal["digits69"] = "digits69"
    path: Path | None = None  # digit69_28x28.mat, which is not redistributable
    n_folds: Annotated[int, Field(ge=2, le=50)] = 10  # cross-validation over all 100 items
    fold: Annotated[int, Field(ge=0)] | None = None  # None pools every fold, a number runs that one
    unlabelled: tuple[PoolConfig, ...] = ()  # for pre-training; their voxels need not match

    @model_validator(mode="after")
    def _fold_exists(self) -> Digits69Data:
        if self.fold is not None and self.fold >= self.n_folds:
            raise ValueError(f"fold {self.fold} does not exist: there are {self.n_folds} folds, counted from 0")
        return self


class GodData(Config):
    """Generic Object Decoding, Horikawa & Kamitani 2017 (:mod:`cnd.data.god`): all public layouts."""

    kind: Literal["god"] = "god"
    path: Path | None = None  # folder with Subject{1..5}_ImageNet{Training,Test}.h5, Subject{1..5}.h5 or sbj_{1..5}.npz
    images: Path | None = None  # images_256.npz, or a folder with one image a stimulus id; by default beside ``path``
    image_size: Positive = 256
    subject: Annotated[int, Field(ge=1, le=5)] = 1
    roi: tuple[str, ...] = ("VC",)  # VC, V1..V4, LOC, FFA, PPA, LVC, HVC
    test_trials: Literal["averaged", "single"] = "averaged"  # over the 35 repetitions
    unlabelled: tuple[PoolConfig, ...] = ()


class Bold5000Data(Config):
    """BOLD5000, Chang et al. 2019 (:mod:`cnd.data.bold5000`): GLMsingle betas by area."""

    kind: Literal["bold5000"] = "bold5000"
    path: Path | None = None  # folder with CSIx_GLMbetas-...npy and Stimuli_Presentation_Lists/
    images: Path | None = None  # folder with the presented images; by default Scene_Stimuli beside ``path``
    image_size: Positive = 256
    subject: Annotated[int, Field(ge=1, le=4)] = 1  # CSI4 has fewer sessions
    roi: tuple[str, ...] = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
    test_trials: Literal["averaged", "single"] = "averaged"  # of the 113 repeated images
    unlabelled: tuple[PoolConfig, ...] = ()


class FolderData(Config):
    """Your own data in one documented folder (:mod:`cnd.data.folder`)."""

    kind: Literal["folder"] = "folder"
    path: Path | None = None  # train.npz and test.npz (or .parquet, .h5)
    image_size: Positive = 256
    subject: str | None = None  # needed where the files hold several
    roi: tuple[str, ...] = ()  # keep these areas only; empty keeps every voxel
    unlabelled: tuple[PoolConfig, ...] = ()


FileData = Digits69Data | GodData | Bold5000Data | FolderData
"""Data sets read from files that the user brings."""

DataConfig = Annotated[SimulatedData | Digits69Data | GodData | Bold5000Data | FolderData, Field(discriminator="kind")]
