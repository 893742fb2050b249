"""Decoders: from fMRI to images. A decoder is a settings class with :meth:`Decoder.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from cnd.protocols.data import Patterns, Stimuli, TrainingSet
from cnd.protocols.generator import Condition, Generator, GeneratorChoice, SamplingConfig
from cnd.settings import Config, Part

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.steps import Step

OnProgress = Callable[[float, int, dict[str, float]], None]
"""Progress of one piece of work: fraction done (0..1), samples seen, metrics."""


def no_progress(fraction: float, samples_seen: int, metrics: dict[str, Any]) -> None:
    """The report that goes nowhere."""


@dataclass(frozen=True)
class Noise:
    """Where the chance in reconstructions comes from: common to all rows that share a seed.

    Attributes:
        samples: reconstructions wanted of each item.
    """

    seed: int
    samples: int

    def latents(self, n_items: int, shape: tuple[int, ...]) -> Tensor:
        """Starting noise [n_items, samples, c, h, w].

        It depends on the seed and its shape only: rows that are compared start each sample of each item from the same
        noise, which removes most of the sampling variance from their difference.
        """
        import torch

        rng = torch.Generator().manual_seed(self.seed + 1_000_003)
        return torch.randn((n_items, self.samples, *shape), generator=rng)


class Reconstruction(NamedTuple):
    """What a fitted decoder gives.

    Attributes:
        images: uint8 [item, sample, channels, height, width].
        attention: over the concept bank, float32 [item, concepts], rows sum to one; None where there is none.
        facts: what the report should tell of the decoding, e.g. a chosen penalty; ``parameters``, how many were fitted,
            of a decoder without steps of its own.
    """

    images: np.ndarray
    attention: np.ndarray | None = None
    facts: Mapping[str, Any] = {}


class Fitted(Protocol):
    """A trained decoder."""

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """Images of the items."""
        ...


class Conditioning(Fitted, Protocol):
    """A trained decoder that steers the frozen generator: it can be analysed (sec. 3.4)."""

    generator: Generator  # the frozen one, or the copy that was trained

    def condition(self, items: Patterns) -> Condition:
        """What steers the generator for each item."""
        ...


class Interventions(Config):
    """What can be replaced in a trained decoder without training it again, and what can be measured in it.

    The decoder names the class as ``module:Class`` in :attr:`Decoder.interventions`.
    """

    if_equal: ClassVar[Mapping[str, str]] = {}  # by what was done: a sentence that holds where the score stays the same

    def conditions(self, fitted: Any) -> Mapping[str, Callable[[Patterns], Condition]]:
        """What steers the generator for each item when a part of the decoder is replaced, by what was done.

        Args:
            fitted: what the decoder gave, a :class:`Conditioning`.
        """
        raise NotImplementedError

    def measures(self, fitted: Any, items: Patterns) -> Mapping[str, float]:
        """Numbers that tell how the decoder works on these items, by name."""
        return {}

    def class_scores(self, fitted: Any, items: Patterns) -> np.ndarray | None:
        """How much the decoder attends to each of the generator's classes, float [item, class]; None: to none."""
        return None


class Lab(Protocol):
    """What a decoder may use while it learns. Everything is made when it is first asked for."""

    given: Given

    @property
    def seed(self) -> int: ...
    @property
    def sampling(self) -> SamplingConfig: ...
    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        ...

    @property
    def classes(self) -> np.ndarray:
        """The generator's class of each training item, int64 [n]; for decoders that declare ``uses_labels``."""
        ...

    @property
    def device(self) -> Any: ...
    def value(self, step: Step) -> Any:
        """The result of a step of the decoder's, made if it is missing."""
        ...

    def report(self, phase: str, fraction: float, samples_seen: int, metrics: dict[str, float]) -> None:
        """Tell how far a phase is."""
        ...


class Bench(Protocol):
    """Where a step is made: results of other steps, parts that are loaded once, a place for unfinished work."""

    scratch: Path  # survives a kill, and goes once the step's result is kept

    @property
    def device(self) -> Any: ...
    def value(self, step: Step) -> Any:
        """The result of a step, made if it is missing."""
        ...

    def generator(self, choice: GeneratorChoice) -> Generator: ...
    def judge(self, choice: Any) -> Any: ...
    def report(self, phase: str, fraction: float, samples_seen: int, metrics: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Given:
    """The steps and settings that a decoder's own steps start from.

    Attributes:
        data: gives a :class:`cnd.protocols.FmriDataset`.
        training: gives a :class:`cnd.protocols.TrainingSet`.
        classes: gives a function from items to the generator's class of each, int64 [n].
        latents: gives the latents of the training stimuli, [n, c, h, w].
        drawn: of a number n the step that gives latents which the generator drew of each class that occurs, n a class:
            their classes [k] and the latents [k, n, c, h, w].
        pools: gives the unlabelled patterns, a tuple of float32 [m, voxels]; None where there are none.
        test_score: gives a function from reconstructions of the test items to the table's score, for a decoder that
            chooses by it, and says so among its warnings.
        validation_score: gives a function from reconstructions [item, sample, ...] of training items, and their
            positions in the training set, to the table's score of each item, for the curve of a decoder that leaves
            them out of its training; None where the items have nothing to be scored by.
        of_subject: the same for another subject of the data source.
        own_classes: gives the classes that occur in the data set, int64; None where no score asks for them.
        assigned: gives the generator's class by name of the data's, where that is made by similarity.
    """

    data: Step
    training: Step
    classes: Step
    latents: Step
    pools: Step | None
    generator: GeneratorChoice
    sampling: SamplingConfig
    test_score: Step
    validation_score: Step
    seed: int
    drawn: Callable[[int], Step] = field(repr=False)
    of_subject: Callable[[Any], Given] = field(repr=False)
    own_classes: Step | None = None
    assigned: Step | None = None


class Decoder(Part):
    """Settings of a decoder. A new one must write :meth:`fit`; the declarations say what else concerns others."""

    kind: Any
    learns: ClassVar[bool] = True  # from training items; False: it works where there are none
    in_steps: ClassVar[bool] = True  # trained step by step, so that it may not have converged; False: in closed form
    uses_generator: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False  # of training items; where settings decide, see :meth:`learns_from_labels`
    needs_truth: ClassVar[bool] = False  # of test items: no decoder, a ceiling
    has_condition: ClassVar[bool] = False  # whether what is fitted is a :class:`Conditioning`
    # "module:Class" of its :class:`Interventions`. Named, not imported: an edit of it makes no training anew.
    interventions: ClassVar[str | None] = None
    shares: ClassVar[Mapping[str, float]] = {}  # expected share of a fold's time by phase; the rest is sampling

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Learn from training items.

        Raises:
            UserError: settings or data that do not fit.
            FloatingPointError: a loss is not finite; names quantity and step.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it is fitted")

    def learns_from_labels(self) -> bool:
        """Whether labels of training items enter, with the settings as they are."""
        return self.uses_labels

    def suits(self, generator: GeneratorChoice) -> None:
        """Raises:
        ValueError: the decoder cannot work with such a generator.
        """

    def missing_for(self, items: Stimuli, samples: int) -> list[str]:
        """As :meth:`missing`, where the test items are known beforehand.

        Args:
            samples: reconstructions wanted of each item.
        """
        return []

    def fused_with(self) -> Any | None:
        """What trials must have in common to share the frozen generator (``--fuse``); None: it is not to be shared."""
        return None

    def steps(self, given: Given) -> dict[str, Step]:
        """Trainings that are kept for themselves, by name: rows that share one compute it once, a kill loses none.

        :meth:`fit` asks :meth:`Lab.value` for them. Where there are none, the whole decoder is one step.
        """
        return {}

    def export(self, lab: Lab, n_voxels: int, experiment: dict[str, Any], folder: Path) -> None:
        """Write the trained decoder as a diffusers pipeline.

        Raises:
            UserError: it has no such form, or the folder cannot be written.
        """
        from cnd.errors import UserError

        why = "does not say how it is written" if self.has_condition else "has no condition that gives its images"
        raise UserError(f"decoder.kind = {self.kind}: {why}, so it cannot be exported as a pipeline; choose 'cnd'")
