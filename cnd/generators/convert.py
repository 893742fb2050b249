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
from torch import Tensor

from cnd._compat import make_torchvision_importable
from cnd.checkpoint_files import check_values, find_weights, open_checkpoint
from cnd.errors import UserError
from cnd.generators.cin256_settings import CIN256_V2, read_config
from cnd.json_files import write_json
from cnd.keys import file_hash

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

UNET, CLASSES = "model.diffusion_model.", "cond_stage_model."
FIRST_STAGE = tuple(
    f"first_stage_model.{part}." for part in ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
)


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
        found = "is a folder" if checkpoint.is_dir() else "no such file"
        raise UserError(f"{checkpoint}: {found}; expected the published model.ckpt of cin256-v2")
    say(f"reading {checkpoint} ({checkpoint.stat().st_size / 1e9:.2f} GB)")
    try:
        origin = {"checkpoint_sha256": file_hash(checkpoint), "model": params}
    except OSError as error:
        raise UserError(f"{checkpoint}: cannot be read ({error.strerror}); make it readable") from error
    if output.exists():
        if _origin(output) == origin:
            return say(f"{output} is already converted from this checkpoint")
        raise UserError(f"{output}: exists and is not a conversion of {checkpoint}; name another --output")
    partial = output.with_name(f".{output.name}.partial")
    if _origin(partial) != origin:
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "conversion.json", origin)
    state = read_checkpoint(checkpoint, say)
    try:
        check_schedule(state, params)
        unet, vae, table = unet_of(state, params), vae_of(state, params), class_table(state, params)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    kind = "EMA weights" if takes_ema(state, params) else "weights as trained, no EMA"
    _write(partial, "unet", unet.save_pretrained, f"{_size(unet.state_dict())}, {kind}", say)
    _write(partial, "vae", vae.save_pretrained, _size(vae.state_dict()), say)
    _write(partial, "scheduler", scheduler_of(params).save_pretrained, "DDIM", say)
    save = lambda path: save_file({"weight": table.contiguous()}, path)  # noqa: E731
    _write(partial, "class_embedding.safetensors", save, f"{len(table) - 1} classes and the null class", say)
    partial.rename(output)


# ---------------------------------------------------------------- input


def read_checkpoint(path: Path, say: Say) -> State:
    """The ``state_dict`` of a checkpoint, mapped from the file, not loaded; nothing in the file is run.

    Raises:
        UserError: the file is no checkpoint of a latent diffusion model, or cannot be read safely.
    """
    content, foreign = open_checkpoint(path, weights_key="state_dict")
    if foreign:
        say(f"left out, not run: objects that are not weights ({', '.join(foreign)})")
    # averaged weights of this kind keep their names: the config decides about them (:func:`takes_ema`)
    tensors = find_weights(content, lambda name: name.startswith((UNET, "model_ema.", *FIRST_STAGE, CLASSES)))
    if not any(key.startswith(UNET) for key in tensors):
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
    weights = {key: value for key, value in state.items() if key.startswith(UNET)}
    if takes_ema(state, params):
        # LitEma (ldm/modules/ema.py) keeps each parameter below "model." under its name without dots
        names = {key: f"model_ema.{key.removeprefix('model.').replace('.', '')}" for key in weights}
        if absent := [name for name in names.values() if name not in state]:
            raise UserError(
                f"no '{absent[0]}', but other 'model_ema.*'; set use_ema: false in the config to do without"
            )
        weights = {key: state[name] for key, name in names.items()}
    config = create_unet_diffusers_config_from_ldm({"model": {"params": params}}, weights)
    config |= {"sample_size": params["image_size"], "class_embed_type": "identity"}
    return _fill(UNet2DConditionModel, config, weights, lambda: convert_ldm_unet_checkpoint(weights, config))


def takes_ema(state: State, params: dict[str, Any]) -> bool:
    """Whether the UNet's EMA weights are used: LDM keeps them, and samples from them, unless ``use_ema`` is false."""
    return bool(params.get("use_ema", True)) and any(key.startswith("model_ema.") for key in state)


def vae_of(state: State, params: dict[str, Any]) -> Any:
    """The VQ autoencoder with the checkpoint's tensors, not copied.

    Raises:
        UserError: checkpoint and config do not fit.
    """
    first_stage = params["first_stage_config"]["params"]
    # with scale_by_std LDM measures the factor in training and keeps it among the weights
    scale = float(state.get("scale_factor", params.get("scale_factor", 1.0)))
    weights = {key: value for key, value in state.items() if key.startswith(FIRST_STAGE)}
    config = create_vae_diffusers_config_from_ldm({"model": {"params": params}}, weights, scaling_factor=scale)
    config |= {
        "sample_size": first_stage["ddconfig"]["resolution"],
        "num_vq_embeddings": first_stage["n_embed"],
        "vq_embed_dim": first_stage["embed_dim"],
    }
    return _fill(VQModel, config, weights, lambda: _vae_tensors(weights, config))


def _fill(kind: Any, config: dict[str, Any], weights: State, convert: Callable[[], State]) -> Any:
    """A model with ``weights``, converted: every key, every shape, nothing left over."""
    advice = "the checkpoint does not fit the config; pass the config.yaml that came with it"
    try:
        with torch.device("meta"):
            model = kind(**config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"no {kind.__name__} has the config's sizes ({error}); pass another config.yaml") from error
    model.load_state_dict(_placed(model, weights, convert, advice), strict=True, assign=True)
    return model


def unet_tensors(unet: Any, weights: State, advice: str) -> State:
    """``model.diffusion_model.*`` under the names of a UNet of diffusers: each has its place, and none is missing.

    Raises:
        UserError: they are of another network; names the tensor, but not its file. ``advice`` ends the message.
    """
    return _placed(unet, weights, lambda: convert_ldm_unet_checkpoint(weights, unet.config), advice)


def vae_tensors(vae: Any, weights: State, advice: str) -> State:
    """The same of ``first_stage_model.*`` and a VQ autoencoder, its codebook included."""
    return _placed(vae, weights, lambda: _vae_tensors(weights, vae.config), advice)


def _vae_tensors(weights: State, config: Any) -> State:
    key = "quantize.embedding.weight"  # diffusers converts autoencoders without a codebook
    return convert_ldm_vae_checkpoint(weights, config) | {key: weights[f"first_stage_model.{key}"]}


def _placed(model: Any, weights: State, convert: Callable[[], State], advice: str) -> State:
    """What ``convert`` makes of ``weights``, if it is all that the model needs and nothing else."""
    check_values(weights)
    kind = type(model)
    try:
        found = convert()
    except (KeyError, AttributeError) as error:  # diffusers looks keys up as it goes
        raise UserError(f"{kind.__name__}: a tensor is missing ({error}); {advice}") from error
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            raise UserError(f"{kind.__name__}: '{key}' is {shapes.get(key)}, expected {expected.get(key)}; {advice}")
    placed = {value.data_ptr() for value in found.values()}
    if left := [key for key, value in weights.items() if value.data_ptr() not in placed]:
        raise UserError(f"{kind.__name__} has no place for '{left[0]}'; {advice}")
    return found


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
    check_values({key: state[key]})
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


def check_schedule(state: State, params: dict[str, Any]) -> None:
    """Compare the noise schedule with the one the checkpoint was trained with, where it is kept.

    Raises:
        UserError: they differ by more than rounding to the checkpoint's precision.
    """
    kept, ours = state.get("alphas_cumprod"), scheduler_of(params).alphas_cumprod
    if kept is None:
        return
    check_values({"alphas_cumprod": kept})
    if kept.shape != ours.shape or (kept.float() - ours).abs().max() > max(1e-5, torch.finfo(kept.dtype).eps):
        raise UserError("'alphas_cumprod' differs from the config's linear_start, linear_end and timesteps")


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
