"""One frozen generator that several trials use at once: their rows go through its UNet together (``--fuse``).

The UNet has no statistics over a batch, so a row's result does not depend on the rows beside it, but for rounding; a
NaN stays in its rows. Each trial runs its own code in its own thread, such as Phase 2's training loop, and they take
turns: one runs until it asks the generator for something, and when all of them have asked, the UNet runs once for all.
Which rows go together therefore depends on the trials alone, not on timing. A trial that ends or fails leaves the
others; what they still ask for runs without it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnd.protocols import Condition, Generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class SharedRunError(RuntimeError):
    """The joint run of the UNet failed, for instance for want of memory: no fault of the trial that hears of it."""


@dataclass(eq=False)
class Run:
    """One forward pass of the UNet for several trials.

    Attributes:
        condition: context and pooled vectors of all rows, leaves of the graph that ends in ``predicted``.
    """

    predicted: Tensor
    condition: Condition
    n_trials: int


@dataclass(eq=False)
class Asked:
    """What a trial waits for.

    Attributes:
        kind: what must agree for two of them to be done together.
        work: does it for all that agree; puts an answer into each.
        given: tensors; the rows are along their first dimension.
    """

    seat: int
    kind: tuple[Any, ...]
    work: Callable[[list[Asked]], None]
    given: tuple[Any, ...]
    answer: Any = None
    error: Exception | None = None
    done: bool = False


@dataclass
class Meeting:
    """Where trials take turns and meet."""

    turn: threading.Condition = field(default_factory=threading.Condition)
    present: int = 0
    waiting: list[Asked] = field(default_factory=list)

    @contextmanager
    def attend(self) -> Iterator[None]:
        """Take turns with the others inside; :attr:`present` was counted up beforehand, for all of them."""
        with self.turn:
            try:
                yield
            finally:
                self.present -= 1
                self._serve_if_all_wait()

    def ask(self, asked: Asked) -> Any:
        """Wait for the others, then have it done together with what they ask for.

        Raises:
            SharedRunError: the joint run failed.
        """
        self.waiting.append(asked)
        self._serve_if_all_wait()
        self.turn.wait_for(lambda: asked.done)
        if asked.error is not None:
            raise SharedRunError(f"{type(asked.error).__name__}: {asked.error}") from asked.error
        return asked.answer

    def _serve_if_all_wait(self) -> None:
        if not self.waiting or len(self.waiting) < self.present:
            return
        groups: dict[tuple[Any, ...], list[Asked]] = {}
        for asked in sorted(self.waiting, key=lambda asked: asked.seat):
            groups.setdefault(asked.kind, []).append(asked)
        self.waiting = []
        for group in groups.values():
            try:
                group[0].work(group)
            except Exception as error:
                for asked in group:
                    asked.error = error
            for asked in group:
                asked.done = True
        self.turn.notify_all()


class Seat:
    """A trial's place at a meeting, and its generator there.

    Attributes:
        meets: whether it waits for the others; else the generator works for it alone, as if it were not shared.
        most_together: trials that a run of the UNet was for, at most.
    """

    def __init__(self, meeting: Meeting, number: int) -> None:
        self.meeting, self.number = meeting, number
        self.meets, self.most_together = True, 1
        self._open: list[tuple[Tensor, Condition, Run, slice]] = []

    def share(self, generator: Generator) -> Generator:
        """The generator as this trial sees it: all of it is shared, and works for it in its turn."""
        twin: Any = copy.copy(generator)
        twin.predict_noise = lambda *given: self.predict_noise(generator, *given)
        twin.backward = self.backward
        shared: Generator = twin
        return shared

    def predict_noise(self, generator: Generator, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """As the generator's, with the rows of the others."""
        import torch

        if not self.meets:
            return generator.predict_noise(noisy, timesteps, condition)
        if any(predicted.grad is not None for predicted, *_ in self._open):
            raise RuntimeError("a loss of predicted noise went back by itself; call generator.backward(loss)")
        learns = torch.is_grad_enabled() and (condition.context.requires_grad or condition.pooled.requires_grad)
        device = noisy.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        given = (noisy, timesteps, *condition)
        kind = ("forward", id(generator), learns, precision, *((part.shape[1:], part.dtype) for part in given))

        def work(group: list[Asked]) -> None:
            forward(generator, learns, precision, group)

        predicted, run, rows = self.meeting.ask(Asked(self.number, kind, work, given))
        self.most_together = max(self.most_together, run.n_trials)
        if learns:
            self._open.append((predicted, condition, run, rows))
        result: Tensor = predicted
        return result

    def backward(self, loss: Tensor) -> None:
        """As ``loss.backward()``: to what the UNet gave, with the others through it, and on from the condition."""
        import torch

        opened, self._open = self._open, []
        torch.autograd.backward(loss, retain_graph=bool(opened))  # it may depend on the condition by another way, too
        for predicted, condition, run, rows in opened:
            asked = Asked(self.number, ("backward", id(run)), backward, (run, rows, predicted.grad))
            gradients = self.meeting.ask(asked)
            pairs = [(part, g) for part, g in zip(condition, gradients, strict=True) if part.requires_grad]
            pairs = [(part, g) for part, g in pairs if g is not None]
            torch.autograd.backward([part for part, _ in pairs], [g for _, g in pairs])


def forward(generator: Generator, learns: bool, precision: torch.dtype | None, group: list[Asked]) -> None:
    """The UNet on the rows of all; each gets its own, the run and where its rows are in it."""
    import torch

    noisy, timesteps, context, pooled = (torch.cat(parts) for parts in zip(*(a.given for a in group), strict=True))
    if learns:
        context, pooled = (part.detach().requires_grad_() for part in (context, pooled))
    cast = torch.autocast(noisy.device.type, precision, enabled=precision is not None)
    with torch.set_grad_enabled(learns), cast:
        condition = Condition(context, pooled)
        run = Run(generator.predict_noise(noisy, timesteps, condition), condition, len(group))
    start = 0
    for asked in group:
        rows = slice(start, start := start + len(asked.given[0]))
        asked.answer = run.predicted[rows].detach().requires_grad_(learns), run, rows


def backward(group: list[Asked]) -> None:
    """The gradient of all losses with respect to the conditions; the rows of a trial that left have none."""
    import torch

    run: Run = group[0].given[0]
    gradient = torch.zeros_like(run.predicted)
    for asked in group:
        _, rows, own = asked.given
        if own is not None:
            gradient[rows] = own
    found = torch.autograd.grad(run.predicted, list(run.condition), gradient, allow_unused=True)
    for asked in group:
        asked.answer = [None if part is None else part[asked.given[1]] for part in found]
