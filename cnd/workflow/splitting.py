"""A workbench for a run that lacked memory: trainings get their batches in smaller parts.

The effective batch, the random numbers and all negatives stay: Phase 2 adds up the gradients of the parts, Phase 1
keeps those at its predictions (``micro_batch_size``). Results are the undivided ones but for rounding. How a
computation is cut up is no part of what it computes, so keys stay; the facts of each step that was cut up say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnd.json_files import read_json, write_json
from cnd.protocols import SamplingConfig
from cnd.settings import Config
from cnd.steps import Step
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import Clock, Listener
from cnd.workflow.watched import WatchedBench

INFO, PARTS = "info.json", "micro_batches"


class SplitBench(WatchedBench):
    """A workbench that makes steps with a fraction of their items in memory at once.

    Args:
        parts: how many make up what would be there at once, of all steps or by their names.
    """

    def __init__(self, cache: StageCache, listener: Listener, clock: Clock, parts: int | Mapping[str, int]) -> None:
        super().__init__(cache, listener, clock)
        self.parts = parts

    def make(self, step: Step, folder: Path) -> None:
        """As always, in parts where the step has what can be divided, which its facts then say."""
        parts = self.parts if isinstance(self.parts, int) else self.parts.get(step.name, 1)
        divided = {name: in_parts(value, parts) for name, value in step.settings.items()}
        if "given" in getattr(step.make, "keywords", {}):  # a decoder at work samples as its steps' keys say
            divided = dict(step.settings)
        if parts == 1 or divided == step.settings:
            super().make(step, folder)
            return
        # an undivided training that was broken off is not gone on with: a result is divided from its first step, or not
        self.scratch = self.scratch / f"{PARTS}-{parts}"
        self.scratch.mkdir(exist_ok=True)
        super().make(replace(step, settings=divided), folder)
        if (folder / INFO).is_file():
            write_json(folder / INFO, read_json(folder / INFO) | {PARTS: parts})


def in_parts(value: Any, parts: int) -> Any:
    """Settings with as many items in memory at once as make up the whole in ``parts``; others as they are.

    Settings inside others, such as a decoder's, are left alone: steps that they lead to have keys of their own.
    """
    if isinstance(value, SamplingConfig):
        return value.model_copy(update={"batch_size": _divided(value.batch_size, parts)})
    if isinstance(value, Config) and {"batch_size", "micro_batch_size"} <= type(value).model_fields.keys():
        whole = getattr(value, "micro_batch_size") or getattr(value, "batch_size")  # noqa: B009 (any such settings)
        return value.model_copy(update={"micro_batch_size": _divided(whole, parts)})
    return value


def _divided(size: int, parts: int) -> int:
    return -(-size // parts)
