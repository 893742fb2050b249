"""What a decoder is given while it learns (:class:`cnd.protocols.Lab`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnd.protocols import Bench, Generator, GeneratorChoice, Given
from cnd.steps import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

    from cnd.protocols import FmriSplit, SamplingConfig, TrainingSet


class Laboratory:
    """The steps of one fold within reach of its decoder.

    Args:
        classes: step that gives the generator's classes of items; None for a decoder that declares no use of them.
        generator: None for a decoder that declares no use of it.
        needs: the steps that entered the key of what is made here; None allows any.
    """

    def __init__(
        self,
        bench: Bench,
        given: Given,
        classes: Step | None,
        generator: GeneratorChoice | None,
        needs: Iterable[Step | None] | None = None,
    ) -> None:
        self.bench, self.given, self._classes, self._generator = bench, given, classes, generator
        self._needs = None if needs is None else {(step.name, step.key) for step in needs if step is not None}

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
        """The frozen generator.

        Raises:
            RuntimeError: the decoder has declared that it uses none.
        """
        if self._generator is None:
            raise RuntimeError("this decoder asks for the generator: set its class variable uses_generator to True")
        return self.bench.generator(self._generator)

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
        """The result of a step.

        Raises:
            RuntimeError: the decoder has not declared it, so a change of it would go unnoticed.
        """
        if self._needs is not None and (step.name, step.key) not in self._needs:
            raise RuntimeError(f"this decoder asks for '{step.name}': only what its steps() names enters its key")
        return self.bench.value(step)

    def report(self, phase: str, fraction: float, samples_seen: int, metrics: dict[str, float]) -> None:
        self.bench.report(phase, fraction, samples_seen, metrics)
