"""Fine-tuned checkpoints of MinD-Vis, at the key layout of ``finetuned.pth``, against a forward pass written here."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from original_ldm import OriginalLdm
from safetensors.torch import save_file
from test_cin256 import SMALL as LARGER
from test_cin256 import close
from test_phase1_checkpoints import TINY, mindvis_encode_whole, mindvis_tensors
from torch import Tensor

from cnd.decoders.cnd.decoder import CndDecoder
from cnd.decoders.cnd.phase2.step import condition_module, trained_module
from cnd.decoders.dc_ldm import DcLdmDecoder, DoubleConditioning, MindVisEncoder
from cnd.decoders.mind_vis import SCHEDULE, check_finetuned, load_finetuned
from cnd.decoders.mind_vis_step import take_finetuned
from cnd.errors import UserError
from cnd.generators.convert import class_table, scheduler_of, unet_of, vae_of
from cnd.generators.vq_diffusion import VqLatentDiffusion
from cnd.protocols import Condition
from cnd.settings import FileOf

SMALL = copy.deepcopy(LARGER)
SMALL["unet_config"]["params"] |= dict(channel_mult=[1, 2], num_res_blocks=1)
SMALL["first_stage_config"]["params"]["ddconfig"] |= dict(num_res_blocks=1)
N_VOXELS, N_PATCHES, N_CONTEXT = 41, 11, 7  # 11 patches of 4 voxels; half of them, 5, are fewer than the context's
CONTEXT, TIME = 16, 128  # widths of context and time embedding of the small model
DECODER = DcLdmDecoder(
    encoder=MindVisEncoder(**TINY.model_dump()), phase2=DoubleConditioning(context_tokens=N_CONTEXT, max_steps=1)
)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # in float64


@pytest.fixture(scope="module")
def original() -> OriginalLdm:
    torch.manual_seed(0)
    model = OriginalLdm(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def generator(original: OriginalLdm) -> VqLatentDiffusion:
    """As it was before fine-tuning: other cross-attention."""
    state = {k: v + 1 if ".attn2." in k else v for k, v in original.state_dict().items()}
    parts = vae_of(state, SMALL), unet_of(state, SMALL), scheduler_of(SMALL), class_table(state, SMALL)
    return VqLatentDiffusion(*parts)


@pytest.fixture(scope="module")
def published(original: OriginalLdm) -> dict[str, Tensor]:
    """``model_state_dict``: what PyTorch Lightning's module of MinD-Vis has, every tensor random."""
    rng = torch.Generator().manual_seed(1)
    half = N_CONTEXT // 2
    shapes = {
        "cond_stage_model.channel_mapper.0": (N_PATCHES // 2, N_PATCHES, 1),
        "cond_stage_model.channel_mapper.1": (N_CONTEXT, N_PATCHES // 2, 1),
        "cond_stage_model.dim_mapper": (CONTEXT, TINY.width),
        "model.diffusion_model.time_embed_condtion.0": (half, N_CONTEXT, 1),
        "model.diffusion_model.time_embed_condtion.1": (1, half, 1),
        "model.diffusion_model.time_embed_condtion.2": (TIME, CONTEXT),
    }
    own = {f"{name}.weight": shape for name, shape in shapes.items()}
    own |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in own.items()}
    encoder = mindvis_tensors(N_PATCHES, trained_positions=True)
    tensors |= {f"cond_stage_model.mae.{k}": v for k, v in encoder.items() if "decoder" not in k and k != "mask_token"}
    tensors["cond_stage_model.mae.mask_token"] = torch.zeros(1, 1, TINY.width)
    state = {k: v for k, v in original.state_dict().items() if not k.startswith("cond_stage_model")}
    schedule = {name: torch.zeros(1000) for name in SCHEDULE - {"alphas_cumprod"}}
    return tensors | state | schedule


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    """With its settings, an object of a class that is not here, and the state of a random number generator."""
    module = ModuleType("config")
    module.Config_Generative_Model = type("Config_Generative_Model", (), {"__module__": "config"})  # type: ignore[attr-defined]
    sys.modules["config"] = module
    config = module.Config_Generative_Model()
    config.__dict__.update(kam_subs=["sbj_3"], global_pool=False, use_time_cond=True, logger=None, img_size=256)
    torch.save({"model_state_dict": tensors, "config": config, "state": torch.random.get_rng_state()}, path)
    del sys.modules["config"]
    return path


def untrained(generator: VqLatentDiffusion, n_voxels: int = N_VOXELS, decoder: DcLdmDecoder = DECODER) -> Any:
    same: CndDecoder = decoder.as_cnd()
    return condition_module(same.encoder, same.phase2, n_voxels, generator, seed=3)


def mindvis_condition(tensors: dict[str, Tensor], fmri: Tensor) -> Condition:
    """``cond_stage_model`` and ``time_embed_condtion``: of its state dict, in its names."""

    def over_tokens(name: str, tokens: Tensor) -> Tensor:
        mixed = torch.einsum("on,bnw->bow", tensors[f"{name}.weight"][:, :, 0], tokens)
        return mixed + tensors[f"{name}.bias"][:, None]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    start = "cond_stage_model.mae."
    mae = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    tokens = mindvis_encode_whole(mae, fmri)
    for index in (0, 1):
        tokens = over_tokens(f"cond_stage_model.channel_mapper.{index}", tokens)
    context = linear("cond_stage_model.dim_mapper", tokens)
    added = context
    for index in (0, 1):
        added = over_tokens(f"model.diffusion_model.time_embed_condtion.{index}", added)
    return Condition(context, linear("model.diffusion_model.time_embed_condtion.2", added)[:, 0])


@torch.no_grad()
def test_the_loaded_decoder_computes_what_mindvis_does(
    original: OriginalLdm, generator: VqLatentDiffusion, published: dict[str, Tensor], tmp_path: Path
) -> None:
    """From fMRI to the predicted noise; the condition in float64."""
    own, fmri = generator.copy(), torch.randn(3, N_VOXELS, generator=torch.Generator().manual_seed(2))
    module = untrained(own)
    load_finetuned(module, own, save(tmp_path / "finetuned.pth", published))
    expected = mindvis_condition({k: v.double() for k, v in published.items()}, fmri.double())
    found, _ = module.double()(fmri.double())
    torch.testing.assert_close(found.context, expected.context, **CLOSE)
    torch.testing.assert_close(found.pooled, expected.pooled, **CLOSE)
    noisy, t = torch.randn(3, *own.latent_shape), torch.tensor([1, 400, 999])
    context, pooled = expected.context.float(), expected.pooled.float()
    of_mindvis = original.model.diffusion_model(noisy, t, context, added=pooled)
    assert close(own.predict_noise(noisy, t, Condition(context, pooled)), of_mindvis)
    assert not close(generator.predict_noise(noisy, t, Condition(context, pooled)), of_mindvis)  # the shared one stays


@torch.no_grad()
def test_the_step_writes_what_a_training_would(
    generator: VqLatentDiffusion, published: dict[str, Tensor], tmp_path: Path
) -> None:
    items = SimpleNamespace(fmri=np.zeros((5, N_VOXELS), np.float32))
    bench: Any = SimpleNamespace(value=lambda step: SimpleNamespace(items=items), generator=lambda choice: generator)
    same, weights = DECODER.as_cnd(), FileOf(path=save(tmp_path / "finetuned.pth", published))
    nothing: Any = None
    take_finetuned(bench, tmp_path, same.encoder, same.phase2, nothing, weights, nothing)
    module, own = trained_module(same.encoder, same.phase2, N_VOXELS, generator, tmp_path)
    assert torch.equal(module.mapper.project.weight, published["cond_stage_model.dim_mapper.weight"])
    key = "transformer_blocks.0.attn2.to_k.weight"
    found = dict(own.unet.named_parameters())[f"mid_block.attentions.0.{key}"]
    assert torch.equal(found, published[f"model.diffusion_model.middle_block.1.{key}"])
    told = json.loads((tmp_path / "info.json").read_text())
    attention = [p for n, p in own.unet.named_parameters() if ".attn2." in n or (".norm2." in n and "transformer" in n)]
    assert told["trainable"] == sum(p.numel() for p in (*module.parameters(), *attention)) and told["frozen"] > 0


def test_names_and_prefixes(generator: VqLatentDiffusion, published: dict[str, Tensor], tmp_path: Path) -> None:
    """The state dict alone, of a wrapped model, loads too."""
    save_file({f"_orig_mod.module.{k}": v.contiguous() for k, v in published.items()}, tmp_path / "a.safetensors")
    own, module = generator.copy(), untrained(generator)
    load_finetuned(module, own, tmp_path / "a.safetensors")
    assert torch.equal(module.mapper.project.weight, published["cond_stage_model.dim_mapper.weight"])


def test_published_sizes() -> None:
    """GOD subject 3 and BOLD5000 CSI1, whose 106 patches have a middle layer below the 77 tokens of the context."""
    same = DcLdmDecoder(encoder=MindVisEncoder(width=32, depth=1)).as_cnd()
    generator: Any = type("Cin256", (), {"concept_bank": torch.zeros(3, 512), "time_embedding_width": 768})
    for n_voxels, n_patches, middle in ((4643, 291, 145), (1685, 106, 53)):
        module = condition_module(same.encoder, same.phase2, n_voxels, generator, seed=0)
        shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        assert shapes["mapper.convolutions.0.weight"] == (middle, n_patches, 1)
        assert shapes["mapper.convolutions.1.weight"] == (77, middle, 1)
        assert shapes["mapper.project.weight"] == (512, 32) and shapes["pooled_head.project.weight"] == (768, 512)
        assert shapes["pooled_head.convolutions.0.weight"] == (38, 77, 1)


def other(name: str, tensor: Tensor | None) -> Any:
    return lambda tensors: {k: v for k, v in (tensors | {name: tensor}).items() if v is not None}


COND, NET = "cond_stage_model", "model.diffusion_model"
BAD: dict[str, tuple[Any, str]] = {
    "unknown": (other("lora.up", torch.zeros(2)), r"lora\.up: expected no such tensor, found \[2\]"),
    "missing": (other(f"{COND}.dim_mapper.bias", None), r"mapper\.project\.bias: expected \[16\], found no"),
    "wrong shape": (other(f"{COND}.dim_mapper.weight", torch.zeros(16, 9)), r"project\.weight: expected \[16, 8\]"),
    "another encoder": (other(f"{COND}.mae.blocks.2.norm1.bias", torch.ones(8)), r"2\.norm1\.bias: expected no"),
    "NaN": (other(f"{COND}.mae.norm.weight", torch.full((8,), torch.nan)), "encoder.norm.weight: .*found NaN"),
    "no encoder": (lambda t: {k: v for k, v in t.items() if "mae" not in k}, "fmri_encoder.pth belongs to"),
    "global_pool": (lambda t: {k: v for k, v in t.items() if "channel_mapper" not in k}, "global_pool = True"),
    "unet: missing": (other(f"{NET}.out.2.bias", None), r"UNet2DConditionModel: 'conv_out.bias' is None"),
    "unet: no place": (other(f"{NET}.label_emb.weight", torch.zeros(3)), "no place for 'model.diffusion_model.label"),
    "unet: shape": (other(f"{NET}.out.2.bias", torch.zeros(4)), r"'conv_out.bias' is \(4,\), expected \(3,\)"),
    "autoencoder": (
        other("first_stage_model.quant_conv.bias", torch.full((3,), 9.0)),
        r"quant_conv\.bias: expected that of the generator, .*generator\.path",
    ),
    "schedule": (other("alphas_cumprod", torch.linspace(1, 0, 1000)), "alphas_cumprod: expected that of the generator"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_misfits_are_one_line(
    case: str, generator: VqLatentDiffusion, published: dict[str, Tensor], tmp_path: Path
) -> None:
    edit, told = BAD[case]
    path = save(tmp_path / "finetuned.pth", edit(published))
    module, same = untrained(generator), DECODER.as_cnd()
    before = module.mapper.project.weight.clone()
    with pytest.raises(UserError, match=told) as raised:
        load_finetuned(module, generator, path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    assert torch.equal(module.mapper.project.weight, before)
    if case.startswith(("unet", "autoencoder", "schedule")):
        check_finetuned(same.encoder, same.phase2, path)  # which has no generator to compare with
    else:
        with pytest.raises(UserError, match=told):
            DECODER.model_copy(update={"finetuned_weights": path}).check()


def test_another_number_of_patches_names_the_voxels(
    generator: VqLatentDiffusion, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save(tmp_path / "finetuned.pth", published)
    told = "expected 12 patches, as the data has of its 45 voxels, found 11, of 40 to 43 voxels; take the voxels"
    with pytest.raises(UserError, match=told):
        load_finetuned(untrained(generator, 45), generator, path)


def test_settings(tmp_path: Path, published: dict[str, Tensor]) -> None:
    decoder = DcLdmDecoder(finetuned_weights=tmp_path / "none.pth")
    assert len(decoder.missing()) == 1 and "none.pth: no such file (decoder.finetuned_weights)" in decoder.missing()[0]
    assert decoder.warnings()[0].startswith("Published weights: nothing was trained here.")
    with pytest.raises(UserError, match=r"none\.pth: cannot be read .*decoder\.finetuned_weights"):
        decoder.check()
    path = save(tmp_path / "finetuned.pth", published)
    with pytest.raises(UserError, match=r"expected .* found .*set decoder\.encoder"):  # the published sizes
        DcLdmDecoder(finetuned_weights=path).check()
