"""How people read a metric: accuracies in %, their differences in points; anything else as it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

NOTHING = "–"


@dataclass(frozen=True)
class Scale:
    """Numbers of one metric as text, with a true minus sign.

    Attributes:
        title: of the metric.
        percent: whether it is read in %.
    """

    title: str = "score"
    percent: bool = True

    @property
    def factor(self) -> float:
        """From a score to the number that is printed."""
        return 100.0 if self.percent else 1.0

    @property
    def digits(self) -> int:
        """Behind the decimal point."""
        return 1 if self.percent else 3

    @property
    def axis(self) -> str:
        """Title with unit: ``50-way top-1, %``."""
        return f"{self.title}, %" if self.percent else self.title

    @property
    def difference_axis(self) -> str:
        """What differences are measured in."""
        return "percentage points" if self.percent else self.title

    def number(self, value: float) -> str:
        """``0.105`` to ``10.5`` or ``0.105``; an en dash where there is no number."""
        return f"{self.factor * value:.{self.digits}f}".replace("-", "−") if math.isfinite(value) else NOTHING

    def score(self, value: float) -> str:
        """The same with its unit: ``10.5 %``, ``0.105``."""
        return self.number(value) + (" %" if self.percent else "")

    def signed(self, value: float) -> str:
        """A difference: ``+1.2``; ``0.0`` without a sign."""
        if not math.isfinite(value):
            return NOTHING
        text = f"{self.factor * value:+.{self.digits}f}".replace("-", "−")
        return text[1:] if float(text[1:]) == 0 else text

    def difference(self, value: float, signed: bool = True) -> str:
        """The same with its unit: ``+1.2 points``, ``+0.012``."""
        return (self.signed(value) if signed else self.number(value)) + (" points" if self.percent else "")


PERCENT = Scale()


def titles(settings: Iterable[str]) -> dict[str, str]:
    """What dotted settings are called: ``mask ratio``; ``phase1 lr`` and ``phase2 lr`` where two end alike."""
    listed = list(settings)
    last = Counter(setting.rpartition(".")[2] for setting in listed)
    parts = {setting: setting.split(".") for setting in listed}
    return {s: " ".join(p[-1:] if last[p[-1]] == 1 else p[-2:]).replace("_", " ") for s, p in parts.items()}
