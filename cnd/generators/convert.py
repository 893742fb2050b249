"""The published cin256-v2 checkpoint (Rombach et al. 2022) to a diffusers folder: ``python -m cnd.generators convert``.

The checkpoint is a PyTorch Lightning file whose ``state_dict`` holds ``model.diffusion_model.*`` (UNet),
``first_stage_model.*`` (VQ-f4 autoencoder) and ``cond_stage_model.embedding.weight`` (classes, the last one null). It
is read without running anything that it contains. Where it also holds ``model_ema.*``, the config's ``use_ema`` decides
which weights are taken, as it does in the original's sampling; the published config says false. Each part is written
under a temporary name and renamed, and the whole folder likewise, so a conversion that was killed goes on where it was
and a folder that is there is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cnd._compat import make_torchvision_importable
from cnd.cache import file_hash, write_json
from cnd.checkpoint_files import open_checkpoint
from cnd.errors import UserError

make_torchvision_importable()

from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel  # noqa: E402
from diffusers.loaders.single_file_utils import (  # noqa: E402
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from diffusers.utils import logging as diffusers_logging  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

Say = Callable[[str], None]
State = dict[str, Tensor]

CIN256_V2: dict[str, Any] = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 1000,
    "image_size": 64,
    "use_ema": False,
    "unet_config": {
        "params": {
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 192,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 5],
            "num_heads": 1,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 512,
        }
    },
    "first_stage_config": {
        "params": {
            "embed_dim": 3,
            "n_embed": 8192,
            "ddconfig": {
                "double_z": False,
                "z_channels": 3,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
        }
    },
    "cond_stage_config": {"params": {"n_classes": 1001, "embed_dim": 512}},
}
"""``model.params`` of configs/latent-diffusion/cin256-v2.yaml in github.com/CompVis/latent-diffusion."""


def convert(checkpoint: Path, config: Path | None, output: Path, say: Say) -> None:
    """Write ``output``: vae, unet, scheduler, class_embedding.safetensors and conversion.json.

    Args:
        config: the model's ``config.yaml``; None: the published settings of cin256-v2.
        say: takes one line of progress.

    Raises:
        UserError: a file is missing, unsafe or does not fit the other; ``output`` holds something else.
    """
    diffusers_logging.set_verbosity_error()
    params = read_config(config) if config else CIN256_V2
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such file; expected the published model.ckpt of cin256-v2")
    say(f"reading {checkpoint} ({checkpoint.stat().st_size / 1e9:.2f} GB)")
    origin = {"checkpoint_sha256": file_hash(checkpoint), "model": params}
    if output.exists():
        if _origin(output) == origin:
            return say(f"{output} is already converted from this checkpoint")
        raise UserError(f"{output}: exists and is not a conversion of {checkpoint}; name another --output")
    partial = output.with_name(f".{output.name}.partial")
    if _origin(partial) != origin:
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "conversion.json", origin)
    state = read_checkpoint(checkpoint, say)
    check_schedule(state, params, checkpoint)
    unet, vae = unet_of(state, params), vae_of(state, params)
    table = class_table(state, params)
    kind = "EMA weights" if takes_ema(state, params) else "weights as trained, no EMA"
    _write(partial, "unet", unet.save_pretrained, f"{_size(unet.state_dict())}, {kind}", say)
    _write(partial, "vae", vae.save_pretrained, _size(vae.state_dict()), say)
    _write(partial, "scheduler", scheduler_of(params).save_pretrained, "DDIM", say)
    save = lambda path: save_file({"weight": table.contiguous()}, path)  # noqa: E731
    _write(partial, "class_embedding.safetensors", save, f"{len(table) - 1} classes and the null class", say)
    partial.rename(output)


# ---------------------------------------------------------------- input


def read_config(path: Path) -> dict[str, Any]:
    """``model.params`` of an LDM config with every key that the conversion needs.

    Raises:
        UserError: the file cannot be read or lacks a key.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the model's config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no key 'model.params'; expected the config.yaml of a latent diffusion model"
        ) from error
    missing = sorted(_keys(CIN256_V2) - _keys(params) - {"use_ema"})
    if missing:
        raise UserError(f"{path}: no key 'model.params.{missing[0]}'; cin256-v2's config.yaml has it")
    return dict(params)


def _keys(value: Any, prefix: str = "") -> set[str]:
    """Dotted paths of the leaves of nested dictionaries."""
    if not isinstance(value, dict):
        return {prefix.removesuffix(".")}
    return {path for key, part in value.items() for path in _keys(part, f"{prefix}{key}.")}


def read_checkpoint(path: Path, say: Say) -> State:
    """The ``state_dict`` of a checkpoint, mapped from the file, not loaded; nothing in the file is run.

    Raises:
        UserError: the file is no checkpoint of a latent diffusion model, or cannot be read safely.
    """
    content, foreign = open_checkpoint(path, weights_key="state_dict")
    if foreign:
        say(f"left out, not run: {len(foreign)} kinds of objects that are not weights ({', '.join(foreign)})")
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not any(key.startswith("model.diffusion_model.") for key in tensors):
        raise UserError(
            f"{path}: no 'model.diffusion_model.*' in its state_dict; expected a latent diffusion checkpoint"
        )
    return tensors


# ---------------------------------------------------------------- parts


def unet_of(state: State, params: dict[str, Any]) -> Any:
    """The UNet with the checkpoint's tensors, not copied; it takes a vector to add to its time embedding.

    Raises:
        UserError: checkpoint and config do not fit.
    """
    wrapped = {"model": {"params": params}}
    config = create_unet_diffusers_config_from_ldm(wrapped, state)
    config |= {"sample_size": params["image_size"], "class_embed_type": "identity"}
    ema = takes_ema(state, params)
    return _fill(UNet2DConditionModel, config, lambda: convert_ldm_unet_checkpoint(state, config, ema))


def takes_ema(state: State, params: dict[str, Any]) -> bool:
    """Whether the UNet's EMA weights are used: LDM keeps them, and samples from them, unless ``use_ema`` is false."""
    return bool(params.get("use_ema", True)) and any(key.startswith("model_ema.") for key in state)


def vae_of(state: State, params: dict[str, Any]) -> Any:
    """The VQ autoencoder with the checkpoint's tensors, not copied.

    Raises:
        UserError: checkpoint and config do not fit.
    """
    wrapped = {"model": {"params": params}}
    first_stage = params["first_stage_config"]["params"]
    # with scale_by_std LDM measures the factor in training and keeps it among the weights
    scale = float(state.get("scale_factor", params.get("scale_factor", 1.0)))
    config = create_vae_diffusers_config_from_ldm(wrapped, state, scaling_factor=scale)
    config |= {
        "sample_size": first_stage["ddconfig"]["resolution"],
        "num_vq_embeddings": first_stage["n_embed"],
        "vq_embed_dim": first_stage["embed_dim"],
    }
    key = "quantize.embedding.weight"  # diffusers converts autoencoders without a codebook

    def tensors() -> State:
        return convert_ldm_vae_checkpoint(state, config) | {key: state[f"first_stage_model.{key}"]}

    return _fill(VQModel, config, tensors)


def _fill(kind: Any, config: dict[str, Any], tensors: Callable[[], State]) -> Any:
    """A model whose weights are ``tensors``: every key, every shape."""
    with torch.device("meta"):
        model = kind(**config)
    advice = "the checkpoint does not fit the config; pass the config.yaml that came with it"
    try:
        found = tensors()
    except (KeyError, AttributeError) as error:  # diffusers looks keys up as it goes
        raise UserError(f"{kind.__name__}: a tensor is missing ({error}); {advice}") from error
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in found.items() if value is not None}
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            raise UserError(f"{kind.__name__}: '{key}' is {shapes.get(key)}, expected {expected.get(key)}; {advice}")
    model.load_state_dict(found, strict=True, assign=True)
    return model


def class_table(state: State, params: dict[str, Any]) -> Tensor:
    """Class embeddings [classes + 1, width]; the last row is the null class.

    Raises:
        UserError: missing, or of another shape.
    """
    key, settings = "cond_stage_model.embedding.weight", params["cond_stage_config"]["params"]
    expected = (settings["n_classes"], settings["embed_dim"])
    found = tuple(state[key].shape) if key in state else None
    if found != expected:
        raise UserError(
            f"class embedding: '{key}' is {found}, expected {expected}; use the class-conditional cin256-v2"
        )
    return state[key].float()


def scheduler_of(params: dict[str, Any]) -> DDIMScheduler:
    """LDM's own DDIM: betas linear in their square root, steps from 1, the last one to the first alpha, no clipping."""
    return DDIMScheduler(
        num_train_timesteps=params["timesteps"],
        beta_start=params["linear_start"],
        beta_end=params["linear_end"],
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def check_schedule(state: State, params: dict[str, Any], path: Path) -> None:
    """Compare the noise schedule with the one the checkpoint was trained with, where it is kept.

    Raises:
        UserError: they differ.
    """
    kept = state.get("alphas_cumprod")
    ours = scheduler_of(params).alphas_cumprod
    if kept is not None and (kept.shape != ours.shape or not torch.allclose(kept.float(), ours, atol=1e-5)):
        raise UserError(f"{path}: 'alphas_cumprod' differs from the config's linear_start, linear_end and timesteps")


# ---------------------------------------------------------------- output


def _origin(folder: Path) -> Any:
    try:
        return json.loads((folder / "conversion.json").read_text())
    except (OSError, ValueError):
        return None


def _write(folder: Path, name: str, save: Callable[[Path], object], what: str, say: Say) -> None:
    """Let ``save`` write one part, unless an earlier run did."""
    target, temporary = folder / name, folder / f".{name}"
    if not target.exists():
        shutil.rmtree(temporary, ignore_errors=True)
        save(temporary)
        temporary.rename(target)
    say(f"{name}: {what}")


def _size(state: State) -> str:
    n = sum(value.numel() for value in state.values())
    size = sum(value.numel() * value.element_size() for value in state.values())
    return f"{n / 1e6:.1f} M parameters, {size / 1e9:.2f} GB"
