"""What the paper states, and where an experiment departs from it."""

from __future__ import annotations

from typing import Any

from cnd.decoders.cnd.generators.pipeline import CndDecoder
from cnd.experiment import Experiment
from cnd.generators.dit import DitGenerator

PAPER: dict[str, Any] = {
    "encoder.patch_size": 16,
    "encoder.width": 1024,
    "encoder.depth": 24,
    "encoder.decoder_depth": 8,
    "phase1.batch_size": 250,
    "phase1.lr": 2.5e-4,
    "phase1.weight_decay": 0.05,
    "phase1.sparsification": 0.2,
    "phase1.pretrain_epochs": 500,
    "phase1.tune_epochs": 500,
    "phase1.warmup_epochs": 20,
    "phase1.reconstruction_weight": 0.0,
    "phase1.negatives": "anchors",
    "phase2.timestep_range": (0, 1000),
    "phase2.lr": 5.3e-5,
    "phase2.batch_size": 8,
    "phase2.max_epochs": 500,
    "phase2.max_steps": None,
    "phase2.train_encoder": True,
    "phase2.train_unet_cross_attention": False,
    "phase2.loss_weighting": "none",
    "sampling.steps": 250,
    "sampling.guidance": 1.0,
}
"""What the paper states (sec. 4.2, 8.2), for the list of departures from it."""


def deviations(experiment: Experiment) -> list[str]:
    """Where the settings that ran differ from what the paper states; the report prints them.

    For decoders other than CnD only the sampling counts.
    """
    found = []
    for key, stated in PAPER.items():
        section, name = key.split(".")
        if section != "sampling" and not isinstance(experiment.decoder, CndDecoder):
            continue
        if section == "phase1" and not experiment.phase1.enabled:
            continue
        value = getattr(getattr(experiment, section), name)
        if value != stated:
            found.append(f"{key} = {value} (paper: {stated})")
    return found


def warnings_of(experiment: Experiment) -> list[str]:
    """What a reader must know before believing the scores: a name, a colon and a sentence each."""
    warnings = []
    if experiment.phase1.transductive:
        warnings.append(
            "Transductive: fMRI of the test set entered Phase 1; scores are not comparable with an inductive protocol."
        )
    if experiment.phase2.checkpoint == "test_best":
        warnings.append(
            "Test-set checkpoint: Phase 2 keeps the one that scored best on the test set, so scores are optimistic."
        )
    if isinstance(experiment.generator, DitGenerator):
        warnings.append(
            "A different method: DiT has no cross-attention, so the decoded vector replaces the class vector and the "
            "context tokens are not used."
        )
    return warnings
