"""Work-arounds for the libraries we build on; each says which fault it answers and when it can go."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_torchvision_operators: Any = None  # must stay alive: freeing the library unregisters its operators


def make_torchvision_importable() -> None:
    """Let ``import torchvision`` (hence timm and diffusers) work beside a CPU-only PyTorch.

    The wheel of torchvision is built for CUDA: without the CUDA libraries its compiled operators cannot
    load and the import fails with "operator torchvision::nms does not exist". Nothing here calls those
    operators, so declaring their signatures is enough. It does nothing where the compiled part loads.
    Call it before the first import of timm or diffusers in a process.
    """
    global _torchvision_operators
    if _torchvision_operators is not None:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch

    for compiled in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _torchvision_operators = library
