"""How two much-cited papers compute the eight scores that the field prints: sizes, networks and files of weights.

Read from their public code: MedARC-AI/MindEyeV2, src/final_evaluations.ipynb (Scotti et al. 2024), and
ozcelikfu/brain-diffuser, scripts/eval_extract_features.py and evaluate_reconstruction.py (Ozcelik & VanRullen 2023).
Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cnd.errors import UserError
from cnd.keys import file_hash

ConventionName = Literal["mindeye2", "brain_diffuser"]
NetworkName = Literal["alexnet2", "alexnet5", "inception_v3", "clip_vit_l14", "efficientnet_b1", "swav"]

FOLDER = Path("pretrained/metrics")
"""Where the weights are looked for, unless a metric says otherwise."""


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        sha256: hash of its content, or the leading digits of it that its publisher gives; "" where none is known.
        hash_from: where that hash stands.
    """

    file: str
    url: str
    sha256: str
    hash_from: str = "its file name, as torch.hub checks it"

    def problem(self, path: Path) -> str | None:
        """What is wrong with a file that should be this one, and the remedy; None where nothing is known to be."""
        remedy = f"get {self.url} (python -m cnd.metrics weights)"
        if not path.is_file():
            return f"{path}: no such file; {remedy}"
        if not file_hash(path).startswith(self.sha256):
            return f"{path}: is another file (SHA-256 {file_hash(path)[:16]}..., not {self.sha256[:16]}...); {remedy}"
        return None


_TORCH = "https://download.pytorch.org/models/"
_CLIP = "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
ALEXNET = Weights("alexnet-owt-7be5be79.pth", f"{_TORCH}alexnet-owt-7be5be79.pth", "7be5be79")
INCEPTION = Weights("inception_v3_google-0cc3c7bd.pth", f"{_TORCH}inception_v3_google-0cc3c7bd.pth", "0cc3c7bd")
CLIP = Weights(
    "ViT-L-14.pt",
    f"https://openaipublic.azureedge.net/clip/models/{_CLIP}/ViT-L-14.pt",
    _CLIP,
    "its address in github.com/openai/CLIP, clip/clip.py",
)
EFFICIENTNET_1 = Weights(
    "efficientnet_b1_rwightman-bac287d4.pth", f"{_TORCH}efficientnet_b1_rwightman-bac287d4.pth", "bac287d4"
)
EFFICIENTNET_2 = Weights("efficientnet_b1-c27df63c.pth", f"{_TORCH}efficientnet_b1-c27df63c.pth", "c27df63c")
SWAV = Weights(
    "swav_800ep_pretrain.pth.tar", "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar", "", ""
)

TITLES: dict[NetworkName, str] = {
    "alexnet2": "AlexNet(2)",  # after the second convolution and its ReLU: features.4 of torchvision's
    "alexnet5": "AlexNet(5)",  # after the fifth: features.11
    "inception_v3": "Inception v3",  # pooled
    "clip_vit_l14": "CLIP ViT-L/14",  # image embedding, projected
    "efficientnet_b1": "EfficientNet-B1",  # pooled
    "swav": "SwAV",  # ResNet-50, pooled
}


@dataclass(frozen=True)
class Convention:
    """One way to compute them.

    Attributes:
        resizing: by torch in floating point, antialiased; or by Pillow in 8 bits.
        first: pixels a side that every image has before anything else; None: as it comes.
        pixels: pixels a side for PixCorr and SSIM; None: reconstructions take the size of the stimuli, which stay.
        pixel_filter: interpolation for these two; the networks get bilinear.
        sizes: pixels a side for each network.
    """

    title: str
    source: str
    resizing: Literal["torch", "pillow"]
    first: int | None
    pixels: int | None
    pixel_filter: Literal["bilinear", "bicubic"]
    sizes: Mapping[NetworkName, int]
    weights: Mapping[NetworkName, Weights]


_SHARED: dict[NetworkName, Weights] = {
    "alexnet2": ALEXNET, "alexnet5": ALEXNET, "inception_v3": INCEPTION, "clip_vit_l14": CLIP, "swav": SWAV
}  # fmt: skip

CONVENTIONS: dict[ConventionName, Convention] = {
    "mindeye2": Convention(
        title="MindEye2",
        source="github.com/MedARC-AI/MindEyeV2, src/final_evaluations.ipynb",
        resizing="torch",  # antialiased by default in the torchvision 0.17 of its requirements, not before
        first=256,
        pixels=425,
        pixel_filter="bilinear",
        sizes={
            "alexnet2": 256, "alexnet5": 256, "inception_v3": 342, "clip_vit_l14": 224, "efficientnet_b1": 255,
            "swav": 224,
        },
        weights=_SHARED | {"efficientnet_b1": EFFICIENTNET_2},  # EfficientNet_B1_Weights.DEFAULT
    ),
    "brain_diffuser": Convention(
        title="Brain-Diffuser",
        source="github.com/ozcelikfu/brain-diffuser, scripts/eval_extract_features.py and evaluate_reconstruction.py",
        resizing="pillow",
        first=None,
        pixels=None,  # its stimuli have 425
        pixel_filter="bicubic",  # Image.resize without an argument
        sizes=dict.fromkeys(TITLES, 224),
        weights=_SHARED | {"efficientnet_b1": EFFICIENTNET_1},  # efficientnet_b1(weights=True): the first version
    ),
}  # fmt: skip

assert set(CONVENTIONS) == set(get_args(ConventionName)) and set(TITLES) == set(get_args(NetworkName))


def need_stimuli(stimuli_size: int, metric: str) -> None:
    """Raises:
    UserError: there are no stimuli to compare with.
    """
    if not stimuli_size:
        raise UserError(
            f"evaluation.metrics: {metric} compares with stimuli, and the data has labels only; leave the metric out"
        )
