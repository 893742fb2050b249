"""The fine-tuned checkpoints of MinD-Vis (Chen et al. 2023): ``finetuned.pth`` in ``pretrains/GOD`` and ``BOLD5000``.

Its ``fLDM.finetune`` (``dc_ldm/ldm_for_fmri.py``) saves ``{"model_state_dict", "config", "state"}``: the state dict of
the whole latent diffusion model, an object with its settings, and the state of a random number generator. Of the state
dict

=============================================== ========================================================================
``cond_stage_model.mae.*``                      the fMRI encoder, with the names of ``fmri_encoder.pth``
``cond_stage_model.channel_mapper.0``, ``.1``   convolutions over the tokens, to half of them and to 77
``cond_stage_model.dim_mapper``                 a linear from the encoder's width to the context's
``model.diffusion_model.time_embed_condtion.*`` convolutions over the context (0, 1) and a linear (2) to the time
                                                embedding; the name is theirs
``model.diffusion_model.*``                     the UNet, with the names of latent diffusion; trained are ``attn2`` and
                                                ``norm2``. All of it is taken over
``first_stage_model.*``                         the autoencoder, not trained: compared with the generator's
``alphas_cumprod``                              the noise schedule: compared with the generator's
``betas``, ...                                  what follows from it
=============================================== ========================================================================

No tensor and no setting in the file tells the number of attention heads of the encoder: it is ``encoder.heads``, 16 in
theirs. The tokens are channels of a convolution, so a checkpoint works for patterns of as many patches only: subject 3
of GOD has 4,643 voxels of VC, in the order of ``sbj_3.npz``, in 291 patches. MinD-Vis scales all voxels by one mean and
one standard deviation, our data sets each voxel by its own. It samples by PLMS, we by DDIM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnd.checkpoint_files import check_values, find_weights, open_checkpoint
from cnd.decoders.cnd.phase1.checkpoints import from_mindvis
from cnd.decoders.cnd.phase1.model import FmriEncoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.errors import UserError
from cnd.protocols import Generator

ENCODER, UNET, AUTOENCODER = "cond_stage_model.mae.", "model.diffusion_model.", "first_stage_model."
NAMES = {  # beginning of a name in the checkpoint: beginning of the name here
    "cond_stage_model.channel_mapper.": "mapper.convolutions.",
    "cond_stage_model.dim_mapper.": "mapper.project.",
    f"{UNET}time_embed_condtion.0.": "pooled_head.convolutions.0.",
    f"{UNET}time_embed_condtion.1.": "pooled_head.convolutions.1.",
    f"{UNET}time_embed_condtion.2.": "pooled_head.project.",
}
FIRST = "mapper.convolutions.0.weight"  # [half, patches, 1]
UNUSED = frozenset([f"{ENCODER}mask_token"])  # of masked modelling
SCHEDULE = frozenset([
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
])  # fmt: skip
SAME = 1e-3  # of a tensor's length: how far frozen ones may be from the generator's, rounding to half precision apart
REMEDY = "set decoder.encoder.* and decoder.phase2.context_tokens as the checkpoint was trained"
GENERATOR = "set generator.path to the conversion of its pretrains/ldm/label2img/model.ckpt"


class Finetuned:
    """Tensors of a checkpoint, sorted by where they belong.

    Attributes:
        module: of the condition module, under our names.
        unet, autoencoder, schedule: under theirs.

    Raises:
        UserError: the file cannot be read, or something in it has no place here.
    """

    def __init__(self, path: Path) -> None:
        try:
            content, _ = open_checkpoint(path, weights_key="model_state_dict")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); decoder.finetuned_weights names it") from error
        tensors = find_weights(content, _known)
        if not any(name.startswith(ENCODER) for name in tensors):
            raise UserError(
                f"{path}: no '{ENCODER}*' in a 'model_state_dict' (decoder.finetuned_weights): expected a "
                "finetuned.pth of MinD-Vis; an fmri_encoder.pth belongs to decoder.phase1.initial_weights"
            )
        for name, tensor in tensors.items():
            if not _known(name):
                raise UserError(f"{path}: {name}: expected no such tensor, found {list(tensor.shape)}; {REMEDY}")
        if not any(name.startswith("cond_stage_model.channel_mapper.") for name in tensors):
            raise UserError(
                f"{path}: no 'cond_stage_model.channel_mapper.*': a checkpoint of global_pool = True, which has one "
                "token for the whole pattern, ours one for each patch; take one of global_pool = False"
            )
        self.path = path
        self.module = _renamed(tensors)
        own = tuple(name for name in NAMES if name.startswith(UNET))
        self.unet = {k: v for k, v in tensors.items() if k.startswith(UNET) and not k.startswith(own)}
        self.autoencoder = {k: v for k, v in tensors.items() if k.startswith(AUTOENCODER)}
        self.schedule = tensors.get("alphas_cumprod")

    @property
    def n_patches(self) -> int | None:
        """Patches of the patterns; None where the tensor that tells is missing or malformed."""
        first = self.module.get(FIRST)
        return None if first is None or first.ndim != 3 else first.shape[1]

    def width(self, name: str) -> int:
        """Rows of a matrix, 1 where it is missing or malformed: what expects another number will say so."""
        found = self.module.get(name)
        return 1 if found is None or not found.ndim else len(found)


def load_finetuned(module: ConditionModule, generator: Generator, path: Path) -> None:
    """Fill an untrained module and a copy of the generator with the weights of a checkpoint.

    Args:
        module: of the voxels of the data, in front of such a generator.
        generator: a copy (:meth:`cnd.protocols.Generator.copy`), in the form of cin256-v2; its UNet is overwritten.

    Raises:
        UserError: the file cannot be read, or is of another network, generator or number of voxels.
    """
    found = Finetuned(path)
    _check_module(found, module)
    unet = _check_generator(found, generator)
    module.load_state_dict({name: tensor.float() for name, tensor in found.module.items()})
    generator.unet.load_state_dict({name: tensor.float() for name, tensor in unet.items()})


def check_finetuned(encoder: EncoderConfig, phase2: Phase2Config, path: Path) -> None:
    """See what can be seen without generator and data: whether the checkpoint is one, and of such an encoder.

    Raises:
        UserError: as :func:`load_finetuned`.
    """
    found = Finetuned(path)
    n_voxels = encoder.patch_size * ((found.n_patches or 1) - 1)
    with torch.device("meta"):
        network = FmriEncoder(encoder, n_voxels)
        bank, time = torch.zeros(1, found.width("mapper.project.weight")), found.width("pooled_head.project.weight")
        module = ConditionModule(phase2, network, network.n_tokens, encoder.width, bank, time)
    _check_module(found, module)


def _known(name: str) -> bool:
    return name in SCHEDULE or name.startswith((ENCODER, UNET, AUTOENCODER, *NAMES))


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the condition module, under our names."""
    encoder = {k.removeprefix(ENCODER): v for k, v in tensors.items() if k.startswith(ENCODER) and k not in UNUSED}
    ours = {k if k.startswith("encoder.") else f"encoder.{k}": v for k, v in from_mindvis(encoder).items()}
    for name, tensor in tensors.items():
        if start := next((start for start in NAMES if name.startswith(start)), None):
            ours[NAMES[start] + name.removeprefix(start)] = tensor
    return ours


def _check_module(found: Finetuned, module: ConditionModule) -> None:
    """Raise a UserError unless the module has these tensors and no others, of these shapes."""
    path, expected, encoder = found.path, module.state_dict(), module.encoder
    assert isinstance(encoder, FmriEncoder)
    if found.n_patches is not None and found.n_patches != encoder.n_patches:
        size = encoder.config.patch_size
        fewest, most = size * (found.n_patches - 1), size * found.n_patches - 1
        raise UserError(
            f"{path}: cond_stage_model.channel_mapper.0.weight: expected {encoder.n_patches} patches, as the data has "
            f"of its {encoder.n_voxels} voxels, found {found.n_patches}, of {fewest} to {most} voxels; take the voxels "
            "that it was trained on"
        )
    for name in sorted(expected.keys() | found.module.keys()):
        shapes = [list(t.shape) if t is not None else None for t in (expected.get(name), found.module.get(name))]
        if shapes[0] != shapes[1]:
            told = f"expected {shapes[0] or 'no such tensor'}, found {shapes[1] or 'no such tensor'}"
            raise UserError(f"{path}: {name}: {told}; {REMEDY}")
    try:
        check_values(found.module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_generator(found: Finetuned, generator: Any) -> dict[str, Tensor]:
    """The UNet's tensors under diffusers' names, if autoencoder and noise schedule are the generator's own."""
    from cnd.generators.convert import unet_tensors, vae_tensors

    path = found.path
    try:
        unet = unet_tensors(generator.unet, found.unet, GENERATOR)
        frozen = vae_tensors(generator.vae, found.autoencoder, GENERATOR)
        ours = generator.vae.state_dict() | {"alphas_cumprod": generator.alphas_cumprod}
        if found.schedule is not None:
            check_values({"alphas_cumprod": found.schedule})
            frozen["alphas_cumprod"] = found.schedule
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for name, tensor in frozen.items():
        own, theirs = ours[name].float().cpu(), tensor.float()
        if own.shape != theirs.shape or (own - theirs).norm() > SAME * own.norm():
            raise UserError(
                f"{path}: {name}: expected that of the generator, which MinD-Vis leaves as it is, found another; "
                f"{GENERATOR}"
            )
    return unet
