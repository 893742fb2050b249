"""Whether metrics choose among no more than the test items offer, before anything is trained. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from cnd.data.findings import Findings
from cnd.errors import UserError
from cnd.experiment import AUTO, Experiment
from cnd.protocols import Choice, Classes
from cnd.workflow.classes import own_classes


def check_choices(e: Experiment, classes: Classes | None, found: Sequence[Findings] | None) -> None:
    """Ask every metric.

    Args:
        classes: of the data source; None where they are not known before the data are loaded.
        found: of each fold; None before the data were looked at.

    Raises:
        UserError: one needs more stimuli, items or classes.
    """
    names = [name for fold in found for name in fold.stimulus] if found is not None else _names(e)
    choice = Choice(classes=_n_own(e, classes, found))
    if names is not None:
        choice = choice._replace(items=len(names), stimuli=len(set(names)))
    for metric in e.evaluation.all_metrics():
        if (told := metric.too_few(choice)) is not None:
            held = "" if e.split.validation is None else " (training items are held out and scored: split.validation)"
            raise UserError(told + held)


def _names(e: Experiment) -> list[str] | None:
    """Of the test stimuli, where the source knows them beforehand and it is they that are scored."""
    known = None if e.split.validation is not None else e.data.test_stimuli()
    return None if known is None else known.names


def _n_own(e: Experiment, classes: Classes | None, found: Sequence[Findings] | None) -> int | None:
    """How many classes occur in the data; those that are assigned later differ from each other."""
    if classes is None or not e.evaluation.own_classes:
        return None
    if found is not None:
        classes = classes._replace(occurring=sorted({index for fold in found for index in fold.classes}))
    if e.label_map == AUTO:
        return len(classes.occurring or classes.names)
    return len(own_classes(e.generator, classes, e.label_map))
