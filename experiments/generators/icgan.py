"""Train the small IC-GAN that ships with an embedded data set, for the decoder ``icgan``.

    python experiments/generators/icgan.py simulated
    python experiments/generators/icgan.py digits

On the images that the other generator learns from, without their labels, on one core, three networks:

- Instance features: a ResNet trained by SimCLR (Chen et al. 2020), which stands in for SwAV's ResNet-50.
  Its last layer centres the pooled features, rotates them to their leading principal components and scales them alike.
- Generator and discriminator: BigGAN conditioned on instance features (Casanova et al. 2021). The hinge loss compares
  images generated from an instance's features with images of its nearest neighbours, both shifted and brightened
  (Zhao et al. 2020), and discriminated by projection; the generator's weights are averaged.
- An encoder from an image to the noise vector that gives it, from which the decoder's inversion starts.

It departs from IC-GAN because it lasts minutes, not days: images generated from the encoder's noise are compared with
the encoded image by pixels, the noise under a penalty on its divergence from the normal distribution (a variational
autoencoder: Larsen et al. 2016), and the instance features of generated images are drawn to those they came from. The
features have length sqrt(n) instead of 1.

Weights go to ``cnd/decoders/icgan/weights/NAME`` in half precision with ``training.json``: recipe, seed, time, losses
and measured quality. Labels and the judge serve that measurement alone. What is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from train import ROOT, batches, draw_images, optimise, to_unit

from cnd.decoders.icgan.features import SmallFeatures
from cnd.decoders.icgan.generator import InstanceGenerator, Layout, SpectralConv2d, SpectralLinear
from cnd.decoders.icgan.inversion import as_tensor, invert
from cnd.decoders.icgan.networks import ENCODER, FEATURES, GENERATOR, NOTES, WEIGHTS, Networks, Sources, load
from cnd.decoders.icgan.settings import InversionConfig
from cnd.metrics.judges.networks import ImageClassifier
from cnd.metrics.nway import n_way_accuracy
from cnd.networks import build_resnet, load_resnet, save_half, save_resnet


@dataclass(frozen=True)
class Recipe:
    """How one small IC-GAN is trained; step counts are of batches."""

    n_images: int
    layout: Layout
    feature_channels: tuple[int, ...]
    feature_steps: int
    critic_channels: tuple[int, ...]  # of the discriminator after each halving
    encoder_channels: tuple[int, ...]
    steps: int
    feature_batch: int = 128  # pairs of views
    temperature: float = 0.2
    batch: int = 16  # images generated from normal noise, and as many from the encoder's
    n_neighbours: int = 20  # of an instance, itself among them; any of them is a real image for it
    lr: float = 1.5e-3  # of generator and encoder
    critic_lr: float = 1e-3
    adversarial: float = 0.1  # weights of the generator's losses
    reconstruction: float = 10.0
    divergence: float = 1e-3
    features: float = 1.0
    average: float = 0.995  # of the generator's weights


RECIPES = {
    "simulated": Recipe(
        n_images=30_000,
        layout=Layout(n_features=64, embedding=48, chunk=24, channels=(96, 96, 64, 32, 16)),
        feature_channels=(16, 32, 64, 128),
        feature_steps=350,
        critic_channels=(8, 16, 32, 64),
        encoder_channels=(8, 16, 32, 64),
        steps=2000,
    ),
    "digits": Recipe(
        n_images=20_000,
        layout=Layout(n_features=48, embedding=32, chunk=16, channels=(64, 64, 32, 16), image_channels=1),
        feature_channels=(16, 32, 64, 96),
        feature_steps=350,
        critic_channels=(8, 16, 32),
        encoder_channels=(8, 16, 32, 64),
        steps=1500,
    ),
}


def resnet_config(channels: tuple[int, ...], image_channels: int, n_outputs: int) -> dict[str, Any]:
    """A ResNet of one block a stage after a stem of one 3x3 convolution."""
    stem = dict(stem_width=channels[0] // 2, stem_type="deep", replace_stem_pool=True)
    return dict(layers=(1,) * len(channels), channels=channels, num_classes=n_outputs, in_chans=image_channels) | stem


# ---------------------------------------------------------------- instance features


def view(images: Tensor) -> Tensor:
    """A random view of images between -1 and 1: turned, zoomed, shifted, under another smooth light, with noise."""
    n, channels, height, width = images.shape
    angle, zoom = uniform(n, -0.3, 0.3), uniform(n, 0.75, 1.2)
    rows = [zoom * angle.cos(), -zoom * angle.sin(), uniform(n, -0.15, 0.15)]
    rows += [zoom * angle.sin(), zoom * angle.cos(), uniform(n, -0.15, 0.15)]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    light = F.interpolate(0.12 * torch.randn(n, channels, 4, 4), (height, width), mode="bicubic")
    return x * uniform(n, 0.8, 1.2)[:, None, None, None] + light + 0.05 * torch.randn_like(x)


def uniform(n: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(n)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1): of all 2n - 1 other views, which is of the same image."""
    z = F.normalize(torch.cat([first, second]))
    similarity = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(first)))


def train_features(recipe: Recipe, images: Tensor, seed: int, out: Path) -> list[float]:
    """Train the network of the instance features and write it."""
    torch.manual_seed(seed)
    width, layout = recipe.feature_channels[-1], recipe.layout
    model = build_resnet(resnet_config(recipe.feature_channels, layout.image_channels, 0)).train()
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))

    def loss_of(rows: Tensor) -> Tensor:
        x = to_unit(images[rows].numpy())
        return contrast(head(model(view(x))), head(model(view(x))), recipe.temperature)

    steps, parameters = recipe.feature_steps, [*model.parameters(), *head.parameters()]
    losses = optimise("features", parameters, loss_of, len(images), recipe.feature_batch, steps, 3e-3, seed)
    model.eval()
    with torch.no_grad():
        pooled = torch.cat([model(to_unit(part.numpy())) for part in images[:10_000].split(250)])
    mean = pooled.mean(0)
    values, vectors = torch.linalg.eigh((pooled - mean).T.double() @ (pooled - mean).double() / len(pooled))
    leading, kept = vectors[:, -layout.n_features :].float().T, float(values[-layout.n_features :].sum() / values.sum())
    print(f"features: {layout.n_features} components keep {kept:.3f} of the variance", flush=True)
    model.reset_classifier(layout.n_features)
    with torch.no_grad():
        scale = float(values[-layout.n_features :].mean().rsqrt())
        model.fc.weight.copy_(leading * scale)
        model.fc.bias.copy_(-leading @ mean * scale)
    save_resnet(model, resnet_config(recipe.feature_channels, layout.image_channels, layout.n_features), out / FEATURES)
    return losses


@torch.no_grad()
def features_of(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(to_unit(part.numpy())) for part in images.split(250)])


@torch.no_grad()
def neighbours_of(features: Tensor, k: int) -> Tensor:
    """The k nearest of every item, itself first, int64 [n, k]."""
    return torch.cat([(part @ features.T).topk(k).indices for part in features.split(1000)])


# ---------------------------------------------------------------- generator, discriminator, encoder


class CriticBlock(nn.Module):
    """Residual block that halves height and width."""

    def __init__(self, n_in: int, n_out: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv1 = SpectralConv2d(n_in, n_out, 3, padding=1)
        self.conv2 = SpectralConv2d(n_out, n_out, 3, padding=1)
        self.conv_sc = SpectralConv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return F.avg_pool2d(h, 2) + self.conv_sc(F.avg_pool2d(x, 2))


class Critic(nn.Module):
    """BigGAN's discriminator: one score of an image and instance features, the latter by projection."""

    def __init__(self, layout: Layout, channels: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (layout.image_channels, *channels)
        self.blocks = nn.Sequential(*(CriticBlock(a, b, i == 0) for i, (a, b) in enumerate(pairwise(sizes))))
        self.linear = SpectralLinear(channels[-1], 1)
        self.linear_feat = SpectralLinear(layout.n_features, channels[-1])

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        h = F.relu(self.blocks(images)).sum((2, 3))
        return self.linear(h)[:, 0] + (self.linear_feat(F.normalize(features)) * h).sum(1)


def shifted(images: Tensor, shift: list[int]) -> Tensor:
    """Shifted along both axes, its border repeated, and brighter or darker."""
    size, most = images.shape[2:], max(map(abs, shift))
    if most:
        y, x = (most + s for s in shift)
        images = F.pad(images, [most] * 4, mode="replicate")[..., y : y + size[0], x : x + size[1]]
    return images + uniform(len(images), -0.2, 0.2)[:, None, None, None]


def train_gan(
    recipe: Recipe, images: Tensor, network: SmallFeatures, seed: int, out: Path, look: Callable[[Networks], None]
) -> list[dict[str, float]]:
    """Train generator, discriminator and encoder, and write the first and the last.

    Args:
        look: called now and then with the networks as they stand.
    """
    torch.manual_seed(seed)
    layout = recipe.layout
    generator, critic = InstanceGenerator(layout).train(), Critic(layout, recipe.critic_channels).train()
    config = resnet_config(recipe.encoder_channels, layout.image_channels, 2 * layout.n_noise)
    encoder = build_resnet(config).train()
    average = deepcopy(generator)
    features = features_of(network, images)
    neighbours = neighbours_of(features, recipe.n_neighbours)
    makers = [*generator.parameters(), *encoder.parameters()]
    optimizers = [
        torch.optim.Adam(makers, lr=recipe.lr, betas=(0.5, 0.99)),
        torch.optim.Adam(critic.parameters(), lr=recipe.critic_lr, betas=(0.5, 0.99)),
    ]
    n, steps, losses, start = recipe.batch, recipe.steps, [], time.time()
    order = batches(len(images), 2 * n, steps, torch.Generator().manual_seed(seed))
    for step, rows in enumerate(order):
        for optimizer, lr in zip(optimizers, (recipe.lr, recipe.critic_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        instances, encoded = rows[:n], rows[n:]
        near = neighbours[instances, torch.randint(recipe.n_neighbours, (n,))]
        real, x = to_unit(images[near].numpy()), to_unit(images[encoded].numpy())
        shift = torch.randint(-layout.image_shape[1] // 8, layout.image_shape[1] // 8 + 1, (2,)).tolist()
        condition = features[instances]

        mean, log_variance = encoder(x).split(layout.n_noise, 1)
        log_variance = log_variance.clamp(-8, 4)
        found = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        noise = torch.cat([torch.randn(n, layout.n_noise), found])
        fake, remade = generator(noise, features[rows]).split(n)

        scores = critic(shifted(torch.cat([fake.detach(), real]), shift), condition.repeat(2, 1))
        critic_loss = F.relu(1 + scores[:n]).mean() + F.relu(1 - scores[n:]).mean()
        optimizers[1].zero_grad(set_to_none=True)
        critic_loss.backward()
        optimizers[1].step()

        critic.requires_grad_(False)
        difference = remade - x
        parts = {
            "adversarial": -critic(shifted(fake, shift), condition).mean(),
            "reconstruction": difference.abs().mean() + difference.square().mean(),
            "divergence": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean(),
            "features": 1 - F.cosine_similarity(network(fake), condition).mean(),
        }
        loss = torch.stack([getattr(recipe, name) * value for name, value in parts.items()]).sum()
        optimizers[0].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(makers, 5.0)
        optimizers[0].step()
        critic.requires_grad_(True)
        decay = min(recipe.average, (step + 1) / (step + 10))
        for kept, now in zip(average.state_dict().values(), generator.state_dict().values(), strict=True):
            kept.lerp_(now, 1 - decay)

        losses.append({name: value.item() for name, value in parts.items()} | {"critic": critic_loss.item()})
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        if step % 100 == 0 or step == steps - 1:
            shown = {name: round(float(np.mean([one[name] for one in losses[-100:]])), 3) for name in losses[0]}
            print(f"gan step {step:5d}/{steps} {shown} {time.time() - start:6.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step == steps - 1:
            write(out, average, encoder, config)
            look(Networks(deepcopy(average).eval(), network, load_resnet(out / ENCODER)))
    return losses


def write(out: Path, generator: nn.Module, encoder: nn.Module, config: dict[str, Any]) -> None:
    """Write the generator, and of the encoder what tells the mean."""
    save_half(generator.state_dict(), out / GENERATOR)
    n = config["num_classes"] // 2
    half = build_resnet(config | {"num_classes": n})
    half.load_state_dict({k: v[:n] if k.startswith("fc.") else v for k, v in encoder.state_dict().items()})
    save_resnet(half, config | {"num_classes": n}, out / ENCODER)


# ---------------------------------------------------------------- quality, with labels and the judge


class Quality:
    """Measures the networks on images that no training saw."""

    def __init__(self, name: str, pool: Tensor, labels: np.ndarray, fresh: np.ndarray, fresh_labels: np.ndarray):
        self.pool, self.labels, self.fresh, self.fresh_labels = pool, labels, fresh, fresh_labels
        self.judge = ImageClassifier.from_folder(ROOT / "cnd" / "generators" / "weights" / name / "classifier")
        self.n_way = min(50, int(labels.max()) + 1)

    def of_features(self, network: nn.Module) -> dict[str, float]:
        """How often the nearest image of the pool is of the same category."""
        known, asked = features_of(network, self.pool), features_of(network, torch.from_numpy(self.fresh))
        nearest = (asked @ known.T).argmax(1).numpy()
        return {"nearest_neighbour_top1": float((self.labels[nearest] == self.fresh_labels).mean())}

    @torch.no_grad()
    def of_images(self, networks: Networks, n: int = 200) -> dict[str, float]:
        """n-way accuracy of images from instance features with drawn noise, without noise, and with the encoder's."""
        fresh = self.fresh[:n]
        x = as_tensor(fresh, "cpu")
        features, noise = networks.features(x), networks.encoder(x)
        drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0))
        found: dict[str, float] = {}
        for name, z in {"drawn_noise": drawn, "no_noise": torch.zeros_like(noise), "encoded_noise": noise}.items():
            found |= self._scores(name, networks.generator(z, features))
        return found

    def of_inversion(self, networks: Networks, config: InversionConfig, n: int = 100) -> dict[str, float]:
        """The same of images from inverted dense vectors."""
        start = time.time()
        features, noise, dense = invert(networks, as_tensor(self.fresh[:n], "cpu"), config)
        seconds = (time.time() - start) / n
        with torch.no_grad():
            made = networks.generator(noise, features, dense)
        return self._scores("inverted", made) | {"inversion_seconds_an_image": round(seconds, 4)}

    def _scores(self, name: str, made: Tensor) -> dict[str, float]:
        images = made.add(1).mul(127.5).round().byte().numpy()
        stimuli, labels = self.fresh[: len(images)], self.fresh_labels[: len(images)]
        accuracy = n_way_accuracy(self.judge.probabilities(images), labels, self.n_way)
        pairs = zip(images.reshape(len(images), -1), stimuli.reshape(len(images), -1), strict=True)
        correlation = np.mean([np.corrcoef(a, b)[0, 1] if a.std() else 0.0 for a, b in pairs])
        return {
            f"{name}_{self.n_way}_way": round(float(accuracy.mean()), 4),
            f"{name}_pixel_correlation": round(float(correlation), 4),
        }


def note(out: Path, **content: Any) -> None:
    """Add to the notes."""
    path = out / NOTES
    out.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | content, indent=1) + "\n")
    print(content, flush=True)


def train(name: str, recipe: Recipe, seed: int, out: Path) -> None:
    """Train what is not in ``out`` yet."""
    start = time.time()
    pool, labels = draw_images(name, recipe.n_images, np.random.default_rng(seed))
    fresh, fresh_labels = draw_images(name, 500, np.random.default_rng(seed + 1))
    images, quality = torch.from_numpy(pool), Quality(name, torch.from_numpy(pool), labels, fresh, fresh_labels)
    told = dict(seed=seed, threads=torch.get_num_threads(), torch=torch.__version__)
    note(out, image_shape=recipe.layout.image_shape, recipe=asdict(recipe), **told)
    if not (out / FEATURES / "config.json").exists():
        losses = train_features(recipe, images, seed, out)
        network = SmallFeatures(load_resnet(out / FEATURES))
        parts = dict(
            first_losses=losses[:5], last_loss=float(np.mean(losses[-50:])), seconds=round(time.time() - start)
        )
        note(out, features=parts | quality.of_features(network))
    network = SmallFeatures(load_resnet(out / FEATURES))
    if not (out / GENERATOR).exists():
        start = time.time()
        losses = train_gan(recipe, images, network, seed, out, lambda n: print(quality.of_images(n), flush=True))
        last = {key: float(np.mean([one[key] for one in losses[-100:]])) for key in losses[0]}
        note(out, gan=dict(first_losses=losses[:3], last_losses=last, seconds=round(time.time() - start)))
    networks = load(Sources(), recipe.layout.image_shape) if out.parent == WEIGHTS else None
    if networks is not None:
        note(out, quality=quality.of_images(networks) | quality.of_inversion(networks, InversionConfig()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: cnd/decoders/icgan/weights/NAME")
    parser.add_argument("--steps", type=int, help="override the recipe, for a quick try")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe, n = RECIPES[arguments.name], arguments.steps
    if n:
        recipe = replace(recipe, steps=n, feature_steps=n)
    train(arguments.name, recipe, arguments.seed, arguments.out or WEIGHTS / arguments.name)


if __name__ == "__main__":
    main()
