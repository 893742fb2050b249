"""What a decoder is given while it learns (:class:`cnd.protocols.Lab`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnd.protocols import Bench, Generator, Given
from cnd.steps import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from cnd.protocols import FmriSplit, SamplingConfig, TrainingSet


class Laboratory:
    """The steps of one fold within reach of its decoder.

    Args:
        classes: step that gives the generator's classes of items; None for a decoder that declares no use of them.
    """

    def __init__(self, bench: Bench, given: Given, classes: Step | None) -> None:
        self.bench, self.given, self._classes = bench, given, classes

    @property
    def seed(self) -> int:
        return self.given.seed

    @property
    def sampling(self) -> SamplingConfig:
        return self.given.sampling

    @property
    def device(self) -> Any:
        return self.bench.device

    @property
    def generator(self) -> Generator:
        return self.bench.generator(self.given.generator)

    @property
    def classes(self) -> np.ndarray:
        training: TrainingSet = self.bench.value(self.given.training)
        return self.classes_of(training.items)

    def classes_of(self, items: FmriSplit) -> np.ndarray:
        """The generator's class of each item, int64 [n].

        Raises:
            RuntimeError: the decoder has not declared that it uses labels.
        """
        if self._classes is None:
            raise RuntimeError("this decoder asks for classes: set its class variable uses_labels to True")
        find: Callable[[FmriSplit], np.ndarray] = self.bench.value(self._classes)
        return find(items)

    def value(self, step: Step) -> Any:
        return self.bench.value(step)

    def report(self, phase: str, fraction: float, samples_seen: int, metrics: dict[str, float]) -> None:
        self.bench.report(phase, fraction, samples_seen, metrics)
