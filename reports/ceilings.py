"""Ceilings that lie far under the others. Loads nothing, because the plan asks too."""

from __future__ import annotations

from collections.abc import Mapping

FAR = 0.1  # ten points of an accuracy


def far_under(ceilings: Mapping[str, float]) -> list[str]:
    """A sentence for each ceiling that lies more than ten points under the best one.

    Args:
        ceilings: accuracies from 0 to 1 by label.
    """
    if not ceilings:
        return []
    best = max(ceilings, key=lambda label: ceilings[label])
    return [
        f"Low ceiling: '{label}' reaches {100 * score:.1f} %, {100 * (ceilings[best] - score):.1f} points under "
        f"'{best}'; generator, judge or loss does not know these images well, and no decoder is likely to pass it."
        for label, score in ceilings.items()
        if ceilings[best] - score > FAR
    ]
