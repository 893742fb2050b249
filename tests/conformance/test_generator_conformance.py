"""One suite for every generator: what :class:`cnd.protocols.Generator` promises. Real kinds at a tiny random size."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_ldm import SCHEDULE, write_ldm

from cnd import registry
from cnd._compat import make_torchvision_importable
from cnd.errors import UserError
from cnd.generators.dit import DitGenerator
from cnd.generators.embedded import EmbeddedGenerator
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.ldm import LdmGenerator
from cnd.generators.sampling import draw
from cnd.protocols import Condition, GeneratorChoice, Noise, SamplingConfig

make_torchvision_importable()

from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
)


def tiny_transformer() -> DiTTransformer2DModel:
    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    first = model.transformer_blocks[0].norm1.emb.class_embedder
    for block in model.transformer_blocks[1:]:  # the published model holds copies of one table
        block.norm1.emb.class_embedder.load_state_dict(first.state_dict())
    return model


def write_dit(folder: Path, safe: bool = True) -> None:
    """A tiny DiTPipeline; the published folder holds .bin files (``safe`` False)."""
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
    )  # fmt: skip
    pipeline = DiTPipeline(tiny_transformer(), vae, DDIMScheduler(**SCHEDULE), id2label={0: "tench, Tinca tinca"})
    pipeline.save_pretrained(folder, safe_serialization=safe)


def condition(generator: LatentDiffusion, n: int, tokens: int = 3) -> Condition:
    """A condition as the condition module gives it: any number of tokens, any vectors."""
    rng, width = torch.Generator().manual_seed(1), generator.concept_bank.shape[1]
    pooled = generator.time_embedding_width or width
    return Condition(torch.randn(n, tokens, width, generator=rng), torch.randn(n, pooled, generator=rng))


def noise(generator: LatentDiffusion, n: int) -> torch.Tensor:
    return torch.randn((n, *generator.latent_shape), generator=torch.Generator().manual_seed(2))


class GeneratorSuite:
    """Inherit it, and write the generator's folder."""

    n_classes = 1000

    def write(self, folder: Path) -> GeneratorChoice:
        """A generator with ten classes in its bank, as small as can be."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory: pytest.TempPathFactory) -> GeneratorChoice:
        torch.manual_seed(0)
        return self.write(tmp_path_factory.mktemp("generator"))

    @pytest.fixture(scope="class")
    def generator(self, choice: GeneratorChoice) -> LatentDiffusion:
        return choice.load()

    # ------------------------------------------------------------ settings

    def test_its_identity_is_every_file_of_weights(self, choice: GeneratorChoice) -> None:
        files = choice.identity()["files"]
        weights = [str(path.relative_to(choice.folder())) for path in choice.folder().rglob("*.safetensors")]
        assert weights and set(weights) <= set(files) and choice.missing() == []

    def test_it_knows_its_classes_by_name(self, choice: GeneratorChoice) -> None:
        names = choice.class_names()
        assert len(set(names)) == len(names) == self.n_classes
        assert choice.class_indices([names[3], "no such class"]) == [3, None]

    def test_it_is_frozen_and_in_evaluation_mode(self, generator: LatentDiffusion) -> None:
        assert not any(p.requires_grad for p in generator.parameters())
        assert not any(module.training for module in generator.modules())

    def test_bank_holds_the_classes_without_the_null_class(self, generator: LatentDiffusion) -> None:
        assert generator.concept_bank.shape == (10, len(generator.null_class))
        assert not (generator.concept_bank == generator.null_class).all(1).any()

    def test_noise_schedule_falls_from_one_towards_zero(self, generator: LatentDiffusion) -> None:
        assert generator.alphas_cumprod.shape == (1000,)
        assert (generator.alphas_cumprod.diff() < 0).all() and 0 < generator.alphas_cumprod[-1] < 0.05

    def test_images_to_latents_and_back(self, generator: LatentDiffusion) -> None:
        channels, size = generator.vae.config.in_channels, generator.image_size
        images = np.random.default_rng(0).integers(0, 256, (3, channels, size, size), dtype=np.uint8)
        latents = generator.encode(images)
        assert latents.shape == (3, *generator.latent_shape) and latents.dtype == torch.float32
        decoded = generator.decode(latents)
        assert decoded.shape == images.shape and decoded.dtype == np.uint8
        one_by_one = torch.cat([generator.encode(images[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(latents, one_by_one, atol=1e-4, rtol=1e-4)

    def test_grey_images_stand_for_rgb_and_other_sizes_are_refused(self, generator: LatentDiffusion) -> None:
        channels, size = generator.vae.config.in_channels, generator.image_size
        grey = np.random.default_rng(0).integers(0, 256, (1, 1, size, size), dtype=np.uint8)
        assert torch.equal(generator.encode(grey), generator.encode(grey.repeat(channels, 1)))
        with pytest.raises(UserError, match=f"set data.image_size = {size}"):
            generator.encode(grey[:, :, :-1])

    def test_added_noise_has_the_schedules_variance(self, generator: LatentDiffusion) -> None:
        clean, eps = noise(generator, 2), noise(generator, 4)[2:]
        timesteps = torch.tensor([0, 999])
        alpha = generator.alphas_cumprod[timesteps].view(2, 1, 1, 1)
        expected = alpha.sqrt() * clean + (1 - alpha).sqrt() * eps
        torch.testing.assert_close(generator.add_noise(clean, eps, timesteps), expected)

    def test_predicted_noise_depends_on_what_conditions_it_and_carries_gradients(
        self, choice: GeneratorChoice, generator: LatentDiffusion
    ) -> None:
        given = condition(generator, 2)
        leaves = Condition(*(part.clone().requires_grad_() for part in given))
        predicted = generator.predict_noise(noise(generator, 2), torch.tensor([10, 900]), leaves)
        assert predicted.shape == (2, *generator.latent_shape)
        context, pooled = torch.autograd.grad(predicted.square().sum(), leaves, allow_unused=True)
        assert pooled.abs().max() > 0
        if choice.has_cross_attention:
            assert context.abs().max() > 0
        else:
            assert context is None

    def test_items_of_a_batch_do_not_touch_each_other(self, generator: LatentDiffusion) -> None:
        given, noisy, timesteps = condition(generator, 3), noise(generator, 3), torch.tensor([5, 500, 950])
        together = generator.predict_noise(noisy, timesteps, given)
        alone = generator.predict_noise(noisy[1:2], timesteps[1:2], Condition(given.context[1:2], given.pooled[1:2]))
        torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)

    def test_class_condition_is_the_condition_of_its_embedding(self, generator: LatentDiffusion) -> None:
        category = torch.tensor([3, 0])
        by_class = generator.class_condition(category)
        by_vector = generator.embedding_condition(generator.concept_bank[category])
        assert all(torch.equal(a, b) for a, b in zip(by_class, by_vector, strict=True))
        assert by_class.context.shape == (2, 1, generator.concept_bank.shape[1])
        assert by_class.pooled.shape == condition(generator, 2).pooled.shape

    def test_null_condition_is_the_null_class_in_the_same_shape(self, generator: LatentDiffusion) -> None:
        like = condition(generator, 2)
        null = generator.null_condition(like)
        assert null.context.shape == like.context.shape and null.pooled.shape == like.pooled.shape
        assert (null.context == generator.null_class).all()
        expected = generator.embedding_condition(generator.null_class[None])
        assert torch.equal(null.pooled, expected.pooled.expand_as(like.pooled))

    def test_guidance_of_the_null_class_changes_nothing_and_of_others_does(self, generator: LatentDiffusion) -> None:
        start, given = noise(generator, 2), condition(generator, 2)
        null = generator.null_condition(given)
        plain = generator.sample(null, start, 3, 1.0)
        torch.testing.assert_close(generator.sample(null, start, 3, 4.0), plain, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(
            generator.sample(given, start, 3, 4.0), generator.sample(given, start, 3, 1.0), atol=1e-3
        )

    def test_sampling_is_reproducible_and_gives_images(self, generator: LatentDiffusion) -> None:
        config, start = SamplingConfig(steps=2, batch_size=3), Noise(0, 2).latents(2, generator.latent_shape)
        first, second = (draw(config, generator, condition(generator, 2), start) for _ in range(2))
        size = generator.image_size
        assert first.shape == (2, 2, generator.vae.config.out_channels, size, size) and first.dtype == np.uint8
        assert np.array_equal(first, second) and not np.array_equal(first[:, 0], first[:, 1])

    def test_time_steps_fall_from_the_noisiest(self, generator: LatentDiffusion) -> None:
        timesteps = generator.timesteps(4)
        assert len(timesteps) == 4 and (timesteps.diff() < 0).all() and timesteps[-1] >= 0 and timesteps[0] < 1000

    def test_training_a_copy_changes_nothing_of_the_original(self, generator: LatentDiffusion) -> None:
        before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        twin, start, given = generator.copy(), noise(generator, 2), condition(generator, 2)
        expected = generator.sample(given, start, 2, 1.0)
        assert torch.equal(twin.sample(given, start, 2, 1.0), expected)
        twin.unet.requires_grad_(True)
        optimizer = torch.optim.SGD(twin.unet.parameters(), lr=0.1)
        twin.predict_noise(start, torch.tensor([10, 900]), given).square().sum().backward()
        optimizer.step()
        assert not torch.equal(twin.sample(given, start, 2, 1.0), expected)
        assert torch.equal(generator.sample(given, start, 2, 1.0), expected)
        assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())
        assert twin.vae is generator.vae and torch.equal(twin.concept_bank, generator.concept_bank)

    def test_it_moves_as_a_whole(self, generator: LatentDiffusion) -> None:
        moved = generator.to("cpu")
        assert moved.device == torch.device("cpu") == condition(generator, 1).to("cpu").context.device


class TestEmbedded(GeneratorSuite):
    n_classes = 10

    def write(self, folder: Path) -> GeneratorChoice:
        return EmbeddedGenerator(name="digits")


class TestLdm(GeneratorSuite):
    def write(self, folder: Path) -> GeneratorChoice:
        write_ldm(folder)
        return LdmGenerator(path=folder)


class TestDit(GeneratorSuite):
    def write(self, folder: Path) -> GeneratorChoice:
        write_dit(folder)
        return DitGenerator(path=folder)


def test_every_generator_is_here() -> None:
    assert len(registry.classes("cnd.generators")) == len(GeneratorSuite.__subclasses__())


# ---------------------------------------------------------------- DiT against its own pipeline


def test_dit_given_a_class_is_the_models_own_output(tmp_path):
    torch.manual_seed(3)
    write_dit(tmp_path)
    own = DiTTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer").eval()
    generator = DitGenerator(path=tmp_path).load()
    noisy, timesteps, category = torch.randn(3, 4, 8, 8), torch.tensor([0, 400, 999]), torch.tensor([0, 4, 9])
    with torch.no_grad():
        expected = own(noisy, timesteps, class_labels=category).sample[:, :4]
        null = own(noisy, timesteps, class_labels=torch.full((3,), 10)).sample[:, :4]
        given = generator.class_condition(category)
        assert torch.equal(generator.predict_noise(noisy, timesteps, given), expected)
        assert torch.equal(generator.predict_noise(noisy, timesteps, generator.null_condition(given)), null)


def test_dit_samples_what_its_pipeline_samples(tmp_path):
    torch.manual_seed(3)
    write_dit(tmp_path)
    pipeline = DiTPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    # the pipeline's null class is number 1000 whatever the table's size: give class 10 its row
    for block in pipeline.transformer.transformer_blocks:
        table = block.norm1.emb.class_embedder.embedding_table
        table.weight.data = torch.cat([table.weight.data, table.weight.data[-1:].expand(990, -1)])
    generator = DitGenerator(path=tmp_path).load()
    start = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    expected = pipeline([1, 7], 3.0, torch.Generator().manual_seed(5), 4, output_type="np").images
    latents = generator.sample(generator.class_condition(torch.tensor([1, 7])), start, 4, 3.0)
    found = generator.decode(latents).transpose(0, 2, 3, 1) / 255
    assert np.abs(found - expected).max() < 0.51 / 255 + 1e-4


def test_dit_from_bin_files_as_published(tmp_path):
    torch.manual_seed(3)
    write_dit(tmp_path / "bin", safe=False)
    generator = DitGenerator(path=tmp_path / "bin").load()
    assert generator.concept_bank.shape == (10, 16)
    names = DitGenerator(path=tmp_path / "bin").identity()["files"]
    assert "transformer/diffusion_pytorch_model.bin" in names and "vae/diffusion_pytorch_model.bin" in names


# ---------------------------------------------------------------- what is missing or broken


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LdmGenerator(), "ommer-lab.com/files/latent-diffusion/nitro/cin/model.ckpt"),
        (LdmGenerator(path=Path("nowhere")), "python -m cnd.generators convert"),
        (DitGenerator(), "hf download facebook/DiT-XL-2-256"),
        (DitGenerator(path=Path("nowhere")), "no such folder"),
    ],
)
def test_missing_models_are_told_with_the_remedy(config, told):
    (problem,) = config.missing()
    assert told in problem and "\n" not in problem
    assert config.identity() == config.model_dump(mode="json")  # the plan needs no weights
    for method in (config.folder, config.load):
        with pytest.raises(UserError, match=r"generator\.path"):
            method()


def test_a_checkpoint_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "model.ckpt").touch()
    assert "is a file, expected a folder" in str(LdmGenerator(path=tmp_path / "model.ckpt").missing())
    assert "no 'unet/config.json'" in str(LdmGenerator(path=tmp_path).missing())


TABLES = {
    "table of one dimension": torch.zeros(11),
    "table of one class": torch.zeros(1, 16),
    "table of another width": torch.zeros(11, 8),
    "table of whole numbers": torch.zeros(11, 16, dtype=torch.int64),
    "table of NaN": torch.full((11, 16), torch.nan),
}
SETTINGS: dict[str, tuple[str, str, object]] = {  # file, key, value
    "pooled vector left out": ("unet/config.json", "class_embed_type", None),
    "no size": ("unet/config.json", "sample_size", None),
    "heads": ("unet/config.json", "attention_head_dim", "two"),
    "betas": ("scheduler/scheduler_config.json", "beta_schedule", "other"),
    "beta": ("scheduler/scheduler_config.json", "beta_start", "two"),
    "velocity": ("scheduler/scheduler_config.json", "prediction_type", "v_prediction"),
    "few time-steps": ("scheduler/scheduler_config.json", "num_train_timesteps", 10),
}


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_folder_without_weights_is_told_in_the_plan(part, tmp_path):
    """As an interrupted download leaves it: the small files are there."""
    write_dit(tmp_path)
    (tmp_path / part / "diffusion_pytorch_model.safetensors").unlink()
    problem = DitGenerator(path=tmp_path).missing()
    assert f"no '{part}/*.safetensors'" in str(problem) and "hf download" in str(problem)


def damage(case: str, folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif case == "no weights":
        weights.unlink()
    elif case == "missing tensor":
        save_file({k: v for k, v in load_file(weights).items() if k != "conv_in.bias"}, weights)
    elif case == "other size":
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 4}))
    elif case == "config":
        (folder / "unet" / "config.json").write_text("{")
    elif case == "scheduler":
        (folder / "scheduler" / "scheduler_config.json").write_text("{")
    elif case == "table":
        save_file({"other": torch.zeros(2)}, folder / "class_embedding.safetensors")
    elif case in TABLES:
        save_file({"weight": TABLES[case]}, folder / "class_embedding.safetensors")
    elif case == "nan":
        save_file({k: v * torch.nan for k, v in load_file(weights).items()}, weights)
    else:
        file, key, value = SETTINGS[case]
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | {key: value}))


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("truncated", "unet"), ("no weights", "unet"), ("missing tensor", "conv_in.bias"), ("other size", "unet"),
        ("config", "unet"), ("scheduler", "scheduler"), ("table", "class_embedding.safetensors"),
        ("table of one dimension", r"weight: expected \[classes \+ 1, width\], found \[11\]"),
        ("table of one class", r"found \[1, 16\]"), ("table of another width", "width: expected 16, found 8"),
        ("table of whole numbers", "torch.int64"), ("table of NaN", "class_embedding.safetensors: weight: .*NaN"),
        ("nan", "unet: conv_in.weight: expected finite numbers"), ("no size", "sample_size: expected int, found None"),
        ("pooled vector left out", "class_embed_type: expected identity, found None"), ("heads", "unet: cannot load"),
        ("betas", "scheduler: cannot load"), ("beta", "scheduler: cannot load"),
        ("velocity", "prediction_type: expected epsilon, found v_prediction"),
        ("few time-steps", "num_train_timesteps: expected 1000, found 10"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_told_in_one_line(case, told, tmp_path):
    write_ldm(tmp_path)
    damage(case, tmp_path)
    with pytest.raises(UserError, match=told) as error:
        LdmGenerator(path=tmp_path).load()
    assert "\n" not in str(error.value)


def test_parts_of_different_models_are_told(tmp_path):
    write_dit(tmp_path / "dit")
    shutil.rmtree(tmp_path / "dit" / "vae")
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=8, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
    ).save_pretrained(tmp_path / "dit" / "vae")  # fmt: skip
    with pytest.raises(UserError, match=r"vae/config.json: latent_channels: expected 4, found 8"):
        DitGenerator(path=tmp_path / "dit").load()


class Calling:
    """Unpickled as Python does, it creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return (os.mkdir, (self.folder,))


@pytest.mark.parametrize("case", ["code", "list", "pointer", "truncated", "html"])
def test_bin_files_that_are_no_weights_are_told_and_not_run(case, tmp_path):
    """The published DiT folder holds .bin files, which are pickles."""
    write_dit(tmp_path / "dit", safe=False)
    path = tmp_path / "dit" / "transformer" / "diffusion_pytorch_model.bin"
    if case in ("code", "list"):
        torch.save({"a": Calling(tmp_path / "was_run")} if case == "code" else [torch.zeros(1)], path)
    elif case == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    else:  # what git leaves of a large file that it did not fetch
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" if case == "pointer" else b"<!DOCTYPE html>")
    with pytest.raises(UserError, match="transformer: cannot load DiTTransformer2DModel") as error:
        DitGenerator(path=tmp_path / "dit").load()
    assert "\n" not in str(error.value) and not (tmp_path / "was_run").exists()


def test_dit_as_published_in_2022(tmp_path):
    """Names of that time's diffusers: Transformer2DModel in the config, query, key, value in the autoencoder."""
    torch.manual_seed(3)
    write_dit(tmp_path / "new", safe=False)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    weights = torch.load(tmp_path / "new" / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in names.items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    assert any(".proj_attn." in key for key in weights)
    torch.save(weights, tmp_path / "old" / "vae" / "diffusion_pytorch_model.bin")
    transformer = tmp_path / "old" / "transformer" / "config.json"
    config = json.loads(transformer.read_text()) | {"_class_name": "Transformer2DModel", "only_cross_attention": False}
    transformer.write_text(json.dumps(config))
    vae = tmp_path / "old" / "vae" / "config.json"
    known = {key: value for key, value in json.loads(vae.read_text()).items() if key != "scaling_factor"}
    vae.write_text(json.dumps(known))
    new, old = (DitGenerator(path=tmp_path / name).load().state_dict() for name in ("new", "old"))
    assert new.keys() == old.keys() and all(torch.equal(new[key], old[key]) for key in new)
    assert DitGenerator(path=tmp_path / "old").load().vae.config.scaling_factor == 0.18215


def test_a_transformer_whose_blocks_disagree_is_refused(tmp_path):
    write_dit(tmp_path)
    model = tiny_transformer()
    model.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight.data += 1
    shutil.rmtree(tmp_path / "transformer")
    model.save_pretrained(tmp_path / "transformer")
    with pytest.raises(UserError, match="disagree"):
        DitGenerator(path=tmp_path).load()
