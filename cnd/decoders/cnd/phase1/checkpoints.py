"""Encoder checkpoints: ours, and those of MinD-Vis (Chen et al. 2023), in both directions.

MinD-Vis saves ``{"model": state dict, "optimizer", "epoch", "scaler", "config"}`` by ``torch.save`` (``save_model`` of
its ``sc_mbm/utils.py``); the state dict is that of ``MAEforFMRI`` (``sc_mbm/mae_for_fmri.py``). But for names it is the
network that we have with ``encoder.layout = mind_vis`` (:class:`cnd.decoders.cnd.phase1.settings.EncoderConfig`),
tensor by tensor. No tensor of ours or theirs holds the layout's epsilon, so a checkpoint of the other layout is refused
rather than run wrongly.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cnd.checkpoint_files import check_values, find_weights, open_checkpoint
from cnd.decoders.cnd.phase1.model import MaskedAutoencoder, Positions
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Layout
from cnd.errors import UserError

NAMES = {  # beginning of a name in MinD-Vis: beginning of the name here
    "patch_embed.proj.": "encoder.patch_embed.",
    "cls_token": "encoder.class_token",
    "pos_embed": "encoder.positions",
    "blocks.": "encoder.blocks.",
    "norm.": "encoder.norm.",
    "decoder_embed.": "decoder.embed.",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.positions",
    "decoder_blocks.": "decoder.blocks.",
    "decoder_norm.": "decoder.norm.",
    "decoder_pred.": "decoder.head.",
}

PLACES = {"encoder.positions", "decoder.positions"}


def load_initial_weights(model: MaskedAutoencoder, path: Path) -> None:
    """Start ``model`` from a checkpoint: ours (``model.safetensors`` of a Phase 1 stage) or MinD-Vis's (``.pth``).

    Positions that a checkpoint stores are kept, interpolated where its number of patches differs from the model's.

    Raises:
        UserError: the file cannot be read, or is of a network of another size or layout; names file, key and remedy.
    """
    model.load_state_dict({name: tensor.float() for name, tensor in _fitting(model, path).items()})


def check_initial_weights(config: EncoderConfig, path: Path) -> None:
    """See before anything is trained that networks of this configuration can start from the checkpoint.

    Raises:
        UserError: as :func:`load_initial_weights`.
    """
    _fitting(MaskedAutoencoder(config, n_voxels=config.patch_size), path)  # any number of voxels will do


def _fitting(model: MaskedAutoencoder, path: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, checked against the model."""
    tensors, heads = read_checkpoint(path)
    layout = layout_of(tensors)
    if (expected := model.encoder.config.layout) != layout:
        remedy = f"set encoder.layout={layout}, or give another phase1.initial_weights"
        raise UserError(f"{path}: encoder.layout: expected a checkpoint of '{expected}', found '{layout}'; {remedy}")
    if _of_mindvis(tensors):
        tensors = from_mindvis(tensors)
    _check(path, model, tensors, heads)
    return tensors


def _of_mindvis(tensors: Mapping[str, Tensor]) -> bool:
    """True where the names are MinD-Vis's own."""
    return any(name.startswith("patch_embed.proj.") for name in tensors)


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout that a state dict was trained in, by its names or the number of its positions: encoder and decoder
    have equally many where both have the class token's."""
    stored = [tensors[name].shape[:1] for name in sorted(PLACES) if name in tensors]
    both = len(stored) == len(PLACES) and stored[0] == stored[1]
    return "mind_vis" if both or _of_mindvis(tensors) else "cnd"


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """State dict of a file and, where its config tells, numbers of attention heads as in :class:`EncoderConfig`.

    Nothing in the file is executed (:mod:`cnd.checkpoint_files`).
    """
    try:
        content, _ = open_checkpoint(path, weights_key="model")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); phase1.initial_weights names it") from error
    if not (tensors := find_weights(content, _known)):
        raise UserError(f"{path}: expected a state dict, at the top or as 'model' or 'state_dict'; found none")
    return tensors, _heads(content)


def _known(name: str) -> bool:
    """Whether it is a name of ours or of MinD-Vis's."""
    return name.startswith(("encoder.", "decoder.", *NAMES))


def _heads(content: Any) -> dict[str, int]:
    config = content.get("config") if isinstance(content, Mapping) else None
    known = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    names = {"heads": "num_heads", "decoder_heads": "decoder_num_heads"}
    return {ours: known[theirs] for ours, theirs in names.items() if isinstance(known.get(theirs), int)}


def from_mindvis(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of MinD-Vis under our names; what only its image decoder needs is left out."""
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (start := next((start for start in NAMES if name.startswith(start)), None)) is not None:
            ours[NAMES[start] + name.removeprefix(start)] = tensor
        elif not name.startswith("nature_img_"):
            ours[name] = tensor  # unknown: reported by the caller
    for name in PLACES & ours.keys():
        if ours[name].ndim == 3 and len(ours[name]) == 1:
            ours[name] = ours[name][0]  # [1, 1 + p, w] -> [1 + p, w]
    return ours


def _check(path: Path, model: MaskedAutoencoder, tensors: Mapping[str, Tensor], heads: Mapping[str, int]) -> None:
    """Raise a UserError unless the checkpoint fits the model."""
    expected, config = model.state_dict(), model.encoder.config
    remedy = "set encoder.* as the checkpoint was trained, or give another phase1.initial_weights"
    for key, number in heads.items():
        if number != getattr(config, key):
            raise UserError(f"{path}: encoder.{key}: expected {getattr(config, key)}, found {number}; {remedy}")
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors:
            raise UserError(f"{path}: {key}: expected {list(expected[key].shape)}, found no such tensor; {remedy}")
        if key in PLACES:
            continue  # of another voxel count: see below
        if key not in expected:
            raise UserError(f"{path}: {key}: expected no such tensor, found {list(tensors[key].shape)}; {remedy}")
        if expected[key].shape != tensors[key].shape:
            shapes = f"expected {list(expected[key].shape)}, found {list(tensors[key].shape)}"
            raise UserError(f"{path}: {key}: {shapes}; {remedy}")
    parts: dict[str, Positions] = {"encoder.positions": model.encoder, "decoder.positions": model.decoder}
    for key in sorted(parts.keys() & tensors.keys()):
        part, found = parts[key], tensors[key]
        if found.ndim != 2 or len(found) <= part.n_fixed or found.shape[1] != part.positions.shape[1]:
            shapes = f"expected [tokens, {part.positions.shape[1]}], found {list(found.shape)}"
            raise UserError(f"{path}: {key}: {shapes}; {remedy}")
    try:
        check_values(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def to_mindvis(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The state dict of MinD-Vis's ``MAEforFMRI`` that computes what ``model`` does.

    Only of layout ``mind_vis`` is that exact: MinD-Vis runs a network of layout ``cnd`` with its own epsilon, its own
    number of patches, and in its second stage without class token.
    """
    missing = 1 - model.encoder.n_fixed
    positions = nn.functional.pad(model.encoder.positions, (0, 0, missing, 0))  # zeros for the class token
    tensors = model.state_dict() | {"encoder.positions": positions, "decoder.positions": model.decoder.positions}
    theirs = {}
    for name, tensor in tensors.items():
        start, ours = next((start, ours) for start, ours in NAMES.items() if name.startswith(ours))
        theirs[start + name.removeprefix(ours)] = tensor[None] if "positions" in name else tensor
    return {name: tensor.detach().cpu().contiguous() for name, tensor in theirs.items()}


def export_mindvis(model: MaskedAutoencoder, path: Path) -> None:
    """Write ``{"model", "config"}`` as MinD-Vis's own stages read it; with ``.safetensors`` the tensors alone.

    The config is an ``argparse.Namespace``, since MinD-Vis asks for attributes: the network's sizes, and the seed that
    its ``stageA2_mbm_finetune.py`` sets. To read the file with ``torch.load(weights_only=True)`` allow that class.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(to_mindvis(model), path)
    else:
        with path.open("wb") as file:
            torch.save({"model": to_mindvis(model), "config": _mindvis_config(model.encoder.config)}, file)


def _mindvis_config(config: EncoderConfig) -> argparse.Namespace:
    return argparse.Namespace(
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        decoder_embed_dim=config.decoder_width,
        decoder_depth=config.decoder_depth,
        decoder_num_heads=config.decoder_heads,
        seed=0,
    )
