"""A workbench that also tells the validation score at every checkpoint of a training, for whoever may stop it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.steps import Step
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import CHECKPOINT, PERCENT, Clock, Listener, ignore

if TYPE_CHECKING:
    import numpy as np

SCORER = "validation_score"  # the step whose result scores training items


class WatchedBench(Workbench):
    """Trainings ask it for the function that scores their held-out items, and it listens when they call it.

    What is trained and kept is the same as on a :class:`Workbench`; a listener may end a training by an exception.
    """

    def __init__(self, cache: StageCache, listener: Listener = ignore, clock: Clock | None = None) -> None:
        super().__init__(cache, listener, clock)
        self._phase, self._fraction, self._samples_seen = "", 0.0, 0

    def report(
        self, phase: str, fraction: float, samples_seen: int = 0, metrics: dict[str, float] | None = None
    ) -> None:
        """Tell the listener how far the whole run is."""
        self._phase, self._fraction, self._samples_seen = phase, fraction, samples_seen
        super().report(phase, fraction, samples_seen, metrics)

    def make(self, step: Step, folder: Path) -> None:
        """Compute a step into an empty folder."""
        self._phase, self._fraction, self._samples_seen = step.name, 0.0, 0
        super().make(step, folder)

    def value(self, step: Step) -> Any:
        """The result of a step, made if it is missing."""
        found = super().value(step)
        if step.name != SCORER or found is None:
            return found

        def score(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
            items: np.ndarray = found(images, rows)
            # a training tells its progress in hundredths, each after its checkpoint
            at = {CHECKPOINT: float(items.mean()), PERCENT: int(100 * self._fraction) + 1}
            super(WatchedBench, self).report(self._phase, self._fraction, self._samples_seen, at)
            return items

        return score
