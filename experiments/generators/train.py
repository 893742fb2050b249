"""Train the generator and classifier that ship with an embedded data set.

    python experiments/generators/train.py simulated
    python experiments/generators/train.py digits
    python experiments/generators/train.py simulated --icgan   the GAN of the decoder icgan instead (icgan.py)

Four parts, in order: the classifier that judges reconstructions, the autoencoder, the class-conditional
UNet on its latents, and (simulated only) the network behind the simulated higher visual areas, which is
another architecture trained on another task than the judge. Weights go to ``cnd/generators/weights/NAME`` as
half-precision safetensors in diffusers' layout, with ``training.json`` beside them: recipe, seed, time,
first losses and measured quality. A part that is already there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnd._compat import make_torchvision_importable
from cnd.data.digit_images import augmented_digits
from cnd.data.simulation.names import N_CATEGORIES, N_SHAPES, N_SURFACES
from cnd.data.simulation.stimuli import render
from cnd.generators.sampling import draw
from cnd.protocols import SamplingConfig

make_torchvision_importable()

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402

from cnd.generators.latent_diffusion import LatentDiffusion  # noqa: E402
from cnd.metrics.judges.networks import ImageClassifier  # noqa: E402
from cnd.metrics.nway import n_way_accuracy  # noqa: E402
from cnd.networks import build_resnet, load_resnet, save_half, save_resnet  # noqa: E402
from cnd.protocols import Noise  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ROOT / "cnd" / "data" / "weights" / "visual_network"
BETAS = dict(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", num_train_timesteps=1000)
"""Noise schedule of cin256-v2; what its configuration calls linear is linear in sqrt(beta)."""


@dataclass(frozen=True)
class Recipe:
    """How one embedded generator is trained; step counts are of batches."""

    n_images: int  # size of the pool of training images
    n_classes: int
    channels: int  # of an image
    image_size: int
    classifier_channels: tuple[int, ...]
    classifier_steps: int
    autoencoder_channels: tuple[int, ...]  # a level more than halvings: 4 levels is f8
    latent_channels: int
    autoencoder_steps: int
    autoencoder_batch: int
    unet_channels: tuple[int, int]
    unet_steps: int
    unet_batch: int
    class_width: int  # of the class-embedding table
    network_channels: tuple[int, ...] = ()  # of the network behind the simulated cortex
    network_steps: int = 0
    unet_lr: float = 1.5e-3
    null_probability: float = 0.1  # how often the class is dropped, for classifier-free guidance
    min_snr_gamma: float = 5.0


RECIPES = {
    "simulated": Recipe(
        n_images=30_000,
        n_classes=N_CATEGORIES,
        channels=3,
        image_size=64,
        classifier_channels=(24, 48, 96, 128),
        classifier_steps=900,
        autoencoder_channels=(16, 32, 64, 64),
        latent_channels=8,
        autoencoder_steps=1500,
        autoencoder_batch=24,
        unet_channels=(64, 128),
        unet_steps=2600,
        unet_batch=64,
        class_width=64,
        network_channels=(16, 32, 64, 96),
        network_steps=600,
    ),
    "digits": Recipe(
        n_images=40_000,
        n_classes=10,
        channels=1,
        image_size=32,
        classifier_channels=(16, 32, 64, 96),
        classifier_steps=2000,
        autoencoder_channels=(16, 32, 48, 48),
        latent_channels=8,
        autoencoder_steps=2400,
        autoencoder_batch=32,
        unet_channels=(48, 96),
        unet_steps=5000,
        unet_batch=64,
        class_width=32,
    ),
}


def draw_images(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fresh labelled images: uint8 [n, c, h, w] and int64 [n]."""
    if name == "digits":
        return augmented_digits(n, rng)
    labels = rng.integers(0, N_CATEGORIES, n)
    chunks = [render(part, rng, torch.float32) for part in np.array_split(labels, -(-n // 500))]
    return np.concatenate(chunks), labels


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 images to floats in [-1, 1]."""
    return torch.from_numpy(images).float() / 127.5 - 1


def batches(n: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Index batches of ``size``, epoch after epoch, for ``steps`` steps."""
    pending = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(pending) < size:
            pending = torch.randperm(n, generator=generator)
        yield pending[:size]
        pending = pending[size:]


def optimise(
    part: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    n: int,
    batch: int,
    steps: int,
    lr: float,
    seed: int,
    stop_after: int | None = None,
    averages: Callable[[], None] = lambda: None,
) -> list[float]:
    """AdamW with 5 % warm-up and a cosine to zero; returns the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / warm_up) * 0.5 * (1 + np.cos(np.pi * min(1.0, s / steps))),
    )
    losses, start = [], time.time()
    for step, rows in enumerate(batches(n, batch, steps, generator)):
        loss = loss_of(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        averages()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            recent = np.mean(losses[-100:])
            print(f"{part:12s} step {step:5d}/{steps}  loss {recent:.4f}  {time.time() - start:6.0f} s", flush=True)
        if stop_after is not None and step + 1 >= stop_after:
            break
    return losses


def resnet_config(channels: tuple[int, ...], recipe: Recipe, n_outputs: int) -> dict[str, Any]:
    return dict(
        layers=(1,) * len(channels),
        channels=channels,
        num_classes=n_outputs,
        in_chans=recipe.channels,
        stem_width=channels[0],
        stem_type="deep",
        replace_stem_pool=True,
    )


def train_classifier(recipe: Recipe, images: Tensor, labels: Tensor, seed: int, stop: int | None):
    """The judge: cross-entropy over the categories, crops shifted by up to four pixels."""
    torch.manual_seed(seed)
    config = resnet_config(recipe.classifier_channels, recipe, recipe.n_classes)
    model = build_resnet(config).train()

    def loss_of(rows: Tensor) -> Tensor:
        shift = torch.randint(-4, 5, (2,)).tolist()
        # Reconstructions pass through the autoencoder: a little blur and noise keep the judge fair to them.
        x = torch.roll(to_unit(images[rows].numpy()), shift, (2, 3))
        x = x + 0.1 * torch.rand(()) * torch.randn_like(x)
        if torch.rand(()) < 0.5:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return F.cross_entropy(model(x), labels[rows], label_smoothing=0.05)

    steps = recipe.classifier_steps
    losses = optimise("classifier", list(model.parameters()), loss_of, len(images), 64, steps, 3e-3, seed, stop)
    return model.eval(), config, losses


def train_network(recipe: Recipe, images: Tensor, labels: Tensor, seed: int, stop: int | None):
    """The network behind the higher areas: shape and surface as two separate tasks."""
    torch.manual_seed(seed)
    config = resnet_config(recipe.network_channels, recipe, N_SHAPES + N_SURFACES)
    config["stem_type"] = ""  # a single 7x7 convolution, unlike the judge's stem
    model = build_resnet(config).train()

    def loss_of(rows: Tensor) -> Tensor:
        outputs = model(to_unit(images[rows].numpy()))
        shape, surface = labels[rows] // N_SURFACES, labels[rows] % N_SURFACES
        return F.cross_entropy(outputs[:, :N_SHAPES], shape) + F.cross_entropy(outputs[:, N_SHAPES:], surface)

    steps = recipe.network_steps
    losses = optimise("network", list(model.parameters()), loss_of, len(images), 64, steps, 3e-3, seed, stop)
    return model.eval(), config, losses


def train_autoencoder(recipe: Recipe, images: Tensor, seed: int, stop: int | None):
    """KL autoencoder, absolute error plus a faint KL term; latents are scaled to unit variance."""
    torch.manual_seed(seed)
    levels = len(recipe.autoencoder_channels)
    model = AutoencoderKL(
        in_channels=recipe.channels,
        out_channels=recipe.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.autoencoder_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.image_size,
        mid_block_add_attention=False,
    ).train()

    def loss_of(rows: Tensor) -> Tensor:
        x = to_unit(images[rows].numpy())
        posterior = model.encode(x).latent_dist
        reconstruction = model.decode(posterior.sample()).sample
        error = (reconstruction - x).abs().mean() + (reconstruction - x).square().mean()
        return error + 1e-6 * posterior.kl().mean()

    steps, batch = recipe.autoencoder_steps, recipe.autoencoder_batch
    losses = optimise("autoencoder", list(model.parameters()), loss_of, len(images), batch, steps, 2e-3, seed, stop)
    return model.eval(), losses


@torch.no_grad()
def encode_all(model: AutoencoderKL, images: Tensor) -> Tensor:
    return torch.cat([model.encode(to_unit(part.numpy())).latent_dist.mean for part in images.split(200)])


class ClassTable(nn.Module):
    """Class embeddings; categories made of two attributes start as the sum of two shared embeddings.

    Sharing lets few steps train 200 rows; the residual keeps every row free. The last row is the null class.
    """

    def __init__(self, n_classes: int, width: int):
        super().__init__()
        self.attributes = nn.Embedding(N_SHAPES + N_SURFACES, width) if n_classes == N_CATEGORIES else None
        self.rows = nn.Embedding(n_classes + 1, width)
        nn.init.normal_(self.rows.weight, std=0.1 if self.attributes else 1.0)
        self.null = n_classes

    def weight(self) -> Tensor:
        if self.attributes is None:
            return self.rows.weight
        shape, surface = self.attributes.weight.split([N_SHAPES, N_SURFACES])
        shared = (shape[:, None] + surface[None]).flatten(0, 1)
        return self.rows.weight + F.pad(shared, (0, 0, 0, 1))

    def forward(self, labels: Tensor) -> Tensor:
        return self.weight()[labels]


def build_unet(recipe: Recipe) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=recipe.image_size // 2 ** (len(recipe.autoencoder_channels) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        layers_per_block=1,
        block_out_channels=recipe.unet_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=recipe.class_width,
        attention_head_dim=2,  # number of heads: diffusers keeps the historical name
        norm_num_groups=16,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=recipe.class_width,
    )


def train_unet(recipe: Recipe, latents: Tensor, labels: Tensor, seed: int, stop: int | None):
    """Noise prediction (eq. 2) with min-SNR weights; the class enters as context and with the time embedding."""
    torch.manual_seed(seed)
    unet, table = build_unet(recipe).train(), ClassTable(recipe.n_classes, recipe.class_width)
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    alphas = scheduler.alphas_cumprod
    parameters = [*unet.parameters(), *table.parameters()]
    average = [p.detach().clone() for p in parameters]
    decay = 0.995

    def loss_of(rows: Tensor) -> Tensor:
        clean, noise = latents[rows], torch.randn_like(latents[rows])
        timesteps = torch.randint(0, 1000, (len(rows),))
        dropped = torch.rand(len(rows)) < recipe.null_probability
        condition = table(torch.where(dropped, table.null, labels[rows]))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):  # a third faster where the processor has bfloat16
            predicted = unet(noisy, timesteps, condition[:, None], class_labels=condition).sample
        predicted = predicted.float()
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        weight = snr.clamp_max(recipe.min_snr_gamma) / snr
        return (weight * (predicted - noise).square().flatten(1).mean(1)).mean()

    def update_average() -> None:
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)

    losses = optimise(
        "unet", parameters, loss_of, len(latents), recipe.unet_batch, recipe.unet_steps,
        recipe.unet_lr, seed, stop, update_average,
    )  # fmt: skip
    if stop is None:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    return unet.eval(), table, scheduler, losses


@torch.no_grad()
def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    guesses = torch.cat([model(part).argmax(1) for part in to_unit(images).split(200)])
    return float((guesses.numpy() == labels).mean())


@torch.no_grad()
def network_accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    outputs = torch.cat([model(part) for part in to_unit(images).split(200)])
    guesses = outputs[:, :N_SHAPES].argmax(1) * N_SURFACES + outputs[:, N_SHAPES:].argmax(1)
    return float((guesses.numpy() == labels).mean())


@torch.no_grad()
def psnr(model: AutoencoderKL, images: np.ndarray) -> float:
    x = to_unit(images)
    error = (model.decode(model.encode(x).latent_dist.mean).sample.clamp(-1, 1) - x).square().mean()
    return float(10 * torch.log10(4 / error))


def train(name: str, recipe: Recipe, seed: int, out: Path) -> None:
    """Train every part that is not in ``out`` yet, so that an interrupted training goes on with the next part."""
    start = time.time()
    pool, targets = draw_images(name, recipe.n_images, np.random.default_rng(seed))
    images, labels = torch.from_numpy(pool), torch.from_numpy(targets)
    fresh, fresh_labels = draw_images(name, 1000, np.random.default_rng(seed + 1))
    print(f"{recipe.n_images} images in {time.time() - start:.0f} s", flush=True)

    if not (out / "classifier" / "config.json").exists():
        model, config, losses = train_classifier(recipe, images, labels, seed, None)
        save_resnet(model, config, out / "classifier")
        note(out, "classifier", losses, start, recipe, seed)
    classifier = load_resnet(out / "classifier")
    if recipe.network_channels and not (NETWORK / "config.json").exists():
        model, config, losses = train_network(recipe, images, labels, seed + 2, None)
        save_resnet(model, config, NETWORK)
        note(out, "network", losses, start, recipe, seed, top1=network_accuracy(model, fresh, fresh_labels))
    if not (out / "vae" / "config.json").exists():
        autoencoder, losses = train_autoencoder(recipe, images, seed, None)
        scale = 1 / encode_all(autoencoder, images).std().item()
        autoencoder.register_to_config(scaling_factor=scale)
        autoencoder.half().save_pretrained(out / "vae")
        note(out, "autoencoder", losses, start, recipe, seed)
    autoencoder = AutoencoderKL.from_pretrained(out / "vae", torch_dtype=torch.float32).eval()
    through = accuracy_after(autoencoder, classifier, fresh, fresh_labels)
    note(out, "autoencoder", None, start, recipe, seed, psnr_db=psnr(autoencoder, fresh[:400]), classifier_top1=through)
    note(out, "classifier", None, start, recipe, seed, top1=accuracy(classifier, fresh, fresh_labels))

    latents = encode_all(autoencoder, images) * autoencoder.config.scaling_factor
    unet, table, scheduler, losses = train_unet(recipe, latents, labels, seed, None)
    unet.half().save_pretrained(out / "unet")
    scheduler.save_pretrained(out / "scheduler")
    save_half({"weight": table.weight()}, out / "class_embedding.safetensors")
    note(out, "unet", losses, start, recipe, seed)
    quality = {f"oracle_guidance_{guidance:g}": oracle_accuracy(out, guidance) for guidance in (1.0, 2.0)}
    note(out, "unet", None, start, recipe, seed, **quality)


def oracle_accuracy(out: Path, guidance: float) -> float:
    """50-way (or as many ways as there are classes) top-1 of images generated from true classes, 25 DDIM steps."""
    generator = LatentDiffusion.from_folder(out)
    n_classes = len(generator.concept_bank)
    category = torch.arange(n_classes).repeat(-(-200 // n_classes))
    config = SamplingConfig(steps=25, guidance=guidance)
    noise = Noise(0, 1).latents(len(category), generator.latent_shape)
    images = draw(config, generator, generator.class_condition(category), noise)[:, 0]
    probabilities = ImageClassifier.from_folder(out / "classifier").probabilities(images)
    return float(n_way_accuracy(probabilities, category.numpy(), min(50, n_classes)).mean())


def note(out: Path, part: str, losses: list[float] | None, start: float, recipe: Recipe, seed: int, **quality: float):
    """Add what is known of a part to ``training.json``."""
    path = out / "training.json"
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    content |= dict(seed=seed, threads=torch.get_num_threads(), torch=torch.__version__, recipe=asdict(recipe))
    entry = content["parts"].setdefault(part, {})
    if losses is not None:
        entry |= dict(first_losses=losses[:5], last_loss=float(np.mean(losses[-100:])), steps=len(losses))
        entry["seconds_since_start"] = round(time.time() - start)
    entry |= quality
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(part, entry, flush=True)


@torch.no_grad()
def accuracy_after(autoencoder: AutoencoderKL, classifier: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 of the judge on images that went through the autoencoder: a ceiling for every decoder."""
    decoded = [autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample for x in to_unit(images).split(200)]
    return accuracy(classifier, ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).numpy(), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="one is as fast as two at these sizes, and reproducible")
    parser.add_argument("--out", type=Path, help="default: cnd/generators/weights/NAME")
    parser.add_argument("--unet-steps", type=int, help="override the recipe, for a quick try")
    parser.add_argument("--icgan", action="store_true", help="the small IC-GAN of the decoder icgan instead: icgan.py")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.icgan:
        import icgan

        out = arguments.out or icgan.WEIGHTS / arguments.name
        icgan.train(arguments.name, icgan.RECIPES[arguments.name], arguments.seed, out)
        return
    recipe = RECIPES[arguments.name]
    if arguments.unet_steps:
        recipe = replace(recipe, unet_steps=arguments.unet_steps)
    out = arguments.out or ROOT / "cnd" / "generators" / "weights" / arguments.name
    train(arguments.name, recipe, arguments.seed, out)


if __name__ == "__main__":
    main()
