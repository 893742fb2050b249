"""Time and memory of a Phase 1 training step beside a naive one, in one run, on one thread.

python experiments/benchmarks/phase1.py [--decoder-width 32] [--batch-size 250]

The naive step does the same arithmetic as it is usually written: every patch is embedded, then the kept ones are
gathered; the decoder gathers its wide tokens back in place; InfoNCE is a loop over the anchors; sparsification sorts.
A third step puts our InfoNCE on the naive network, to tell the two gains apart. All see the same masks, and their
losses are compared first. The kinds of step alternate, so that what else runs on the machine meets each of them.
The peak is of resident memory, above that of the loaded libraries, in a process that runs two steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs where the package is not installed

import torch
from torch import Tensor

from cnd.decoders.cnd.phase1.losses import (
    backward_in_micro_batches,
    double_contrastive_loss,
    draw_inputs,
    info_nce,
    sparsify,
)
from cnd.decoders.cnd.phase1.model import MaskedAutoencoder, n_kept, to_patches
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config

N_VOXELS, REPEATS = 1200, 9

Step = Callable[[MaskedAutoencoder, Tensor, Phase1Config, int], Tensor]
Contrast = Callable[[Tensor, Tensor, float], Tensor]


def naive_predict(model: MaskedAutoencoder, fmri: Tensor, order: Tensor, mask_ratio: float) -> Tensor:
    encoder, decoder = model.encoder, model.decoder
    k, (b, n_patches) = n_kept(order.shape[1], mask_ratio), order.shape
    padded = to_patches(fmri, encoder.config.patch_size).flatten(1)
    tokens = encoder.patch_embed(padded[:, None]).transpose(1, 2) + encoder.positions
    tokens = tokens.gather(1, order[:, :k, None].expand(-1, -1, tokens.shape[2]))
    tokens = encoder.norm(encoder.blocks(torch.cat([encoder.class_token.expand(b, -1, -1), tokens], dim=1)))
    tokens = decoder.embed(tokens)
    wide = torch.cat([tokens[:, 1:], decoder.mask_token.repeat(b, n_patches - k, 1)], dim=1)
    wide = wide.gather(1, order.argsort(dim=1)[:, :, None].expand(-1, -1, wide.shape[2])) + decoder.positions[1:]
    tokens = decoder.blocks(torch.cat([tokens[:, :1], wide], dim=1))
    prediction: Tensor = decoder.head(decoder.norm(tokens))[:, 1:].flatten(1)[:, : fmri.shape[1]]
    return prediction


def naive_info_nce(anchor: Tensor, positive: Tensor, temperature: float) -> Tensor:
    losses = []
    for i in range(len(anchor)):
        others = torch.cat([anchor[:i], anchor[i + 1 :]])
        negative = torch.cosine_similarity(anchor[i : i + 1], others, dim=1) / temperature
        s_ii = torch.cosine_similarity(anchor[i], positive[i], dim=0) / temperature
        losses.append(-torch.log(s_ii.exp() / (s_ii.exp() + negative.exp().sum())))
    return torch.stack(losses).mean()


def naive_sparsify(fmri: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    noise = torch.rand(fmri.shape, generator=generator)
    sparsified = fmri.clone()
    for row, ids in zip(sparsified, noise.argsort(dim=1, descending=True), strict=True):
        row[ids[: round(fraction * len(row))]] = 0
    return sparsified


def naive_step(
    model: MaskedAutoencoder, fmri: Tensor, config: Phase1Config, seed: int, contrast: Contrast = naive_info_nce
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sparsified = naive_sparsify(fmri, config.sparsification, generator)
    _, order = draw_inputs(model, sparsified, config, generator)
    first, second = (naive_predict(model, sparsified, masks, config.mask_ratio) for masks in order.split(len(fmri)))
    loss = config.alpha_c * contrast(first, second, config.temperature)
    loss = loss + config.alpha_s * contrast(first, fmri, config.temperature)
    loss.backward()
    return loss.detach()


def our_step(model: MaskedAutoencoder, fmri: Tensor, config: Phase1Config, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sparsified = sparsify(fmri, config.sparsification, generator)
    if config.micro_batch_size is not None:
        return backward_in_micro_batches(model, fmri, sparsified, config, generator, config.micro_batch_size)[0]
    loss, _ = double_contrastive_loss(model, fmri, sparsified, config, generator)
    loss.backward()
    return loss.detach()


def setting(decoder_width: int, batch_size: int) -> tuple[MaskedAutoencoder, Tensor]:
    torch.set_num_threads(1)
    small = EncoderConfig(
        width=64, depth=3, heads=4, decoder_width=decoder_width, decoder_depth=1, decoder_heads=4
    )  # 75 patches of 16 voxels
    fmri = torch.randn(batch_size, N_VOXELS, generator=torch.Generator().manual_seed(0))
    return MaskedAutoencoder(small, N_VOXELS), fmri


def peak(step: Step | None, config: Phase1Config, decoder_width: int, batch_size: int) -> float:
    """MiB resident at most after two steps (None: after building the model)."""
    model, fmri = setting(decoder_width, batch_size)
    if step is not None:
        for seed in range(2):
            step(model, fmri, config, seed)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of a Phase 1 training step")
    parser.add_argument("--decoder-width", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=250)
    options = parser.parse_args()
    size = (options.decoder_width, options.batch_size)
    config, micro = Phase1Config(), Phase1Config(micro_batch_size=64)
    vectorised = partial(naive_step, contrast=partial(info_nce, negatives="anchors"))
    steps: dict[str, tuple[Step, Phase1Config]] = {
        "naive": (naive_step, config),
        "naive network, our InfoNCE": (vectorised, config),
        "ours": (our_step, config),
        "ours, micro-batches of 64": (our_step, micro),
    }
    # first, because a child's peak counts from its parent's size
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        base = pool.apply(peak, (None, config, *size))
        peaks = {name: pool.apply(peak, (step, c, *size)) - base for name, (step, c) in steps.items()}
    model, fmri = setting(*size)
    losses = [step(model, fmri, c, 0) for step, c in steps.values()]
    torch.testing.assert_close(losses, [losses[0]] * len(steps), rtol=1e-4, atol=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for seed in range(REPEATS):
        for name, (step, c) in steps.items():
            model.zero_grad()
            start = perf_counter()
            step(model, fmri, c, seed)
            seconds[name].append(perf_counter() - start)
    naive = statistics.median(seconds["naive"])
    print(f"width 64, depth 3, decoder width {size[0]}, {N_VOXELS} voxels, batch {size[1]}, two views, one thread")
    for name, times in seconds.items():
        median, best = statistics.median(times), min(times)
        print(
            f"{name:<26} {median * 1e3:6.0f} ms/step (median of {REPEATS}, best {best * 1e3:.0f})"
            f"   {naive / median:4.2f} x   peak +{peaks[name]:.0f} MiB"
        )


if __name__ == "__main__":
    main()
