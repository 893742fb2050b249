"""All that a GPU is to be quick at, in one table: seconds of a step, and their ratio to float32, unfused.

    python experiments/benchmarks/gpu.py [--repeats 5] [--only phase2]

Phase 1's step (24 x 1024, 4,643 voxels, batch 250 of two views), Phase 2's (cin256-v2's UNet with 400 M random weights,
batch 8), sampling, each in float32, bfloat16 and with ``torch.compile``; and N trials of Phase 2 through one UNet
(``--fuse N``), seconds of a step of one trial. A part that fails, for want of memory for instance, says why, and the
rest goes on. Without a GPU it says so; ``--device cpu --quick`` runs small networks there, to see that all parts work.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs where the package is not installed

import real_size
import torch
from full_size import fused_ways, phase1_step, sampling_ways, seconds, trial

from cnd.decoders.cnd.phase1.model import MaskedAutoencoder
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.training import autocast

Way = Callable[[], Any]


class Parts:
    """What is measured: each method gives names and functions that build one way to do it.

    Args:
        quick: small networks.
    """

    def __init__(self, device: torch.device, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.size: dict[str, Any] = real_size.QUICK if quick else real_size.REAL
        self.batch = 4 if quick else 8

    def all(self) -> Iterator[tuple[str, str, Callable[[], Way]]]:
        """Part, way, and what builds it; the first way of a part is what its ratios refer to."""
        ways = [("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True)]
        for part, build in (("phase1", self.phase1), ("phase2", self.phase2), ("sampling", self.sampling)):
            for precision, compiled in ways:
                name = precision + (", compiled" if compiled else "")
                yield part, name, lambda b=build, p=precision, c=compiled: b(p, c)  # type: ignore[misc]
        for precision in ("float32", "bfloat16"):
            for n in (1, 2, 4, 8):
                yield "fused", f"{precision}, {n} trials", lambda p=precision, n=n: self.fused(p, n)  # type: ignore[misc]

    def phase1(self, precision: Any, compiled: bool) -> Way:
        n_patterns = 8 if self.quick else self.size["gpu_batch"]
        model = MaskedAutoencoder(self.size["encoder"], self.size["voxels"]).to(self.device)
        if compiled:
            model.encoder.blocks.compile()
            model.decoder.blocks.compile()
        fmri = torch.randn(n_patterns, self.size["voxels"], generator=torch.Generator().manual_seed(0))
        return phase1_step(model, fmri.to(self.device), precision)

    def _generator(self, compiled: bool) -> Any:
        generator = real_size.random_generator(self.size, self.quick).to(self.device)
        if compiled:
            generator.unet.compile()
        return generator

    def phase2(self, precision: Any, compiled: bool) -> Way:
        generator = self._generator(compiled)
        config = Phase2Config(batch_size=self.batch, precision=precision)
        one = trial(config, self.size["encoder"], self.size["voxels"], generator)
        return lambda: one.step(generator)

    def sampling(self, precision: Any, compiled: bool) -> Way:
        """Latents only: the random generator has no autoencoder."""
        generator = self._generator(compiled)
        generator.decode = lambda latents: latents.float().cpu().numpy()
        ways = sampling_ways(generator, self.batch, 2 if self.quick else 10, self.batch)
        draw = ways[f"{self.batch} at once"]

        def run() -> None:
            with autocast(precision, self.device):
                draw()

        return run

    def fused(self, precision: Any, n: int) -> Way:
        """A step of each of ``n`` trials."""
        generator = self._generator(compiled=False)
        config = Phase2Config(batch_size=self.batch, precision=precision)
        trials = [trial(config, self.size["encoder"], self.size["voxels"], generator, seed) for seed in range(n)]
        return fused_ways(generator, trials, 1)[f"{n} fused"]


def reason(error: Exception) -> str:
    """The first line of what went wrong."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


def measure(parts: Parts, only: str, repeats: int) -> Iterator[str]:
    """A line for each way."""
    first: dict[str, float] = {}
    for part, name, build in parts.all():
        if only not in part:
            continue
        try:
            n = int(name.split()[1]) if part == "fused" else 1
            took = seconds({name: build()}, repeats, parts.device)[name] / n
        except Exception as error:
            yield f"{part:<10}{name:<22}failed: {reason(error)}"
        else:
            ratio = took / first.setdefault(part, took)
            peak = torch.cuda.max_memory_allocated() / 1e9 if parts.device.type == "cuda" else 0.0
            yield f"{part:<10}{name:<22}{took * 1e3:9.1f} ms   ratio {ratio:5.2f}   peak {peak:5.1f} GB"
        gc.collect()
        if parts.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def main() -> None:
    parser = argparse.ArgumentParser(description="Phase 1, Phase 2, sampling and fused trials on a GPU")
    parser.add_argument("--only", default="", help="parts whose name contains this text")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest counts")
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu with --quick")
    parser.add_argument("--quick", action="store_true", help="small networks: whether it runs, not how fast")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--device cpu --quick runs every part small)")
        return
    device = torch.device(options.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{where}, PyTorch {torch.__version__}; fastest of {options.repeats}; ratios to the first line of each part")
    for line in measure(Parts(device, options.quick), options.only, options.repeats):
        print(line, flush=True)


if __name__ == "__main__":
    main()
