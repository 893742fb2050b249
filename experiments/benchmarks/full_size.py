"""Steps at the paper's size beside a straightforward script's, in one run: what our way of writing them brings.

    python experiments/benchmarks/full_size.py [--only phase1] [--repeats 3] [--quick]

phase1    the 24 x 1024 autoencoder, 4,643 voxels, batch 4, double contrast. The script's step is two plain passes (each
          view by itself; see phase1.py), backward, clipping, AdamW.
phase2    the condition module before cin256-v2's UNet (400 M random weights), batch 2. The script's step has gradients
          of all the UNet's weights.
sampling  test items of ``simulated`` drawn side by side (``sampling.batch_size``), against one at a time.
fused     Phase 2 steps of four trials of ``simulated`` through one UNet (``--fuse 4``), against one after the other.

The ways alternate, so that what else runs on the machine meets each of them; the processor's seconds count on a CPU,
the clock's on a GPU, the fastest of the repeats. :mod:`gpu` runs the same parts on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs where the package is not installed

import phase1 as small
import real_size
import torch
from torch import nn

from cnd.decoders.cnd.phase1 import training as phase1
from cnd.decoders.cnd.phase1.model import FmriEncoder, MaskedAutoencoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config
from cnd.decoders.cnd.phase2 import training as phase2
from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.targets import Wanted
from cnd.decoders.training import loss_scaler
from cnd.experiment import Experiment, load_experiment
from cnd.generators.sampling import draw
from cnd.generators.shared import Meeting, Seat
from cnd.protocols import Generator, SamplingConfig

ROOT = Path(__file__).resolve().parents[2]
Ways = dict[str, Callable[[], Any]]


def seconds(ways: Ways, repeats: int, device: torch.device) -> dict[str, float]:
    """Of each way, the fastest of ``repeats`` after one to warm up; in turns."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = clock()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                found[name].append(clock() - start)
    return {name: min(times) for name, times in found.items()}


# ---------------------------------------------------------------- Phase 1


def phase1_ways(size: dict[str, Any], device: torch.device) -> Ways:
    """The script's two passes, its step, and ours."""
    encoder, batch = size["encoder"], 4
    ours = MaskedAutoencoder(encoder, size["voxels"]).to(device)
    plain = copy.deepcopy(ours)
    fmri = torch.randn(batch, size["voxels"], generator=torch.Generator().manual_seed(0)).to(device)
    by_hand = torch.optim.AdamW(plain.parameters(), lr=1e-5, betas=(0.9, 0.95))
    config = Phase1Config(batch_size=batch)

    def passes() -> None:
        by_hand.zero_grad()
        small.naive_step(plain, fmri, config, 0)

    def script() -> None:
        passes()
        nn.utils.clip_grad_norm_(plain.parameters(), config.gradient_clip)
        by_hand.step()

    steps = {f"ours, {name}": phase1_step(ours, fmri, name) for name in ("float32", "bfloat16")}
    return {"script's step": script, "two plain passes": passes, **steps}


def phase1_step(model: MaskedAutoencoder, fmri: torch.Tensor, precision: Any) -> Callable[[], Any]:
    """Our training's step."""
    config = Phase1Config(batch_size=len(fmri), precision=precision)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    scaler, generator = loss_scaler(precision, fmri.device), torch.Generator().manual_seed(0)
    return lambda: phase1.train_step(model, fmri, optimizer, 1e-5, config, generator, scaler)


# ---------------------------------------------------------------- Phase 2


@dataclass
class Trial:
    """One training of Phase 2 and its batch."""

    config: Phase2Config
    module: ConditionModule
    optimizer: torch.optim.Optimizer
    fmri: torch.Tensor
    latents: torch.Tensor
    at: phase2.Phase2State

    def step(self, generator: Generator) -> float:
        scaler = loss_scaler(self.config.precision, generator.device)
        given = (self.fmri, self.latents, Wanted(), self.at)
        return phase2.train_step(self.config, self.module, generator, self.optimizer, scaler, *given)


def trial(
    config: Phase2Config, encoder_config: EncoderConfig, n_voxels: int, generator: Generator, seed: int = 0
) -> Trial:
    """A training with random weights and data."""
    torch.manual_seed(seed)
    encoder = FmriEncoder(encoder_config, n_voxels)
    width, added, bank = encoder_config.width, generator.time_embedding_width, generator.concept_bank.cpu()
    module = ConditionModule(config, encoder, encoder.n_tokens, width, bank, added)
    module.to(generator.device).train()
    optimizer = torch.optim.AdamW(phase2.trainable_parameters(config, module, generator), fused=True)
    latents = torch.randn(config.batch_size, *generator.latent_shape)
    at = phase2.Phase2State(torch.Generator().manual_seed(seed), torch.arange(config.batch_size))
    return Trial(config, module, optimizer, torch.randn(config.batch_size, n_voxels), latents, at)


def phase2_ways(size: dict[str, Any], quick: bool, device: torch.device, batch: int = 2) -> Ways:
    """The script's step, and ours."""
    generator = real_size.random_generator(size, quick).to(device)
    ours = trial(Phase2Config(batch_size=batch), size["encoder"], size["voxels"], generator)
    half = trial(Phase2Config(batch_size=batch, precision="bfloat16"), size["encoder"], size["voxels"], generator)
    plain, its_generator = copy.deepcopy(ours), copy.deepcopy(generator)
    its_generator.unet.requires_grad_(True)

    def script() -> None:
        its_generator.unet.zero_grad()
        plain.step(its_generator)

    return {
        "script's step": script,
        "ours, float32": lambda: ours.step(generator),
        "ours, bfloat16": lambda: half.step(generator),
    }


# ---------------------------------------------------------------- many rows at once


def simulated() -> Experiment:
    return load_experiment(ROOT / "experiments" / "simulated.yaml")


def sampling_ways(generator: Generator, n_items: int, steps: int, at_once: int) -> Ways:
    """One at a time, and side by side."""
    classes = torch.arange(n_items, device=generator.device) % len(generator.concept_bank)
    condition = generator.class_condition(classes)
    noise = torch.randn(n_items, 1, *generator.latent_shape)

    def drawn(batch_size: int) -> Callable[[], Any]:
        config = SamplingConfig(steps=steps, samples_per_item=1, batch_size=batch_size)
        return lambda: draw(config, generator, condition, noise)

    return {"one at a time": drawn(1), f"{at_once} at once": drawn(at_once)}


def fused_ways(generator: Generator, trials: list[Trial], n_steps: int) -> Ways:
    """Trial after trial, and all through one UNet, ``n_steps`` steps each."""

    def alone() -> None:
        for one in trials:
            for _ in range(n_steps):
                one.step(generator)

    def together() -> None:
        meeting = Meeting(present=len(trials))

        def run(seat: int) -> None:
            with meeting.attend():
                shared = Seat(meeting, seat).share(generator)
                for _ in range(n_steps):
                    trials[seat].step(shared)

        threads = [threading.Thread(target=run, args=(seat,)) for seat in range(len(trials))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return {"one after the other": alone, f"{len(trials)} fused": together}


def parts(quick: bool) -> dict[str, Callable[[], Ways]]:
    """What can be measured on a CPU, by name."""
    size, experiment, cpu = real_size.QUICK if quick else real_size.REAL, simulated(), torch.device("cpu")
    decoder: Any = experiment.decoder

    def fused() -> Ways:
        generator = experiment.generator.load()
        many = [trial(decoder.phase2, decoder.encoder, 1200, generator, seed) for seed in range(4)]
        return fused_ways(generator, many, 1 if quick else 10)

    return {
        "phase1": lambda: phase1_ways(size, cpu),
        "phase2": lambda: phase2_ways(size, quick, cpu),
        "sampling": lambda: sampling_ways(experiment.generator.load(), 4 if quick else 50, 2 if quick else 10, 50),
        "fused": fused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="steps at the paper's size beside a straightforward script's")
    parser.add_argument("--only", default="", help="parts whose name contains this text")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--quick", action="store_true", help="small networks: whether it runs, not how fast")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, build in parts(options.quick).items():
        if options.only not in name:
            continue
        found = seconds(build(), options.repeats, torch.device("cpu"))
        first = next(iter(found.values()))
        for way, took in found.items():
            print(f"{name:<10}{way:<22}{took:9.3f} s   ratio {took / first:5.2f}", flush=True)


if __name__ == "__main__":
    main()
