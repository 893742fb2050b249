"""Hidden states of the frozen UNet while it denoises (sec. 3.4, 5.2).

Two drives. ``reconstruction`` is the paper's: DDIM under the condition decoded from each item's fMRI. It is circular,
for the fMRI itself steers the states that are then decoded from it. ``stimulus`` is not: the latent of the true
image, noised to the time-step, under the true class.

All items share the starting noise (and further seeds share further noise, over which states are averaged), so that
items differ by what drives them and not by their draw of noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnd.cortex.settings import AnalysisConfig
from cnd.errors import UserError, nearest
from cnd.protocols import Condition, Generator, OnProgress, SamplingConfig, no_progress

Side = Literal["encoder", "decoder"]
SUBMODULES: dict[Side, int] = {"encoder": 18, "decoder": 24}
"""Of cin256, the UNet that the paper's layer numbers count in."""
BATCH_BYTES = 256 << 20  # float32 states of one batch of items, all layers and steps
BLOCK_BYTES = 64 << 20  # one block of features of all items


class Place(NamedTuple):
    """A layer whose states are recorded: ``layer`` as the user numbers it, ``module`` its path in the UNet."""

    side: Side
    layer: int
    module: str


class Cell(NamedTuple):
    """One state: a drive, a layer and a step (fraction of the denoising, and its index)."""

    drive: str
    place: Place
    step: float
    step_index: int

    @property
    def columns(self) -> dict[str, Any]:
        """What names it in every table."""
        return {"drive": self.drive, "side": self.place.side, "layer": self.place.layer, "step": self.step}


# ---------------------------------------------------------------- where and when


def submodules(unet: nn.Module) -> dict[Side, list[str]]:
    """Module paths in order: first convolution, residual blocks, attention blocks, down- and up-samplers.

    With the first convolution cin256 has 18 in the encoder and 24 in the decoder; the middle block belongs to neither.

    Raises:
        UserError: not a UNet of diffusers.
    """
    if not hasattr(unet, "down_blocks") or not hasattr(unet, "up_blocks"):
        raise UserError(
            f"analysis: expected a UNet with down_blocks and up_blocks, found {type(unet).__name__}; "
            "use generator.kind embedded or ldm"
        )
    return {"encoder": ["conv_in", *_parts(unet, "down_blocks")], "decoder": _parts(unet, "up_blocks")}


def _parts(unet: nn.Module, blocks: str) -> list[str]:
    paths = []
    for index, block in enumerate(getattr(unet, blocks)):
        for layer in range(len(block.resnets)):
            paths.append(f"{blocks}.{index}.resnets.{layer}")
            if getattr(block, "attentions", None) is not None:
                paths.append(f"{blocks}.{index}.attentions.{layer}")
        resampler = "downsamplers" if blocks == "down_blocks" else "upsamplers"
        if getattr(block, resampler, None) is not None:
            paths.append(f"{blocks}.{index}.{resampler}.0")
    return paths


def places(config: AnalysisConfig, unet: nn.Module) -> list[Place]:
    """The configured layers in this UNet: by module path, or the paper's numbers at the same relative depth.

    Two numbers that fall on the same sub-module of a small UNet are one place, under the first number.

    Raises:
        UserError: a module that does not exist, or a layer beyond the paper's UNet.
    """
    found = submodules(unet)
    if config.modules is not None:
        return [_by_path(path, found) for path in config.modules]
    chosen: dict[str, Place] = {}
    for side, paths in found.items():
        count = SUBMODULES[side]
        for layer in config.layers:
            if layer > count:
                raise UserError(
                    f"analysis.layers: {layer} found, expected 1 to {count}, the sub-modules of cin256's {side}; "
                    "name deeper ones by analysis.modules"
                )
            module = paths[round((layer - 1) / (count - 1) * (len(paths) - 1))]
            chosen.setdefault(module, Place(side, layer, module))
    return list(chosen.values())


def _by_path(path: str, found: dict[Side, list[str]]) -> Place:
    for side, paths in found.items():
        if path in paths:
            return Place(side, paths.index(path) + 1, path)
    every = [path for paths in found.values() for path in paths]
    raise UserError(
        f"analysis.modules: '{path}' is no sub-module of the UNet's encoder or decoder{nearest(path, every)}"
    )


def step_indices(fractions: Sequence[float], n_steps: int) -> list[int]:
    """Index of the denoising step at each fraction: step floor(fraction * n_steps), at most the last.

    Of 250 steps 0, 0.2, 0.6 and 1 are 0, 50, 150 and 249, the last, which the paper's Figure 5 calls 250.
    """
    exact = (round(fraction * n_steps, 9) for fraction in fractions)  # 0.29 * 100 is 28.999999999999996
    return [min(int(step), n_steps - 1) for step in exact]


# ---------------------------------------------------------------- recording


class Recorder:
    """Forward hooks that keep the outputs of modules in chosen calls of the UNet.

    Args:
        calls: indices of the calls to keep, counted from the last :meth:`start`.
    """

    def __init__(self, unet: nn.Module, modules: Sequence[str], calls: Sequence[int]):
        self.wanted = set(calls)
        self.kept: dict[tuple[str, int], Tensor] = {}
        self.counts: dict[str, int] = {}
        self.handles = [unet.get_submodule(name).register_forward_hook(self._hook(name)) for name in modules]

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            call = self.counts.get(name, 0)
            self.counts[name] = call + 1
            if call in self.wanted:
                self.kept[name, call] = (output[0] if isinstance(output, tuple) else output).detach()

        return keep

    def start(self) -> None:
        self.kept.clear()
        self.counts.clear()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()


class StateStore:
    """States of all items on disk, float16 [n_items, features] a layer and step, as offsets from a typical state.

    The offset (from the mean of the first batch) keeps float16's 11 bits for the differences between items, which is
    what the analysis is about. Reading goes by blocks of features: no state is in memory as a whole.
    """

    def __init__(self, folder: Path, n_items: int):
        self.folder, self.n_items = folder, n_items
        self.reference: dict[str, np.ndarray] = {}

    def append(self, name: str, values: np.ndarray) -> None:
        """Add the states float32 [n, features] of the next items.

        Raises:
            FloatingPointError: not finite, in the UNet or as float16.
        """
        reference = self.reference.setdefault(name, values.mean(0))
        with np.errstate(over="ignore"):
            offset = (values - reference).astype(np.float16)
        if not np.isfinite(offset).all():
            raise FloatingPointError(f"analysis: hidden state {name} is not finite")
        with open(self.folder / f"{name}.f16", "ab") as file:
            file.write(offset.tobytes())

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """float32 [n_items, some features], block by block."""
        features = len(self.reference[name])
        width = max(1, BLOCK_BYTES // (4 * self.n_items))
        for start in range(0, features, width):
            stored = np.memmap(self.folder / f"{name}.f16", np.float16, "r", shape=(self.n_items, features))
            yield stored[:, start : start + width].astype(np.float32)

    def mean_square(self, name: str) -> float:
        """Of the typical state: the scale against which a variance counts as zero."""
        return float(np.mean(np.square(self.reference[name], dtype=np.float64)))


def state_name(module: str, step: int) -> str:
    """Name of a layer and step (index in the denoising) in a :class:`StateStore`."""
    return f"{module}@{step}"


class Drive(NamedTuple):
    """What steers the UNet: a condition of each item, and for the drive ``stimulus`` its clean latents [n, ...]."""

    condition: Condition
    latents: Tensor | None

    def take(self, rows: slice, device: torch.device) -> Drive:
        condition = Condition(*(tensor[rows].to(device) for tensor in self.condition))
        return Drive(condition, None if self.latents is None else self.latents[rows].to(device))


def record(
    generator: Generator,
    modules: Sequence[str],
    steps: Sequence[int],
    sampling: SamplingConfig,
    drive: Drive,
    noise_seeds: Sequence[int],
    folder: Path,
    report: OnProgress = no_progress,
) -> StateStore:
    """Denoise every item and store the states of the conditional branch.

    Memory: the states of one batch of items (at most 256 MiB, or one item) besides what the UNet needs; those of all
    items, layers and steps lie on disk, 2 bytes a value.

    Args:
        steps: indices in the denoising of ``sampling.steps``.
        drive: of all items. Without latents the generator samples by DDIM.
        noise_seeds: one starting noise each; states are averaged over them.
        folder: empty scratch folder.

    Raises:
        UserError: the disk has no room for the states.
        FloatingPointError: a state is not finite.
    """
    n_items, kept = len(drive.condition.pooled), sorted(set(steps))
    store = StateStore(folder, n_items)
    calls = range(len(kept)) if drive.latents is not None else kept
    with Recorder(generator.unet, modules, calls) as recorder, torch.no_grad():

        def states(rows: slice) -> dict[str, Tensor]:
            part = drive.take(rows, generator.device)
            found: dict[str, Tensor] = {}
            for seed in noise_seeds:
                recorder.start()
                _denoise(generator, kept, sampling, part, seed)
                for (module, call), state in recorder.kept.items():
                    name = state_name(module, kept[call] if drive.latents is not None else call)
                    # with guidance the UNet saw the unconditional items first, then the conditional ones
                    state = state[-len(part.condition.pooled) :].flatten(1).float() / len(noise_seeds)
                    found[name] = found[name] + state if name in found else state
            return found

        item_bytes = 4 * sum(state.numel() for state in states(slice(0, 1)).values())
        needed, free = n_items * item_bytes // 2, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"{folder}: the hidden states of {n_items:,} items take {needed / 1e9:.1f} GB while the analysis runs, "
                f"and {free / 1e9:.1f} GB are free; make room, or choose fewer analysis.layers or analysis.steps"
            )
        size = max(1, min(sampling.batch_size, BATCH_BYTES // item_bytes))
        for start in range(0, n_items, size):
            for name, state in states(slice(start, start + size)).items():
                store.append(name, state.cpu().numpy())
            done = min(start + size, n_items)
            report(done / n_items, done, {})
    return store


def _denoise(generator: Generator, steps: Sequence[int], sampling: SamplingConfig, drive: Drive, seed: int) -> None:
    """Run the UNet over one batch; the hooks see what it computes."""
    n_items, device = len(drive.condition.pooled), generator.device
    shape = generator.latent_shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device).expand(n_items, *shape)
    if drive.latents is None:
        generator.sample(drive.condition, noise, sampling.steps, sampling.guidance)
        return
    timesteps = generator.timesteps(sampling.steps)
    for step in steps:
        at = timesteps[step].expand(n_items)
        generator.predict_noise(generator.add_noise(drive.latents, noise, at), at, drive.condition)
