"""DC-LDM against MinD-Vis's formulas written out for this test, its settings, and what it trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_ldm import write_ldm
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.cnd.decoder import CndDecoder
from cnd.decoders.cnd.phase1 import losses
from cnd.decoders.cnd.phase1.model import FmriEncoder, patch_mask, to_patches
from cnd.decoders.cnd.phase2 import training
from cnd.decoders.cnd.phase2.interventions import ConceptInterventions
from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.step import condition_module
from cnd.decoders.dc_ldm import DcLdmDecoder, DoubleConditioning, MaskedModelling, MindVisEncoder
from cnd.errors import UserError
from cnd.experiment import load_experiment, override
from cnd.generators.embedded import EmbeddedGenerator
from cnd.generators.ldm import LdmGenerator
from cnd.generators.pipeline import CndPipeline, write_pipeline
from cnd.protocols import Condition

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
N_VOXELS = 70
ENCODER = MindVisEncoder(patch_size=4, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2)
PHASE2 = DoubleConditioning(context_tokens=6, max_steps=3, batch_size=4, lr=1e-2)
DECODER = DcLdmDecoder(encoder=ENCODER, phase2=PHASE2)


def fmri(n: int = 4) -> Tensor:
    return torch.randn(n, N_VOXELS, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- Phase A


def mindvis_loss(patches: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
    """``forward_loss`` of its ``mae_for_fmri.py``: the error of each patch, then the mean over the hidden ones.

    Args:
        patches, predicted: [batch, patches, patch_size].
        mask: [batch, patches], 1 where a patch was hidden.
    """
    of_patch = torch.stack([((p - t) ** 2).mean(-1) for p, t in zip(predicted, patches, strict=True)])
    return (of_patch * mask).sum() / mask.sum()


def test_loss_of_phase_a_is_that_of_mindvis():
    """Where no padding is hidden; the 18th patch holds two voxels and padding, and comes first in every order."""
    config = MaskedModelling().of_cnd()
    n_patches = N_VOXELS // 4 + 1
    orders = [torch.randperm(n_patches - 1, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    order = torch.stack([torch.cat([torch.tensor([n_patches - 1]), rest]) for rest in orders])
    predicted = torch.randn(4, n_patches, 4, generator=torch.Generator().manual_seed(9))
    views = predicted.flatten(1)[None, :, :N_VOXELS]
    total, parts = losses.combine(views, fmri(), order, 4, config)
    mask = torch.ones(4, n_patches)
    for row, ids in zip(mask, order, strict=True):
        row[ids[: round(n_patches / 4)]] = 0  # a quarter is seen
    torch.testing.assert_close(total, mindvis_loss(to_patches(fmri(), 4, "mind_vis"), predicted, mask))
    assert list(parts) == ["reconstruction"] and losses.count_views(config) == 1
    assert torch.equal(patch_mask(order, 0.75), mask.bool())


# ---------------------------------------------------------------- Phase B


def over_tokens(convolution: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A convolution of width one with the tokens for channels: [b, n, width] to [b, n_out, width]."""
    mixed = torch.einsum("on,bnw->bow", convolution.weight[:, :, 0], tokens)
    return mixed + convolution.bias[:, None]


def mindvis_condition(module: ConditionModule, patterns: Tensor) -> Condition:
    """``cond_stage_model`` of its ``ldm_for_fmri.py``, then ``time_embed_condtion`` of its ``openaimodel.py``."""
    first, second = module.mapper.convolutions
    context = over_tokens(second, over_tokens(first, module.encoder(patterns)))
    context = context @ module.mapper.project.weight.T + module.mapper.project.bias
    half, one = module.pooled_head.convolutions
    added = over_tokens(one, over_tokens(half, context))[:, 0]
    return Condition(context, added @ module.pooled_head.project.weight.T + module.pooled_head.project.bias)


def make(generator, decoder: DcLdmDecoder = DECODER) -> ConditionModule:
    same = decoder.as_cnd()
    return condition_module(same.encoder, same.phase2, N_VOXELS, generator, seed=0)


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory):
    """Shaped like cin256-v2, whose time embedding has a width of its own."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ldm")
    write_ldm(folder)
    return LdmGenerator(path=folder).load()


@torch.no_grad()
def test_conditions_are_those_of_mindvis(ldm):
    module = make(ldm)
    widths = [c.weight.shape[:2] for c in (*module.mapper.convolutions, *module.pooled_head.convolutions)]
    assert widths == [(9, 18), (6, 9), (3, 6), (1, 3)]  # 18 patches, no class token; 291 -> 145 -> 77 -> 38 -> 1
    found, attention = module(fmri())
    expected = mindvis_condition(module, fmri())
    assert attention is None and found.context.shape == (4, 6, 16) and found.pooled.shape == (4, 128)
    torch.testing.assert_close(found.context, expected.context)
    torch.testing.assert_close(found.pooled, expected.pooled)
    assert found.context.std(0).max() > 1e-3 and found.pooled.std(0).max() > 1e-3


@torch.no_grad()
def test_the_second_condition_is_added_to_the_time_embedding(ldm):
    condition, _ = make(ldm)(fmri())
    noisy, t = torch.randn(4, *ldm.latent_shape), torch.tensor([1, 300, 700, 999])
    found = ldm.predict_noise(noisy, t, condition)
    hook = ldm.unet.time_embedding.register_forward_hook(lambda unet, given, embedding: embedding + condition.pooled)
    expected = ldm.predict_noise(noisy, t, Condition(condition.context, torch.zeros_like(condition.pooled)))
    hook.remove()
    torch.testing.assert_close(found, expected)
    without = ldm.predict_noise(noisy, t, Condition(condition.context, torch.zeros_like(condition.pooled)))
    assert (found - without).abs().max() > 1e-4


def test_encoder_projections_and_cross_attention_learn_and_nothing_else(ldm):
    own = ldm.copy()
    module = make(own)
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (module, own)]
    latents = torch.randn(8, *own.latent_shape, generator=torch.Generator().manual_seed(1))
    training.fit(DECODER.as_cnd().phase2, module, own, fmri(8).numpy(), latents, seed=0)
    changed = [
        {k for k, v in part.state_dict().items() if not torch.equal(old[k], v)}
        for part, old in zip((module, own), before, strict=True)
    ]
    assert changed[0] == before[0].keys() - {"encoder.class_token", "encoder.positions"}  # which Phase B does not use
    wanted = {k for k in before[1] if ".attn2." in k or (".norm2." in k and "transformer_blocks" in k)}
    assert changed[1] == wanted and wanted


def test_export_gives_the_same_condition(ldm, tmp_path: Path):
    module = make(ldm)
    experiment = override(load_experiment(EXPERIMENTS / "smoke.yaml"), {"decoder": DECODER.model_dump()}, "test")
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    write_pipeline(experiment.model_dump(mode="json"), N_VOXELS, weights, ldm, tmp_path / "exported")
    loaded = CndPipeline.from_pretrained(tmp_path / "exported").condition(fmri())
    with torch.no_grad():
        expected, _ = module.eval()(fmri())
    assert torch.equal(loaded.context, expected.context) and torch.equal(loaded.pooled, expected.pooled)


# ---------------------------------------------------------------- settings


def test_defaults_are_those_of_mindvis():
    """``Config_MBM_fMRI`` and ``Config_Generative_Model`` of its ``config.py``; the clipping of its Trainer."""
    decoder = DcLdmDecoder()
    sizes = ("patch_size", "width", "depth", "heads", "mlp_ratio", "decoder_width", "decoder_depth", "decoder_heads")
    assert [getattr(decoder.encoder, s) for s in sizes] == [16, 1024, 24, 16, 1.0, 512, 8, 16]
    names = ("mask_ratio", "lr", "weight_decay", "pretrain_epochs", "warmup_epochs", "batch_size", "gradient_clip")
    assert [getattr(decoder.phase1, n) for n in names] == [0.75, 2.5e-4, 0.05, 500, 40, 100, 0.8]
    names = ("batch_size", "lr", "max_epochs", "schedule", "weight_decay", "gradient_clip", "context_tokens")
    assert [getattr(decoder.phase2, n) for n in names] == [5, 5.3e-5, 500, "constant", 0.01, 0.5, 77]
    assert not decoder.phase1.transductive and decoder.warnings() == []


def test_a_row_keeps_sizes_and_lengths_of_the_experiment_and_has_its_own_rates():
    base = load_experiment(EXPERIMENTS / "simulated.yaml")
    edits = {"decoder.phase2.until_converged": {"patience": 3}, "decoder.phase2.schedule": "constant", "rivals": {}}
    row = override(override(base, edits, "test"), {"decoder.kind": "dc_ldm", "decoder.phase1.mask_ratio": 0.5}, "test")
    decoder = row.decoder
    assert isinstance(decoder, DcLdmDecoder) and isinstance(base.decoder, CndDecoder)
    assert decoder.encoder == MindVisEncoder(**base.decoder.encoder.model_dump(exclude={"layout"}))
    assert decoder.phase1.mask_ratio == 0.5 and decoder.phase1.tune_epochs == base.decoder.phase1.tune_epochs
    assert decoder.phase2.max_steps == 800 and decoder.phase2.timestep_range == (480, 640)
    assert decoder.phase2.until_converged is not None and decoder.phase2.until_converged.patience == 3
    assert (decoder.phase2.lr, decoder.phase2.batch_size) == (5.3e-5, 5)


def test_what_it_warns_of():
    base = override(load_experiment(EXPERIMENTS / "smoke.yaml"), {"decoder.kind": "dc_ldm"}, "test")
    edits = {"decoder.phase1.transductive": True, "decoder.phase2.target": "generated"}
    told = override(base, edits, "test").decoder.warnings()
    assert [line.partition(":")[0] for line in told] == ["Transductive", "Labels"]


def test_a_generator_without_cross_attention_is_refused():
    smoke = load_experiment(EXPERIMENTS / "god.yaml")
    with pytest.raises(UserError, match=r"decoder.kind = dc_ldm trains the UNet's cross-attention.*'dit' has none"):
        override(smoke, {"generator.kind": "dit", "decoder.kind": "dc_ldm"}, "test")


# ---------------------------------------------------------------- a module without concept layers


def test_without_concept_layers_there_is_nothing_to_attend_to_or_to_replace():
    generator = EmbeddedGenerator(name="digits").load()
    encoder = FmriEncoder(DECODER.as_cnd().encoder, N_VOXELS)
    config = Phase2Config(concept_depth=0, context_tokens=3)
    module = ConditionModule(config, encoder, encoder.n_tokens, ENCODER.width, generator.concept_bank).eval()
    nn.init.normal_(module.mapper.mix.weight)
    with torch.no_grad():
        condition, attention = module(fmri())
        tokens = module.mapper(encoder(fmri()))
        normed = F.layer_norm(tokens, tokens.shape[-1:])
        head = module.context_head.linear
        torch.testing.assert_close(condition.context, normed @ head.weight.T + head.bias)
    assert attention is None
    fitted, items = SimpleNamespace(module=module), SimpleNamespace(fmri=np.asarray(fmri()))
    found = ConceptInterventions()
    assert found.conditions(fitted) == found.measures(fitted, items) == {} and found.class_scores(fitted, items) is None
    with pytest.raises(ValueError, match="attention_loss needs concept layers"):
        Phase2Config(concept_depth=0, attention_loss=0.1)
