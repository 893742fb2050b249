"""cin256-v2: the converted model against the same layers written independently, and the full-size layout key by key."""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from original_ldm import OriginalLdm
from safetensors.torch import save_file
from torch import Tensor

from cnd.generators.__main__ import main
from cnd.generators.cin256_settings import CIN256_V2
from cnd.generators.convert import class_table, scheduler_of, unet_of, vae_of
from cnd.generators.ldm import LdmGenerator
from cnd.generators.vq_diffusion import VqLatentDiffusion
from cnd.protocols import Condition

SMALL = copy.deepcopy(CIN256_V2)
SMALL["image_size"] = 8
SMALL["unet_config"]["params"] |= dict(
    model_channels=32, channel_mult=[1, 2, 3], attention_resolutions=[2, 4], num_heads=2, context_dim=16
)
SMALL["first_stage_config"]["params"] |= dict(n_embed=32)
SMALL["first_stage_config"]["params"]["ddconfig"] |= dict(ch=32, ch_mult=[1, 2], resolution=16)
SMALL["cond_stage_config"]["params"] = dict(n_classes=11, embed_dim=16, key="class_label")


def save_checkpoint(path: Path, state: dict[str, Tensor], **extra: object) -> Path:
    """As PyTorch Lightning (not installed here) writes it: classes and objects of its own lie beside the weights."""
    name = "pytorch_lightning.callbacks"
    modules = {part: ModuleType(part) for part in ("pytorch_lightning", name)}
    callback = type("ModelCheckpoint", (), {"__module__": name})
    modules[name].ModelCheckpoint = callback  # type: ignore[attr-defined]
    value = callback()
    value.best = torch.tensor(0.1)
    kept = {"epoch": 3, "callbacks": {callback: {"best_model_score": torch.tensor(0.1), "object": value}}}
    with patch.dict(sys.modules, modules):
        torch.save(kept | {"state_dict": OrderedDict(state)} | extra, path)
    return path


@pytest.fixture(scope="module")
def original() -> OriginalLdm:
    torch.manual_seed(0)
    model = OriginalLdm(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also norms and biases, which start at 1 and 0
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def files(original, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("original")
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"params": SMALL}}))
    return save_checkpoint(folder / "model.ckpt", original.state_dict()), folder / "config.yaml"


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "small"
    assert main(["convert", str(files[0]), "--config", str(files[1]), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def generator(converted) -> VqLatentDiffusion:
    loaded = LdmGenerator(path=converted).load()
    assert isinstance(loaded, VqLatentDiffusion)
    return loaded


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 2e-5 * b.abs().max())


# ---------------------------------------------------------------- numbers


def test_class_conditional_noise_is_the_originals(original, generator):
    noisy, timesteps, category = torch.randn(3, 3, 8, 8), torch.tensor([0, 500, 999]), torch.tensor([0, 4, 9])
    embedding = original.cond_stage_model.embedding.weight[category]
    with torch.no_grad():
        expected = original.model.diffusion_model(noisy, timesteps, embedding[:, None])
        assert close(generator.predict_noise(noisy, timesteps, generator.class_condition(category)), expected)


def test_double_conditioning_enters_context_and_time_embedding(original, generator):
    noisy, timesteps = torch.randn(2, 3, 8, 8), torch.tensor([7, 700])
    condition = Condition(torch.randn(2, 7, 16), torch.randn(2, generator.time_embedding_width))
    with torch.no_grad():
        expected = original.model.diffusion_model(noisy, timesteps, condition.context, added=condition.pooled)
        assert close(generator.predict_noise(noisy, timesteps, condition), expected)
        unchanged = Condition(condition.context, torch.zeros_like(condition.pooled))
        assert not close(generator.predict_noise(noisy, timesteps, unchanged), expected)


def test_autoencoder_is_the_originals(original, generator):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    scaled = torch.from_numpy(images).float() / 127.5 - 1
    with torch.no_grad():
        latents = original.first_stage_model.encode(scaled)
        decoded = original.first_stage_model.decode(latents)
    assert close(generator.encode(images), latents)
    difference = np.abs(generator.decode(latents) - ((decoded.clamp(-1, 1) + 1) * 127.5).numpy())
    assert difference.max() < 0.51  # rounding to whole grey levels


@pytest.mark.parametrize("steps", [1, 3, 250, 999, 1000])
def test_any_number_of_steps_stays_within_the_schedule(generator, steps, monkeypatch):
    """LDM's time-steps start at 1; the original itself cannot take all 1000."""
    seen = []
    monkeypatch.setattr(generator, "predict_noise", lambda z, t, _: seen.append(int(t[0])) or torch.zeros_like(z))
    noise = torch.randn(1, 3, 8, 8)
    assert generator.sample(generator.class_condition(torch.tensor([1])), noise, steps, 1.0).isfinite().all()
    assert len(seen) == steps and max(seen) < 1000 and seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_ddim_is_the_originals(original, generator, guidance):
    noise, category = torch.randn(2, 3, 8, 8), torch.tensor([2, 9])
    expected = original.sample(category, noise, 5, guidance)
    found = generator.sample(generator.class_condition(category), noise, 5, guidance)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_bank_and_null_class_are_the_table(original, generator):
    table = original.cond_stage_model.embedding.weight
    assert torch.equal(generator.concept_bank, table[:-1]) and torch.equal(generator.null_class, table[-1])


# ---------------------------------------------------------------- full-size layout


@pytest.fixture(scope="module")
def full_state() -> dict[str, Tensor]:
    """Every key and shape of cin256-v2; the i-th tensor is i everywhere, without memory (stride 0)."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in OriginalLdm(CIN256_V2).state_dict().items()}
    del shapes["alphas_cumprod"]
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    ("prefix", "build", "parameters"),
    # Rombach et al. 2022, table 10: LDM-4-G has 400 M parameters
    [("model.diffusion_model.", unet_of, 400_920_579), ("first_stage_model.", vae_of, 55_322_782)],
)
def test_every_tensor_of_the_full_model_finds_one_place(full_state, prefix, build, parameters):
    model = build(full_state, CIN256_V2)
    source = {key: value for key, value in full_state.items() if key.startswith(prefix)}
    number = {value.flatten()[0].item(): key for key, value in source.items()}
    placed = [number[value.flatten()[0].item()] for value in model.state_dict().values()]
    assert sorted(placed) == sorted(source)  # each exactly once
    assert sum(value.numel() for value in model.state_dict().values()) == parameters
    assert sum(value.numel() for value in source.values()) == parameters


def test_full_model_has_the_published_sizes(full_state):
    unet, vae = unet_of(full_state, CIN256_V2), vae_of(full_state, CIN256_V2)
    assert class_table(full_state, CIN256_V2).shape == (1001, 512)
    assert unet.config.cross_attention_dim == 512 and unet.config.sample_size == 64
    assert unet.time_embedding.linear_2.out_features == 768
    assert len(unet.down_blocks) == 4 and vae.quantize.embedding.weight.shape == (8192, 3)
    assert vae.config.scaling_factor == 1.0
    betas = scheduler_of(CIN256_V2).betas
    assert len(betas) == 1000 and betas[0] == pytest.approx(0.0015) and betas[-1] == pytest.approx(0.0195)


def test_names_of_the_published_checkpoint(full_state):
    """A few of the keys that public code looks up in model.ckpt, with their shapes."""
    for key, shape in {
        "model.diffusion_model.input_blocks.0.0.weight": (192, 3, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (192, 192, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (384, 512),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (7680, 960),
        "model.diffusion_model.output_blocks.2.2.conv.weight": (960, 960, 3, 3),
        "model.diffusion_model.out.2.weight": (3, 192, 3, 3),
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "first_stage_model.decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.quantize.embedding.weight": (8192, 3),
        "cond_stage_model.embedding.weight": (1001, 512),
    }.items():
        assert tuple(full_state[key].shape) == shape, key


# ---------------------------------------------------------------- the command


def test_conversion_resumes_and_is_done_once(files, tmp_path, capsys):
    arguments = ["convert", str(files[0]), "--config", str(files[1]), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    before = (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    (tmp_path / "out").rename(tmp_path / ".out.partial")  # as if killed before the last rename
    (tmp_path / ".out.partial" / "class_embedding.safetensors").unlink()
    assert main(arguments) == 0
    after = (tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert before == after and (tmp_path / "out" / "class_embedding.safetensors").exists()
    capsys.readouterr()
    assert main(arguments) == 0
    assert "already converted" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["model"] == SMALL


class Calling:
    """Unpickled as Python does, it calls a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __reduce__(self) -> tuple:
        return (self.function, ("this must not run",))


def test_what_is_not_weights_is_left_out_and_told(original, files, tmp_path, capsys):
    path = save_checkpoint(tmp_path / "model.ckpt", original.state_dict(), hidden=Calling(print), loss=np.float64(1))
    assert main(["convert", str(path), "--config", str(files[1]), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "this must not run" not in printed.out + printed.err
    (told,) = [line for line in printed.err.splitlines() if line.startswith("left out, not run")]
    assert "builtins.print" in told and "pytorch_lightning.callbacks.ModelCheckpoint" in told


@pytest.mark.parametrize(
    ("kept", "use_ema", "taken"),
    [(True, None, "EMA"), (True, True, "EMA"), (True, False, "no EMA"), (False, True, "no EMA")],
)
def test_ema_weights_are_taken_where_the_original_samples_from_them(kept, use_ema, taken, original, tmp_path, capsys):
    """LDM's ``ema_scope``: by default, unless the config says ``use_ema: false``, as cin256-v2's does."""
    state, key = original.state_dict(), "model.diffusion_model.input_blocks.0.0.bias"
    if kept:  # ldm/modules/ema.py: the names without dots, of the parameters below "model."
        unet = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.diffusion_model.")}
        state |= {f"model_ema.{name.replace('.', '')}": value + 1 for name, value in unet.items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    params = {k: v for k, v in SMALL.items() if k != "use_ema"} | ({} if use_ema is None else {"use_ema": use_ema})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))
    path, output = save_checkpoint(tmp_path / "model.ckpt", state), tmp_path / "out"
    assert main(["convert", str(path), "--config", str(tmp_path / "config.yaml"), "--output", str(output)]) == 0
    assert f", {'EMA weights' if taken == 'EMA' else 'weights as trained, no EMA'}" in capsys.readouterr().err
    found = LdmGenerator(path=output).load().unet.conv_in.bias
    assert torch.equal(found, state[key] + (1 if taken == "EMA" else 0))


def test_a_scale_measured_in_training_is_kept(original, generator, tmp_path):
    """With ``scale_by_std`` LDM registers ``scale_factor`` as a buffer; the config does not know its value."""
    vae = vae_of(original.state_dict() | {"scale_factor": torch.tensor(0.5)}, SMALL)
    assert vae.config.scaling_factor == 0.5 and generator.vae.config.scaling_factor == 1.0


def test_safetensors_of_the_same_layout_convert_too(original, files, converted, tmp_path):
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    arguments = ["convert", str(tmp_path / "model.safetensors"), "--config", str(files[1])]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    assert (tmp_path / "out" / weights).read_bytes() == (converted / weights).read_bytes()


CONV, TABLE = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "cond_stage_model.embedding.weight"
BAD_TENSORS = {
    "nan": {CONV: torch.full((32, 32, 3, 3), torch.nan)},
    "whole numbers": {CONV: torch.ones(32, 32, 3, 3, dtype=torch.int8)},
    "sparse": {CONV: torch.ones(32, 32, 3, 3).to_sparse()},
    "no values": {CONV: torch.ones(32, 32, 3, 3, device="meta")},
    "nan in the table": {TABLE: torch.full((11, 16), torch.nan)},
    "no place": {"model.diffusion_model.label_emb.0.weight": torch.zeros(3)},
    "part of an EMA": {"model_ema.decay": torch.tensor(0.9999)},
}


def broken(case: str, folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "model.ckpt"
    if case == "code":
        return save_checkpoint(path, state, hidden=Calling(os.mkdir))
    if case == "garbage":
        path.write_bytes(b"<!DOCTYPE html>")
    elif case == "truncated":
        path.write_bytes(save_checkpoint(path, state).read_bytes()[:-5000])
    elif case == "no unet":
        return save_checkpoint(path, {"weight": torch.zeros(3)})
    elif case == "missing tensor":
        return save_checkpoint(
            path, {k: v for k, v in state.items() if not k.endswith("input_blocks.1.0.in_layers.0.bias")}
        )
    elif case == "no codebook":
        return save_checkpoint(path, {k: v for k, v in state.items() if "quantize" not in k})
    elif case == "no classes":
        return save_checkpoint(path, {k: v for k, v in state.items() if "cond_stage" not in k})
    elif case == "other schedule":
        return save_checkpoint(path, state | {"alphas_cumprod": state["alphas_cumprod"] ** 2})
    elif case in BAD_TENSORS:
        return save_checkpoint(path, state | BAD_TENSORS[case])
    elif case == "no state dict":
        torch.save({"state_dict": [torch.zeros(3)]}, path)
    elif case == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("nothing", "no such file"),
        ("code", "nothing was run"),
        ("garbage", "expected a checkpoint of tensors"),
        ("truncated", "expected a checkpoint of tensors"),
        ("no unet", "no 'model.diffusion_model.*'"),
        ("missing tensor", "norm1.bias"),
        ("no codebook", "quantize.embedding.weight"),
        ("no classes", "cond_stage_model.embedding.weight"),
        ("other schedule", "alphas_cumprod"),
        ("nan", f"{CONV}: expected finite numbers, found NaN"),
        ("whole numbers", f"{CONV}: expected floating-point numbers, found torch.strided torch.int8"),
        ("sparse", f"{CONV}: expected floating-point numbers, found torch.sparse_coo"),
        ("no values", f"{CONV}: expected floating-point numbers, found no values"),
        ("nan in the table", f"{TABLE}: expected finite numbers"),
        ("no place", "has no place for 'model.diffusion_model.label_emb.0.weight'"),
        ("part of an EMA", "no 'model_ema.diffusion_model"),
        ("no state dict", "no 'model.diffusion_model.*' in its state_dict"),
        ("folder", "is a folder"),
    ],
)
def test_a_bad_checkpoint_is_told_in_one_line(case, told, original, files, tmp_path, capsys):
    path, config = broken(case, tmp_path, original.state_dict()), files[1]
    if case == "part of an EMA":
        config = tmp_path / "config.yaml"
        config.write_text(small("use_ema", True))
    code = main(["convert", str(path), "--config", str(config), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    error = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(error) == 1 and told in error[0] and f"{path}: " in error[0]
    assert not Path("this must not run").exists() and not (tmp_path / "out").exists()


def small(key: str, value: object) -> str:
    """A config.yaml with one other value."""
    params = copy.deepcopy(SMALL)
    *parents, last = key.split(".")
    inner = params
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return yaml.safe_dump({"model": {"params": params}})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [", "no key 'model.params'"),
        ("model: {params: {linear_start: 0.0015}}", "no key 'model.params.cond_stage_config.params.embed_dim'"),
        (yaml.safe_dump({"model": {"params": CIN256_V2}}), "'conv_in.bias' is (32,), expected (192,)"),
        (small("unet_config.params.num_heads", "two"), "num_heads: expected a whole number above 0, found 'two'"),
        (small("unet_config.params.num_heads", 0), "num_heads: expected a whole number above 0, found 0"),
        (
            small("unet_config.params.channel_mult", []),
            "channel_mult: expected a list of whole numbers above 0, found []",
        ),
        (
            small("unet_config.params.use_spatial_transformer", False),
            "use_spatial_transformer: expected true, found False",
        ),
        (small("linear_start", "1e-3"), "model.params.linear_start: expected a number above 0, found '1e-3'"),
        (small("image_size", [8, 8]), "model.params.image_size: expected a whole number above 0, found [8, 8]"),
        (small("use_ema", "no"), "model.params.use_ema: expected true or false, found 'no'"),
        (small("scale_factor", 0), "model.params.scale_factor: expected a number above 0, found 0"),
        (small("parameterization", "x0"), "model.params.parameterization: expected eps, found 'x0'"),
        (
            small("unet_config.params.num_heads", 5),
            "model.ckpt: UNet2DConditionModel: 'down_blocks.1.attentions.0.proj_in",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_told_in_one_line(text, told, files, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(text)
    arguments = ["convert", str(files[0]), "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("output", ["file/out", "/proc/out"])
def test_an_output_that_cannot_be_written_is_told_in_one_line(output, files, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["convert", str(files[0]), "--config", str(files[1]), "--output", str(tmp_path / output)]) == 2
    assert f"{output}: cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_a_full_disk_is_told_and_the_same_command_goes_on(files, converted, tmp_path, capsys):
    arguments = ["convert", str(files[0]), "--config", str(files[1]), "--output", str(tmp_path / "out")]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "out: cannot be written" in capsys.readouterr().err.splitlines()[-1]
    assert main(arguments) == 0
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    assert (tmp_path / "out" / weights).read_bytes() == (converted / weights).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_converts(dtype, original, files, tmp_path):
    state = {key: value.to(dtype) for key, value in original.state_dict().items()}
    path, output = save_checkpoint(tmp_path / "model.ckpt", state), tmp_path / "out"
    assert main(["convert", str(path), "--config", str(files[1]), "--output", str(output)]) == 0
    found = LdmGenerator(path=output).load().unet.conv_in.weight
    assert torch.equal(found, state["model.diffusion_model.input_blocks.0.0.weight"].float())


def test_what_else_the_original_keeps_beside_the_weights_is_no_hindrance(original, files, tmp_path):
    """Buffers of the schedule (ddpm.py), the loss of the first stage with its counters, the loss weights."""
    others = {name: torch.zeros(1000) for name in ("betas", "logvar", "posterior_variance", "lvlb_weights")}
    others["first_stage_model.loss.discriminator.main.3.num_batches_tracked"] = torch.tensor(7)
    others["first_stage_model.loss.perceptual_loss.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    path = save_checkpoint(tmp_path / "model.ckpt", original.state_dict() | others)
    assert main(["convert", str(path), "--config", str(files[1]), "--output", str(tmp_path / "out")]) == 0


def test_the_config_that_mindvis_ships_converts(files, tmp_path):
    """pretrains/ldm/label2img/config.yaml in github.com/zjc062/mind-vis: cin256-v2's with keys of its own."""
    params = copy.deepcopy(SMALL) | {"cond_stage_key": "fmri", "num_timesteps_cond": 1, "monitor": "val/loss"}
    params["unet_config"]["params"] |= {"cond_scale": 1.0, "use_time_cond": True, "global_pool": False}
    params["first_stage_config"]["params"]["lossconfig"] = {"target": "torch.nn.Identity"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"base_learning_rate": 1e-4, "params": params}}))
    arguments = ["convert", str(files[0]), "--config", str(tmp_path / "config.yaml")]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0


def test_another_folder_is_never_overwritten(files, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert main(["convert", str(files[0]), "--config", str(files[1]), "--output", str(tmp_path / "out")]) == 2
    assert "name another --output" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"
