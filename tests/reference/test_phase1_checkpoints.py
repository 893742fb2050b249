"""Encoder checkpoints against a forward pass of MinD-Vis's network written for this test."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from cnd.__main__ import main
from cnd.decoders.cnd.phase1.checkpoints import check_initial_weights, export_mindvis, load_initial_weights, to_mindvis
from cnd.decoders.cnd.phase1.model import FmriEncoder, MaskedAutoencoder, n_kept, random_order
from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.errors import UserError

TINY = EncoderConfig(
    layout="mind_vis", patch_size=4, width=8, depth=2, heads=2, decoder_width=6, decoder_depth=1, decoder_heads=3
)
N_VOXELS = 40  # 11 patches there, 10 in layout cnd
CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # in float64; the other epsilon moves outputs by 1e-6 to 1e-4


def formula(n: int, width: int) -> np.ndarray:
    """Sin-cos positions with a row of zeros for the class token, as MinD-Vis keeps them."""
    angles = np.arange(n)[:, None] / 10000 ** (np.arange(width // 2) / (width / 2))
    return np.concatenate([np.zeros((1, width)), np.concatenate([np.sin(angles), np.cos(angles)], 1)])


def mindvis_tensors(n_patches: int = 11, seed: int = 0, trained_positions: bool = False) -> dict[str, Tensor]:
    """A state dict in the published layout, every tensor random but the positions."""
    rng = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 8),
        "mask_token": (1, 1, 6),
        "patch_embed.proj.weight": (8, 1, 4),
        "patch_embed.proj.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "decoder_embed.weight": (6, 8),
        "decoder_embed.bias": (6,),
        "decoder_norm.weight": (6,),
        "decoder_norm.bias": (6,),
        "decoder_pred.weight": (4, 6),
        "decoder_pred.bias": (4,),
    }
    for prefix, w in {"blocks.0": 8, "blocks.1": 8, "decoder_blocks.0": 6}.items():
        for layer, rows in {"attn.qkv": 3 * w, "attn.proj": w, "mlp.fc1": w, "mlp.fc2": w}.items():
            shapes |= {f"{prefix}.{layer}.weight": (rows, w), f"{prefix}.{layer}.bias": (rows,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{prefix}.{norm}.weight": (w,), f"{prefix}.{norm}.bias": (w,)}
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    for name, width in {"pos_embed": 8, "decoder_pos_embed": 6}.items():
        tensors[name] = torch.from_numpy(formula(n_patches, width)).float()[None]
        if trained_positions:
            tensors[name] += torch.randn(tensors[name].shape, generator=rng)
    return tensors


def transformer(tensors: dict[str, Tensor], prefix: str, x: Tensor, heads: int) -> Tensor:
    """Pre-norm blocks with layer norms of epsilon 1e-5, which is PyTorch's and MinD-Vis's."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    depth = len({n.split(".")[1] for n in tensors if n.startswith(f"{prefix}blocks.")})
    for block in (f"{prefix}blocks.{i}" for i in range(depth)):
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3) @ v
        x = x + linear(f"{block}.attn.proj", attended.transpose(1, 2).flatten(2))
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return norm(f"{prefix}norm", x)


def mindvis_pad(fmri: Tensor) -> Tensor:
    """Its data sets wrap the voxels and always pad: by a whole patch where none is open."""
    return torch.from_numpy(np.pad(fmri.numpy(), ((0, 0), (0, 4 - fmri.shape[1] % 4)), "wrap"))


def mindvis_places(positions: Tensor, n_patches: int) -> Tensor:
    """Rows for another number of patches: the nearest old one from below; the class token keeps its own."""
    n_old = positions.shape[1] - 1
    return positions[:, [0, *(1 + i * n_old // n_patches for i in range(n_patches))]]


def mindvis_embed(tensors: dict[str, Tensor], fmri: Tensor) -> Tensor:
    weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    tokens = F.conv1d(mindvis_pad(fmri)[:, None], weight, bias, stride=4).transpose(1, 2)
    return tokens + mindvis_places(tensors["pos_embed"], tokens.shape[1])[:, 1:]


def mindvis_encode(tensors: dict[str, Tensor], fmri: Tensor, ids_keep: Tensor) -> Tensor:
    """First stage: the class token and the patches that a mask keeps."""
    kept = torch.stack([row[ids] for row, ids in zip(mindvis_embed(tensors, fmri), ids_keep, strict=True)])
    first = (tensors["cls_token"] + tensors["pos_embed"][:, :1]).expand(len(fmri), -1, -1)
    return transformer(tensors, "", torch.cat([first, kept], 1), 2)


def mindvis_encode_whole(tensors: dict[str, Tensor], fmri: Tensor) -> Tensor:
    """Second stage: every patch, and no class token."""
    return transformer(tensors, "", mindvis_embed(tensors, fmri), 2)


def mindvis_decode(tensors: dict[str, Tensor], encoded: Tensor, order: Tensor) -> Tensor:
    embedded = encoded @ tensors["decoder_embed.weight"].T + tensors["decoder_embed.bias"]
    tokens = tensors["mask_token"].repeat(len(order), 1 + order.shape[1], 1)
    tokens[:, 0] = embedded[:, 0]
    for row, ids, values in zip(tokens, order, embedded[:, 1:], strict=True):
        row[1 + ids[: len(values)]] = values
    places = mindvis_places(tensors["decoder_pos_embed"], order.shape[1])
    decoded = transformer(tensors, "decoder_", tokens + places, 3)
    return (decoded @ tensors["decoder_pred.weight"].T + tensors["decoder_pred.bias"])[:, 1:].flatten(1)


def save(path: Path, tensors: dict[str, Tensor], **more: Any) -> Path:
    torch.save({"model": tensors, **more}, path)
    return path


def loaded(path: Path, n_voxels: int = N_VOXELS, seed: int = 3) -> MaskedAutoencoder:
    model = MaskedAutoencoder(TINY, n_voxels, seed)
    load_initial_weights(model, path)
    return model


@pytest.mark.parametrize("trained_positions", [False, True])
@pytest.mark.parametrize("n_voxels", [38, 40, 41, 43, 16, 84, 150])  # 10, 11, 11, 11, 5, 22 and 38 patches; 11 stored
def test_imported_network_computes_what_mindvis_does(tmp_path: Path, n_voxels: int, trained_positions: bool) -> None:
    """Both of its stages; in float64, where no processor's rounding asks for a tolerance that hides something."""
    tensors = mindvis_tensors(trained_positions=trained_positions)
    model = loaded(save(tmp_path / "checkpoint.pth", tensors), n_voxels).double()
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    n_patches = n_voxels // 4 + 1
    order = random_order(3, n_patches, torch.Generator().manual_seed(2))
    ids_keep = order[:, : n_kept(n_patches, 0.6)]
    fmri = torch.randn(3, n_voxels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    encoded = mindvis_encode(tensors, fmri, ids_keep)
    torch.testing.assert_close(model.encoder(fmri, ids_keep), encoded, **CLOSE)
    decoded = mindvis_decode(tensors, encoded, order)[:, :n_voxels]
    torch.testing.assert_close(model.predict(fmri, order, 0.6), decoded, **CLOSE)
    whole = model.encoder(fmri)
    assert whole.shape == (3, model.encoder.n_tokens, 8)
    torch.testing.assert_close(whole, mindvis_encode_whole(tensors, fmri), **CLOSE)


def test_phase2_takes_the_network_over(tmp_path: Path) -> None:
    """An encoder alone, as Phase 2 loads it from our file, computes MinD-Vis's second stage for other voxels too."""
    tensors = mindvis_tensors(trained_positions=True)
    save_file(loaded(save(tmp_path / "theirs.pth", tensors)).state_dict(), tmp_path / "ours.safetensors")
    stored = load_file(tmp_path / "ours.safetensors")
    for n_voxels in (N_VOXELS, 77):
        encoder = FmriEncoder(TINY, n_voxels, seed=5)
        encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in stored.items() if k.startswith("encoder.")})
        fmri = torch.randn(2, n_voxels, generator=torch.Generator().manual_seed(1))
        double = {name: tensor.double() for name, tensor in tensors.items()}
        expected = mindvis_encode_whole(double, fmri.double())
        torch.testing.assert_close(copy.deepcopy(encoder).double()(fmri.double()), expected, **CLOSE)
        module = ConditionModule(Phase2Config(concept_heads=2), encoder, encoder.n_tokens, 8, torch.randn(5, 6))
        condition, _ = module(fmri)
        condition.context.sum().backward()
        assert encoder.class_token.grad is None and encoder.patch_embed.weight.grad is not None


@pytest.mark.parametrize("theirs", [True, False])
def test_a_checkpoint_of_the_other_layout_is_refused(tmp_path: Path, theirs: bool) -> None:
    path, ours = save(tmp_path / "theirs.pth", mindvis_tensors()), tmp_path / "ours.safetensors"
    save_file(loaded(path).state_dict(), ours)
    wrong = TINY.model_copy(update={"layout": "cnd"})
    path = path if theirs else ours
    with pytest.raises(UserError) as raised:
        check_initial_weights(wrong, path)
    remedy = "set encoder.layout=mind_vis, or give another phase1.initial_weights"
    assert str(raised.value) == f"{path}: encoder.layout: expected a checkpoint of 'cnd', found 'mind_vis'; {remedy}"
    save_file(MaskedAutoencoder(wrong, N_VOXELS).state_dict(), ours)
    check_initial_weights(wrong, ours)
    with pytest.raises(UserError, match=r"expected a checkpoint of 'mind_vis', found 'cnd'; set encoder\.layout=cnd"):
        check_initial_weights(TINY, ours)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("trained_positions", [False, True])
def test_round_trip_is_exact(tmp_path: Path, suffix: str, trained_positions: bool) -> None:
    model = loaded(save(tmp_path / "first.pth", mindvis_tensors(trained_positions=trained_positions)))
    export_mindvis(model, tmp_path / f"second{suffix}")
    again = loaded(tmp_path / f"second{suffix}")
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_export_has_the_published_names_shapes_and_values(tmp_path: Path) -> None:
    published = mindvis_tensors()
    exported = to_mindvis(loaded(save(tmp_path / "checkpoint.pth", published)))
    assert exported.keys() == published.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, published[name]), name


def test_layout_cnd_keeps_its_own_rule_for_positions(tmp_path: Path) -> None:
    """Positions that came with weights of ours travel with them, and are stretched linearly for other voxels."""
    config = TINY.model_copy(update={"layout": "cnd"})
    model = MaskedAutoencoder(config, N_VOXELS)
    assert not [name for name in model.state_dict() if "positions" in name]
    model.encoder.set_positions(torch.randn(10, 8, generator=torch.Generator().manual_seed(1)))
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    larger = MaskedAutoencoder(config, 76)
    load_initial_weights(larger, tmp_path / "ours.safetensors")
    assert torch.equal(larger.encoder.positions[::2], model.encoder.positions)  # 19 patches: every second one is old


# ---------------------------------------------------------------- what else a checkpoint may hold


class Running:
    """An object whose loading would call a function."""

    def __init__(self, function: Any, path: Path) -> None:
        self.call = function, (str(path),)

    def __reduce__(self) -> Any:
        return self.call


def mindvis_config(**attributes: Any) -> Any:
    """An object of a class that the reader cannot import, as MinD-Vis's ``config.Config_MBM_fMRI`` is."""
    module = ModuleType("config_of_mindvis")
    module.Config_MBM_fMRI = type("Config_MBM_fMRI", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    config = module.Config_MBM_fMRI()
    config.__dict__.update(attributes)
    return config


@pytest.fixture
def with_config(tmp_path: Path) -> Any:
    def write(**attributes: Any) -> Path:
        config = mindvis_config(lr=np.float64(2.5e-4), root=Path("."), **attributes)
        path = save(tmp_path / "checkpoint.pth", mindvis_tensors(), config=config, optimizer={"state": {}}, epoch=499)
        del sys.modules["config_of_mindvis"]
        return path

    return write


def test_foreign_config_objects_are_read_without_their_class(with_config: Any) -> None:
    model = loaded(with_config(num_heads=2, decoder_num_heads=3))
    torch.testing.assert_close(model.encoder.class_token, mindvis_tensors()["cls_token"])


@pytest.mark.parametrize(("key", "attribute"), [("heads", "num_heads"), ("decoder_heads", "decoder_num_heads")])
def test_another_number_of_heads_is_refused(with_config: Any, key: str, attribute: str) -> None:
    """No tensor tells it, so without this check the network would silently compute something else."""
    with pytest.raises(UserError, match=rf"encoder\.{key}: expected \d, found 4"):
        loaded(with_config(**{attribute: 4}))


def test_exported_config_is_what_mindvis_asks_for(tmp_path: Path) -> None:
    export_mindvis(MaskedAutoencoder(TINY, N_VOXELS), tmp_path / "out.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        config = torch.load(tmp_path / "out.pth", weights_only=True)["config"]
    assert (config.patch_size, config.embed_dim, config.depth, config.num_heads) == (4, 8, 2, 2)
    assert (config.decoder_embed_dim, config.decoder_depth, config.decoder_num_heads) == (6, 1, 3)
    assert isinstance(config.seed, int)  # stageA2_mbm_finetune.py: torch.manual_seed(config_pretrain.seed)


@pytest.mark.parametrize("function", [os.mkdir, os.makedirs, Path.touch])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, function: Any) -> None:
    target = tmp_path / "executed"
    path = save(tmp_path / "checkpoint.pth", mindvis_tensors(), config=Running(os.makedirs, target))
    torch.load(path, weights_only=False)
    assert target.exists()  # such a file is as dangerous as it should be
    target.rmdir()
    path = save(tmp_path / "checkpoint.pth", mindvis_tensors(), config=Running(function, target))
    with contextlib.suppress(UserError):  # refused, or read without the object
        loaded(path)
    assert not target.exists()


def test_objects_that_cannot_be_left_out_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoint.pth", mindvis_tensors(), config=Running(os.mkdir, tmp_path / "executed"))
    with pytest.raises(UserError, match=r"only their own code can build; .*keep its weights alone"):
        loaded(path)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t}, lambda t: {"model_state_dict": t}])
def test_state_dict_is_found_wherever_it_is(tmp_path: Path, wrap: Any) -> None:
    tensors = {f"module.{name}": tensor.half() for name, tensor in mindvis_tensors().items()}
    torch.save(wrap(tensors | {"module.nature_img_mask_token": torch.zeros(1)}), tmp_path / "c.ckpt")
    token = loaded(tmp_path / "c.ckpt").encoder.class_token
    assert token.dtype == torch.float32
    torch.testing.assert_close(token, mindvis_tensors()["cls_token"].half().float())


# ---------------------------------------------------------------- broken input


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in mindvis_tensors().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("decoder_pred.bias"), r"decoder\.head\.bias: expected \[4\], found no such tensor"),
        (mindvis_tensors() | {"blocks.2.norm1.bias": torch.zeros(8)}, r"encoder\.blocks\.2\.norm1\.bias: expected no"),
        (mindvis_tensors() | {"norm.weight": torch.zeros(9)}, r"encoder\.norm\.weight: expected \[8\], found \[9\]"),
        (mindvis_tensors() | {"extra": torch.zeros(9)}, r"extra: expected no such tensor, found \[9\]"),
        (
            mindvis_tensors() | {"decoder_pos_embed": torch.zeros(1, 5, 8)},
            r"decoder\.positions: expected \[tokens, 6\]",
        ),
        (mindvis_tensors() | {"pos_embed": torch.zeros(())}, r"encoder\.positions: expected \[tokens, 8\]"),
        (mindvis_tensors() | {"pos_embed": torch.zeros(1, 1, 8)}, r"encoder\.positions: .* found \[1, 8\]"),
        (without("pos_embed"), r"encoder\.positions: expected \[12, 8\], found no such tensor"),
        (mindvis_tensors() | {"pos_embed": torch.zeros(1, 11, 9)}, r"encoder\.positions: .* found \[11, 9\]"),
        (mindvis_tensors() | {"decoder_pos_embed": torch.zeros(1, 1, 6)}, r"decoder\.positions: .* found \[1, 6\]"),
        (mindvis_tensors() | {"cls_token": torch.zeros(1, 1, 9)}, r"encoder\.class_token: expected \[1, 1, 8\], found"),
        (mindvis_tensors() | {"norm.weight": torch.full((8,), torch.nan)}, r"encoder\.norm\.weight: .*found NaN"),
        (mindvis_tensors() | {"norm.weight": torch.ones(8, dtype=torch.int8)}, r"encoder\.norm\.weight: .*torch.int8"),
        (mindvis_tensors() | {"norm.weight": torch.ones(8).to_sparse()}, r"encoder\.norm\.weight: .*sparse_coo"),
        (mindvis_tensors() | {"norm.weight": torch.ones(8, device="meta")}, r"encoder\.norm\.weight: .*no values"),
        ({}, "expected a state dict"),
    ],
)
def test_misfits_name_file_key_and_remedy(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    path = save(tmp_path / "checkpoint.pth", tensors)
    with pytest.raises(UserError, match=message) as raised:
        loaded(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*phase1\.initial_weights"):
        loaded(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("size", [0, 100, 3000])
def test_truncated_and_foreign_files(tmp_path: Path, name: str, size: int) -> None:
    (tmp_path / name).write_bytes(save(tmp_path / "whole.pth", mindvis_tensors()).read_bytes()[:size])
    with pytest.raises(UserError, match="expected a checkpoint of tensors") as raised:
        loaded(tmp_path / name)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- command


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"data": {"kind": "simulated"}, "encoder": TINY.model_dump()}))
    return path


def test_command_converts_there_and_back(tmp_path: Path, experiment: Path, capsys: Any) -> None:
    source = save(tmp_path / "theirs.pth", mindvis_tensors(trained_positions=True))
    common = ["--experiment", str(experiment), "--voxels", str(N_VOXELS)]
    assert main(["encoder", str(source), str(tmp_path / "ours.safetensors"), *common]) == 0
    assert main(["encoder", str(tmp_path / "ours.safetensors"), str(tmp_path / "back.pth"), *common]) == 0
    assert "epsilon" not in capsys.readouterr().err
    theirs, back = (torch.load(p, weights_only=False)["model"] for p in (source, tmp_path / "back.pth"))
    assert theirs.keys() == back.keys() and all(torch.equal(tensor, back[name]) for name, tensor in theirs.items())


def test_command_says_that_layout_cnd_is_not_exact_there(tmp_path: Path, capsys: Any) -> None:
    config = TINY.model_copy(update={"layout": "cnd"})
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"data": {"kind": "simulated"}, "encoder": config.model_dump()}))
    save_file(MaskedAutoencoder(config, N_VOXELS).state_dict(), tmp_path / "ours.safetensors")
    files = [str(tmp_path / "ours.safetensors"), str(tmp_path / "theirs.pth")]
    assert main(["encoder", *files, "--experiment", str(path), "--voxels", str(N_VOXELS)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("encoder.layout = cnd") and "epsilon" in line
    assert torch.load(files[1], weights_only=False)["model"]["pos_embed"].shape == (1, 11, 8)


def test_command_says_what_is_wrong_in_one_line(tmp_path: Path, experiment: Path, capsys: Any) -> None:
    source, options = save(tmp_path / "in.pth", mindvis_tensors()), ["--experiment", str(experiment), "--voxels"]
    for arguments, told in {
        (tmp_path / "none.pth", tmp_path / "x.pth", "40"): "none.pth: cannot be read",
        (source, tmp_path / "x.bin", "40"): "x.bin: expected a name ending in",
        (source, tmp_path / "x.pth", "0"): "--voxels: expected a number above 0, found 0",
        (source, source / "x.pth", "40"): "x.pth: cannot be written",
        (source, Path("/proc/x.pth"), "40"): "/proc/x.pth: cannot be written",
        (source, Path("/proc/x.safetensors"), "40"): "/proc/x.safetensors: cannot be written",
    }.items():
        assert main(["encoder", str(arguments[0]), str(arguments[1]), *options, arguments[2]]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
