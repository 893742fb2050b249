"""Which sources of chance vary with the training seed, which stay, and what that means for the intervals."""

from __future__ import annotations

from reports import looks
from reports.collect import Records
from reports.provenance import trained


def notes(records: Records) -> list[str]:
    """Sentences for the statistics of a report; tests/test_seed_sources.py shows that the code keeps the first."""
    own = []
    if trained(records):
        own = [
            "With the training seed vary: initial weights, order and drawing of training items, masks, noise and "
            "time-steps of the training loss, the items held out for validation, and the noise that sampling starts "
            "from. A fit in closed form has none of these but the last. Fixed for all seeds and rows are the test "
            "items and their folds, the noise that validation losses are measured with, the patterns that only "
            "measure Phase 1's curve, and the folds that choose a penalty.",
            _of_noise(len(records.seeds) > 1),
        ]
    corrected = looks.note(records.sweep)
    return [*own, *([corrected] if corrected else [])]


def _of_noise(several: bool) -> str:
    return (
        "The starting noise of sampling depends on the experiment's seed, the item and the sample, not on the row: at "
        "equal seeds all rows start from the same noise, whose luck then largely cancels in their difference. "
    ) + (
        "It is drawn anew with every seed, so that what does not cancel is in the error as part of the seeds."
        if several
        else "What does not cancel is fixed with the one seed: scores and differences hold for this draw of it."
    )
