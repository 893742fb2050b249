"""The settings of cin256-v2 (Rombach et al. 2022), as published, and reading them from its ``config.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cnd.errors import UserError

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

OPTIONAL: dict[str, Any] = {"use_ema": True, "scale_factor": 1.0, "parameterization": "eps"}
"""Keys that a config may have besides, and LDM's defaults of them (ldm/models/diffusion/ddpm.py)."""


def read_config(path: Path) -> dict[str, Any]:
    """``model.params`` of an LDM config, with every key that the conversion needs.

    Raises:
        UserError: the file cannot be read, lacks a key, or has a value that no such model has.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the model's config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no key 'model.params'; expected the config.yaml of a latent diffusion model"
        ) from error
    found = leaves(params)
    for key, published in sorted((leaves(CIN256_V2) | OPTIONAL).items()):
        if key not in found and key not in OPTIONAL:
            raise UserError(f"{path}: no key 'model.params.{key}'; cin256-v2's config.yaml has it")
        expected = _expected(key, found.get(key, published), published)
        if expected:
            raise UserError(
                f"{path}: model.params.{key}: expected {expected}, found {found[key]!r}; take the config.yaml of the "
                "checkpoint, or none for cin256-v2's own"
            )
    return dict(params)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested dictionaries by their dotted paths."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {path: leaf for key, part in value.items() for path, leaf in leaves(part, f"{prefix}{key}.").items()}


def _expected(key: str, found: Any, published: Any) -> str | None:
    """What the value of a key should be, where it is not; the published one tells its kind."""
    if key == "use_ema":
        return None if isinstance(found, bool) else "true or false"
    if isinstance(published, bool | str):  # a switch: with another value it is a network, or a target, of another kind
        return None if found == published else str(published).lower()
    if isinstance(published, list):
        whole = isinstance(found, list) and all(type(part) is int and part > 0 for part in found)
        return None if whole and (found or not published) else "a list of whole numbers above 0"
    if isinstance(published, int):
        return None if type(found) is int and found > 0 else "a whole number above 0"
    fits = type(found) in (int, float) and (found > 0 or found == published)
    return None if fits else "a number above 0"
