"""Peak memory and step time of both phases at real size, in every way of saving memory.

    python experiments/benchmarks/real_size.py [--quick] [--memory 16] [--only phase2]

Phase 1: the 24 x 1024 autoencoder on patterns of 4,643 voxels (subject 3 of GOD). Phase 2: the same encoder, the
condition module and the 400 M-parameter UNet of cin256-v2 with random weights, latents 3 x 64 x 64, batch 8. The steps
are those of the trainings themselves: forward, backward, clipping, AdamW. Each case has a process of its own, on the
CPU and, where there is one, on the GPU (Phase 1 with the paper's batch of 250 there, with 8 on the CPU). On a CPU
the peak is of the process's resident memory, libraries included (about 0.4 GB); on a GPU of PyTorch's allocations.
The processor's seconds, over all threads, stand beside those of the clock: they suffer less from what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs where the package is not installed

import torch
from torch import nn

from cnd.decoders.cnd.phase1 import training as phase1
from cnd.decoders.cnd.phase1.model import FmriEncoder, MaskedAutoencoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config
from cnd.decoders.cnd.phase2 import training as phase2
from cnd.decoders.cnd.phase2.model import ConditionModule, count_parameters
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.targets import Wanted
from cnd.decoders.training import loss_scaler
from cnd.generators.cin256_settings import CIN256_V2
from cnd.generators.convert import scheduler_of
from cnd.generators.vq_diffusion import VqLatentDiffusion

# importable since the lines above
from diffusers import UNet2DConditionModel  # isort: skip
from diffusers.loaders.single_file_utils import create_unet_diffusers_config_from_ldm  # isort: skip

CASES: dict[str, dict[str, Any]] = {
    "phase1, float32": {},
    "phase1, float32, checkpointing": {"checkpointing": True},
    "phase1, float32, micro-batches": {"micro": True},
    "phase1, bfloat16": {"precision": "bfloat16"},
    "phase1, bfloat16, checkpointing": {"precision": "bfloat16", "checkpointing": True},
    "phase2, float32": {},
    "phase2, float32, micro-batches": {"micro": True},
    "phase2, bfloat16, micro-batches": {"precision": "bfloat16", "micro": True},
    "phase2, bfloat16, micro-batches, checkpointing": {"precision": "bfloat16", "micro": True, "checkpointing": True},
}

REAL: dict[str, Any] = {
    "encoder": EncoderConfig(),
    "voxels": 4643,
    "batch": 8,
    "gpu_batch": 250,
    "micro": 2,
    "bank": (1001, 512),
}
QUICK = REAL | {
    "encoder": EncoderConfig(width=32, depth=2, heads=4, decoder_width=16, decoder_depth=1, decoder_heads=4),
    "voxels": 300,
    "gpu_batch": 8,
    "bank": (11, 32),
}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def with_moments(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Have AdamW's two moments in memory already, as every step but the first does."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def phase1_step(
    size: dict[str, Any], encoder: EncoderConfig, settings: dict[str, Any]
) -> tuple[Callable[[], Any], str]:
    """A step of the double contrastive training, and what it works on."""
    batch = size["gpu_batch"] if device().type == "cuda" else size["batch"]
    config = Phase1Config(batch_size=batch, **settings)
    model = MaskedAutoencoder(encoder, size["voxels"]).to(device())
    optimizer = with_moments(torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True))
    scaler = loss_scaler(config.precision, device())
    generator = torch.Generator().manual_seed(0)
    fmri = torch.randn(batch, size["voxels"], generator=generator).to(device())
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    step = lambda: phase1.train_step(model, fmri, optimizer, 1e-5, config, generator, scaler)  # noqa: E731
    return step, f"batch {batch} x 2 views, {millions:.0f} M parameters"


def random_generator(size: dict[str, Any], quick: bool) -> VqLatentDiffusion:
    """The published model's UNet and schedule with random weights; a step needs no autoencoder."""
    config = create_unet_diffusers_config_from_ldm({"model": {"params": CIN256_V2}}, {})
    config |= {"sample_size": 64, "class_embed_type": "identity"}
    if quick:
        config |= {"sample_size": 16, "block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 32}
    unet = UNet2DConditionModel(**config)
    return VqLatentDiffusion(nn.Identity(), unet, scheduler_of(CIN256_V2), torch.randn(size["bank"])).to(device())


def phase2_step(
    size: dict[str, Any], encoder_config: EncoderConfig, settings: dict[str, Any], quick: bool
) -> tuple[Callable[[], Any], str]:
    """A step of the conditioning, and what it works on."""
    torch.manual_seed(0)
    config = Phase2Config(batch_size=size["batch"], **settings)
    generator = random_generator(size, quick)
    encoder = FmriEncoder(encoder_config, size["voxels"])
    n_tokens, added = 1 + encoder.n_patches, generator.time_embedding_width
    module = ConditionModule(config, encoder, n_tokens, encoder_config.width, generator.concept_bank, added)
    module.to(device()).train()
    optimizer = with_moments(torch.optim.AdamW(phase2.trainable_parameters(config, module, generator), fused=True))
    scaler = loss_scaler(config.precision, device())
    fmri, latents = (
        torch.randn(config.batch_size, size["voxels"]),
        torch.randn(config.batch_size, *generator.latent_shape),
    )
    at = phase2.Phase2State(torch.Generator().manual_seed(0), torch.arange(config.batch_size))
    batch = fmri, latents, Wanted()
    step = lambda: phase2.train_step(config, module, generator, optimizer, scaler, *batch, at)  # noqa: E731
    count = {name: n / 1e6 for name, n in count_parameters(module, generator).items()}
    return step, f"batch {config.batch_size}, {count['trainable']:.0f} M trainable, {count['frozen']:.0f} M frozen"


def measure(name: str, quick: bool, steps: int) -> dict[str, Any]:
    """Seconds of the fastest of ``steps`` steps, by the clock and of the processor, and the peak of memory in GB."""
    size, case = QUICK if quick else REAL, CASES[name]
    encoder = size["encoder"].model_copy(update={"activation_checkpointing": case.get("checkpointing", False)})
    settings: dict[str, Any] = {"precision": case.get("precision", "float32")}
    if case.get("micro"):
        settings["micro_batch_size"] = size["micro"]
    if name.startswith("phase1"):
        step, what = phase1_step(size, encoder, settings)
    else:
        step, what = phase2_step(size, encoder, settings, quick)
    seconds = []
    for _ in range(steps):
        start, start_cpu = time.perf_counter(), time.process_time()
        step()  # its result is a number, so the device has finished
        seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = torch.cuda.max_memory_allocated() if device().type == "cuda" else resident
    clock, processor = min(seconds)
    return {"seconds": clock, "processor": processor, "peak": peak / 1e9, "what": what}


def run_apart(name: str, options: argparse.Namespace, on_cpu: bool = True) -> dict[str, Any] | None:
    """:func:`measure` in a process of its own; None where memory did not suffice."""
    command = [sys.executable, __file__, "--case", name, "--steps", str(options.steps)]
    command += ["--quick"] if options.quick else []
    command += ["--memory", str(options.memory)] if options.memory and on_cpu else []  # CUDA maps far more than it uses
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    last_line = "".join(done.stderr.splitlines()[-1:]).lower()
    if done.returncode == -9 or "memory" in last_line or "bad_alloc" in last_line:  # -9: the system's killer
        return None
    sys.exit(done.stderr)


def described(found: dict[str, Any] | None) -> str:
    """What was measured, in one line."""
    if found is None:
        return "does not fit"
    time_of_step = f"{found['seconds']:8.2f} s/step ({found['processor']:.2f} of the processor)"
    return f"{time_of_step}   peak {found['peak']:6.2f} GB   {found['what']}"


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory and step time at real size")
    parser.add_argument("--quick", action="store_true", help="small networks: whether it runs, not how fast")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--steps", type=int, default=2, help="the fastest counts")
    parser.add_argument(
        "--memory", type=float, help="GB of address space a case on the CPU may take (libraries map about 3)"
    )
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        if options.memory:
            resource.setrlimit(resource.RLIMIT_AS, (int(options.memory * 1e9),) * 2)
        print(json.dumps(measure(options.case, options.quick, options.steps)))
        return
    names = [name for name in CASES if options.only in name]
    if not names:
        parser.error(f"--only {options.only}: no case has this in its name; there are {'; '.join(CASES)}")
    for on_cpu in (True, False) if device().type == "cuda" else (True,):
        where = f"CPU, {torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name()
        print(f"{where}; fastest of {options.steps} steps", flush=True)
        for name in names:
            print(f"{name:<48}{described(run_apart(name, options, on_cpu))}", flush=True)


if __name__ == "__main__":
    main()
