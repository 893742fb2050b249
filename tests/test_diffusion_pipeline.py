"""The trained decoder as a diffusers pipeline: the same images after a round trip, elsewhere, and as in the sweep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_ldm import write_ldm
from torch import nn

from cnd.data.simulated import SimulatedData
from cnd.data.storage import load_dataset
from cnd.decoders.cnd.decoder import CndDecoder
from cnd.decoders.cnd.phase1.checkpoints import export_mindvis
from cnd.decoders.cnd.phase1.model import FmriEncoder, MaskedAutoencoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.generators.embedded import EmbeddedGenerator
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.ldm import LdmGenerator
from cnd.generators.pipeline import CndPipeline, FmriCondition
from cnd.generators.vq_diffusion import VqLatentDiffusion
from cnd.protocols import Noise, SamplingConfig
from cnd.workflow import run as workflow
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import all_folds

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "experiments" / "smoke.yaml"
N_VOXELS = 70

EXPERIMENT = Experiment(
    name="small",
    data=SimulatedData(),
    generator=EmbeddedGenerator(name="digits"),
    decoder=CndDecoder(
        encoder=EncoderConfig(width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2),
        phase2=Phase2Config(context_tokens=3, concept_heads=4, concept_depth=1),
    ),
    sampling=SamplingConfig(steps=2, guidance=2.0),
    evaluation={"n_way": (2, 5)},
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def patterns(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, N_VOXELS)).astype(np.float32)


@pytest.fixture(scope="module")
def pipe() -> CndPipeline:
    return build(EXPERIMENT.generator.load())


@pytest.fixture(scope="module")
def folder(pipe: CndPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported")
    pipe.save_pretrained(path)
    return path


def build(generator: LatentDiffusion) -> CndPipeline:
    """Random weights, and positions as a foreign checkpoint may bring them."""
    encoder = FmriEncoder(EXPERIMENT.decoder.encoder, N_VOXELS, seed=3)
    encoder.set_positions(torch.randn(encoder.n_patches, 16, generator=torch.Generator().manual_seed(7)))
    torch.manual_seed(1)
    bank, added = generator.concept_bank, generator.time_embedding_width
    module = ConditionModule(EXPERIMENT.decoder.phase2, encoder, 1 + encoder.n_patches, 16, bank, added)
    module.mapper.mix.reset_parameters()  # it starts at zero, which makes all patterns one
    condition = FmriCondition.of(EXPERIMENT.model_dump(mode="json"), N_VOXELS, module.state_dict(), generator)
    made = CndPipeline(generator.vae, generator.unet, generator.scheduler, condition)
    made.set_progress_bar_config(disable=True)
    return made


def images(pipe: CndPipeline, **options: object) -> np.ndarray:
    return pipe(patterns(), generator=seeded(), output_type="np", **options).images


def test_round_trip_gives_the_same_images(pipe: CndPipeline, folder: Path) -> None:
    loaded = CndPipeline.from_pretrained(folder)
    np.testing.assert_array_equal(images(loaded), images(pipe))
    assert loaded.experiment == EXPERIMENT.model_dump(mode="json")
    for name, tensor in pipe.condition.state_dict().items():
        assert torch.equal(loaded.condition.state_dict()[name], tensor), name


def test_round_trip_with_a_vector_quantised_autoencoder(tmp_path: Path) -> None:
    """As cin256-v2 has one; its pooled vector has the width of the time embedding."""
    write_ldm(tmp_path / "ldm")
    made = build(LdmGenerator(path=tmp_path / "ldm").load())
    nn.init.normal_(made.condition.module.pooled_head.linear.weight)
    made.save_pretrained(tmp_path / "exported")
    loaded = CndPipeline.from_pretrained(tmp_path / "exported")
    assert isinstance(loaded.latent_diffusion, VqLatentDiffusion)
    np.testing.assert_array_equal(images(loaded), images(made))
    assert np.ptp(images(made)) > 0


def test_condition_decides_the_images(pipe: CndPipeline, folder: Path) -> None:
    """So that the equalities of this file say something."""
    loaded = CndPipeline.from_pretrained(folder)
    nn.init.normal_(loaded.condition.module.context_head.linear.weight)
    assert np.abs(images(loaded) - images(pipe)).max() > 0.1
    other = pipe(patterns()[::-1].copy(), generator=seeded(), output_type="np").images
    assert np.abs(other - images(pipe)).max() > 0.01


def test_folder_is_all_that_a_fresh_process_needs(pipe: CndPipeline, folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np, torch\n"
        "from cnd.generators.pipeline import CndPipeline\n"
        "pipe = CndPipeline.from_pretrained(sys.argv[1])\n"
        "fmri = np.load(sys.argv[2], allow_pickle=False)\n"
        "made = pipe(fmri, generator=torch.Generator().manual_seed(0), output_type='np').images\n"
        "np.save(sys.argv[3], made)\n"
    )
    np.save(tmp_path / "fmri.npy", patterns())
    arguments = [str(folder), str(tmp_path / "fmri.npy"), str(tmp_path / "images.npy")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, cwd=tmp_path, env=environment)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy", allow_pickle=False), images(pipe))


def test_folder_holds_safetensors_and_json_only(folder: Path) -> None:
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} == {".json", ".safetensors"}
    config = json.loads((folder / "condition" / "config.json").read_text())
    assert Experiment.model_validate(config["experiment"]) == EXPERIMENT and config["n_voxels"] == N_VOXELS


def test_images_are_pil_by_default(pipe: CndPipeline) -> None:
    made = pipe(patterns(), generator=seeded()).images
    assert [image.size for image in made] == [(32, 32)] * 3
    expected = (images(pipe) * 255).round().astype(np.uint8)[..., 0]
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in made]), expected)
    assert len(pipe(patterns(1)[0], return_dict=False)[0]) == 1  # a single pattern is a batch of one


def test_samples_come_item_by_item(pipe: CndPipeline) -> None:
    noise = Noise(4, 2).latents(3, pipe.latent_diffusion.latent_shape)
    together = pipe(patterns(), latents=noise, output_type="np").images
    alone = pipe(patterns()[1:2], latents=noise[1:2], output_type="np").images
    np.testing.assert_allclose(together[2:4], alone, atol=1 / 255)
    assert len(images(pipe, num_images_per_prompt=2)) == 6


def test_sampling_can_be_set(pipe: CndPipeline) -> None:
    default = images(pipe)
    np.testing.assert_array_equal(images(pipe, num_inference_steps=2, guidance_scale=2.0), default)
    for options in ({"num_inference_steps": 3}, {"guidance_scale": 1.0}):
        assert np.abs(images(pipe, **options) - default).max() > 0.01


def test_reduced_precision(folder: Path, pipe: CndPipeline) -> None:
    half = CndPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert half.condition.dtype == torch.bfloat16
    assert np.abs(images(half) - images(pipe)).mean() < 0.1


def test_bad_input_is_one_clear_line(pipe: CndPipeline, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected patterns of 70 voxels, found the shape \[2, 71\]"):
        pipe(np.zeros((2, 71), np.float32))
    with pytest.raises(UserError, match=r"found the shape \[0, 70\]"):
        pipe(np.zeros((0, N_VOXELS), np.float32))
    with pytest.raises(UserError, match="fmri: expected finite numbers, found NaN"):
        pipe(np.full((1, N_VOXELS), np.nan))
    for options, told in (
        ({"num_inference_steps": 0}, "steps of the sampling: .* greater than or equal to 1, found 0"),
        ({"num_inference_steps": 1001}, "steps of the sampling: .* less than or equal to 1000, found 1001"),
        ({"guidance_scale": 0.5}, "guidance of the sampling: .*, found 0.5"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: expected a number above 0, found 0"),
        ({"latents": torch.zeros(3, 0, 8, 4, 4)}, r"latents: expected the shape .* found \[3, 0, 8, 4, 4\]"),
        ({"latents": torch.zeros(1, 1, 8, 4, 4)}, r"latents: .* found \[1, 1, 8, 4, 4\]"),
        ({"latents": torch.zeros(4, 8, 4, 4)}, r"latents: expected the shape \[3, 8, 4, 4\], found \[4, 8, 4, 4\]"),
    ):
        with pytest.raises(UserError, match=told):
            pipe(patterns(), **options)
    with pytest.raises(UserError, match=r"nowhere: expected the folder of an exported decoder"):
        CndPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match="output_type: expected one of pil, np, pt, latent, found 'jpeg'"):
        pipe(patterns(1), output_type="jpeg")


@pytest.mark.parametrize("case", ["no condition", "no weights", "truncated", "settings", "index"])
def test_a_damaged_folder_is_told_in_one_line(case: str, folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    weights = damaged / "condition" / "diffusion_pytorch_model.safetensors"
    if case == "no condition":
        shutil.rmtree(damaged / "condition")
    elif case == "no weights":
        weights.unlink()
    elif case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif case == "settings":
        config = json.loads((damaged / "condition" / "config.json").read_text())
        config["experiment"]["decoder"]["phase2"]["other"] = 1
        (damaged / "condition" / "config.json").write_text(json.dumps(config))
    else:
        (damaged / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"damaged: cannot load the decoder \(.*export it again") as error:
        CndPipeline.from_pretrained(damaged)
    assert "\n" not in str(error.value)


def test_loading_warns_of_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    CndPipeline.from_pretrained(folder)
    assert "float32" not in capfd.readouterr().err


# ---------------------------------------------------------------- of a finished run


@pytest.mark.parametrize("trained", ["frozen", "cross-attention trained", "from MinD-Vis"])
def test_an_exported_run_draws_the_images_of_its_sweep(trained: str, smoke_cache: StageCache, tmp_path: Path) -> None:
    edits: dict[str, object] = {"phase2.train_unet_cross_attention": trained == "cross-attention trained"}
    if trained == "from MinD-Vis":
        edits |= {"encoder.layout": "mind_vis", "phase1.initial_weights": tmp_path / "theirs.pth"}
        config = override(load_experiment(SMOKE), {"encoder.layout": "mind_vis"}, "test").decoder.encoder
        export_mindvis(MaskedAutoencoder(config, n_voxels=200, seed=4), tmp_path / "theirs.pth")
    experiment = override(load_experiment(SMOKE), edits, "test")
    workflow.check(experiment)
    record = workflow.run(experiment, smoke_cache)
    pipe = CndPipeline.from_pretrained(workflow.export_record(record, smoke_cache, 0, tmp_path / "out"))
    (fold,) = all_folds(experiment)
    data, sample = (smoke_cache.path(step.name, step.key) for step in (fold.given.data, fold.sample))
    expected = load_file(sample / "samples.safetensors")["reconstructions"]  # [n, samples, c, h, w]
    noise = Noise(experiment.seed, expected.shape[1]).latents(len(expected), pipe.latent_diffusion.latent_shape)
    dataset = load_dataset(data)
    found = np.stack([np.asarray(image) for image in pipe(dataset.test.fmri, latents=noise).images])
    np.testing.assert_array_equal(found, expected.reshape(-1, *expected.shape[2:]).transpose(0, 2, 3, 1))
    if trained != "frozen":
        return
    scale = dataset.normalisation  # raw patterns come to the same
    again = pipe(dataset.test.fmri * scale.std + scale.mean, latents=noise, normalise=True).images
    assert np.abs(np.stack([np.asarray(image, dtype=int) for image in again]) - found).max() <= 1


def test_a_folder_that_cannot_be_written_is_told(smoke_record: Path, smoke_cache: StageCache, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"out: cannot be written \(.*name another folder"):
        workflow.export_record(smoke_record, smoke_cache, 0, tmp_path / "file" / "out")
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        workflow.export_record(smoke_record, smoke_cache, 0, tmp_path)


def test_a_generator_that_was_changed_since_is_told(
    smoke_record: Path, smoke_cache: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedGenerator, "identity", lambda self: {"kind": "embedded", "files": {"other": "hash"}})
    with pytest.raises(UserError, match="its files are not those that 'smoke' was trained with"):
        workflow.export_record(smoke_record, smoke_cache, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_refuses_what_it_cannot_do(smoke_record: Path, smoke_cache: StageCache, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fold 3: the run has the folds 0"):
        workflow.export_record(smoke_record, smoke_cache, 3, tmp_path / "out")
    with pytest.raises(UserError, match="is gone; run the sweep again"):
        workflow.export_record(smoke_record, StageCache(tmp_path / "empty"), 0, tmp_path / "out")
    oracle = workflow.run(override(load_experiment(SMOKE), {"decoder.kind": "oracle"}, "test"), smoke_cache)
    with pytest.raises(UserError, match=r"decoder\.kind = oracle"):
        workflow.export_record(oracle, smoke_cache, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
