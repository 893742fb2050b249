"""Whether data, generator and judges speak of the same classes, and a map between them where they do not.

An experiment is refused here, before anything runs, where a class index of one would be taken for that of another, or
where a classifier would be asked what it cannot know. Loads no torch.
"""

from __future__ import annotations

from pathlib import Path

from cnd.errors import UserError, nearest
from cnd.experiment import AUTO, Experiment
from cnd.metrics.judges.embedded import EmbeddedClassifier
from cnd.protocols import Classes, JudgeChoice
from cnd.workflow.label_map import HOW, places, read_label_map


def check_classes(e: Experiment, data: Classes | None) -> None:
    """Compare the class spaces of an experiment.

    Args:
        data: its classes; None where they are not known before the data are loaded.

    Raises:
        UserError: they do not go together, or ``label_map`` does not fit them.
    """
    chosen = read_label_map(e.label_map) if isinstance(e.label_map, Path) else None
    if e.label_map == AUTO:
        _check_auto(e, data)
    if chosen is not None and data is not None:
        _check_map(e, data, chosen)
    for judge in e.evaluation.classifiers if e.evaluation.asks_for_classes() else ():
        _check_judge(e, judge)
    if data is not None:
        _check_data(e, data, chosen or {})
        _check_size(e, data)


def _check_size(e: Experiment, data: Classes) -> None:
    """Images that the data source scales to a size must have that of the generator, which encodes and draws them."""
    form, size = e.generator.image_form(), getattr(e.data, "image_size", None)
    if form is not None and size is not None and data.pictured and e.decoder.uses_generator and size != form[1]:
        raise UserError(
            f"data.image_size = {size}: {e.generator.class_space()} has images of {form[1]} x {form[1]} pixels; set "
            f"data.image_size={form[1]}, or choose another generator"
        )


def assigning_judge(e: Experiment) -> JudgeChoice:
    """The classifier that tells which classes are similar (``label_map: auto``): the first of the generator's classes.

    Raises:
        UserError: there is none.
    """
    ours = e.generator.class_space()
    found = [judge for judge in e.evaluation.classifiers if judge.class_space(e.generator) == ours]
    if not found and not e.generator.brings_judge:
        raise UserError(
            f"label_map = auto: no classifier of {ours} is there to tell what is similar; add one to "
            "evaluation.classifiers, or name the classes in a file"
        )
    return (found or [EmbeddedClassifier()])[0].of(e.generator)


def _check_auto(e: Experiment, data: Classes | None) -> None:
    assigning_judge(e)
    if data is not None and not data.pictured:
        raise UserError(
            "label_map = auto compares training stimuli, and the data have labels only; set label_map to a file"
        )


def _check_map(e: Experiment, data: Classes, chosen: dict[str, str]) -> None:
    known = places(e.generator)
    for name, target in chosen.items():
        if name not in data.names:
            raise UserError(f"{e.label_map}: '{name}' is no class of the data{nearest(name, data.names[:20])}")
        if target not in known:
            hint = nearest(target, e.generator.class_names())
            told = hint if "did you mean" in hint else "; name one, or give its number"
            raise UserError(f"{e.label_map}: '{target}' is no class of the generator{told}")


def _check_judge(e: Experiment, judge: JudgeChoice) -> None:
    theirs, ours = judge.class_space(e.generator), e.generator.class_space()
    if theirs == ours:
        return
    if e.evaluation.truth == "label":
        raise UserError(
            f"evaluation.classifiers: '{judge.label}' knows the classes of {theirs}, and labels count among those of "
            f"{ours}; take a classifier of {ours}, or set evaluation.truth=classifier"
        )
    if e.decoder.uses_generator and e.label_map is None:
        raise UserError(
            f"evaluation.classifiers: '{judge.label}' knows the classes of {theirs}, and the generator those of "
            f"{ours}; take a classifier and a generator of the same classes, or set label_map to {HOW}"
        )


def _check_data(e: Experiment, data: Classes, chosen: dict[str, str]) -> None:
    """Classes that the generator does not have: an ImageNet classifier may tell them by the photograph, no other."""
    generator, evaluation = e.generator, e.evaluation
    known = generator.class_indices(data.names, data.wnids)
    foreign = [name for name, index in zip(data.names, known, strict=True) if index is None]
    unknown = [] if e.label_map == AUTO else [name for name in foreign if name not in chosen]
    judged = evaluation.asks_for_classes() and bool(evaluation.classifiers)
    by_label = judged and evaluation.truth == "label"
    needed = by_label or (e.decoder.uses_generator and (e.decoder.learns_from_labels() or e.decoder.needs_truth))
    same = any(judge.class_space(generator) == generator.class_space() for judge in evaluation.classifiers)
    told = f"data: {len(foreign)} of {len(data.names)} classes, e.g. '{(unknown or foreign or [''])[0]}', are none of "
    told += f"{generator.class_space()}"
    if foreign and judged and same and evaluation.truth == "classifier" and not generator.of_photographs:
        raise UserError(
            f"{told}, whose classifier cannot judge such images; take a generator and a classifier that know them, or "
            f"set label_map to {HOW}, or to auto, and evaluation.truth=label"
        )
    if unknown and needed and not (generator.of_photographs and data.pictured and same):
        raise UserError(
            f"{told}, and the decoder or the score needs them; set label_map to {HOW}, or "
            + ("to auto (by similarity)" if data.pictured else "add images that a classifier can judge")
        )
