"""Which steps a run consists of. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnd import registry
from cnd.cortex.drawing import PAGE
from cnd.data.splits import data_as_used, training_step
from cnd.errors import UserError
from cnd.experiment import AUTO, Experiment
from cnd.json_files import read_json
from cnd.protocols import DataSource, GeneratorChoice, Given, JudgeChoice
from cnd.settings import FileOf
from cnd.steps import FORMAT, Step, upstream
from cnd.workflow.analysis import analyse_run
from cnd.workflow.assigned import load_assigned, make_assigned
from cnd.workflow.cache import DESCRIPTION, StageCache
from cnd.workflow.class_spaces import assigning_judge
from cnd.workflow.classes import find_classes, find_own_classes
from cnd.workflow.drawn import load_drawn, make_drawn
from cnd.workflow.figures import draw_figures
from cnd.workflow.findings import load_findings, make_findings
from cnd.workflow.held_out import load_held_out, make_held_out
from cnd.workflow.inputs import StoredImagesOf, load_data, make_data, store_images, stored_images
from cnd.workflow.interventions import intervene
from cnd.workflow.latents import load_latents, make_latents
from cnd.workflow.record import write_record
from cnd.workflow.samples import reconstruct
from cnd.workflow.scoring import test_scorer, validation_scorer


@dataclass(frozen=True)
class FoldSteps:
    """The steps of one train / test partition.

    Attributes:
        own: the decoder's, by name.
    """

    index: int
    given: Given
    own: dict[str, Step]
    sample: Step


def fold_steps(experiment: Experiment, index: int) -> FoldSteps:
    """Steps of one fold."""
    e, given = experiment, given_of(experiment, experiment.data, index)
    own = e.decoder.steps(given)
    settings: dict[str, Any] = {"decoder": e.decoder, "sampling": e.sampling, "seed": e.seed}
    if e.decoder.uses_generator:
        settings["generator"] = e.generator
    needs: dict[str, Step | None] = {"data": given.data, "training": given.training}
    if e.decoder.learns_from_labels() or e.decoder.needs_truth:
        needs["classes"] = given.classes
    # a decoder with steps of its own says there what it needs; any other may use what all rows share
    shared: dict[str, Step | None] = {"pools": given.pools}
    if e.decoder.uses_generator:
        shared["latents"] = given.latents
    needs |= {**own} or shared
    return FoldSteps(index, given, own, Step("sample", partial(reconstruct, given=given), settings, needs))


def given_of(e: Experiment, source: DataSource, index: int) -> Given:
    """What the decoder's own steps start from, for one subject."""
    raw = data_step(source, index, e.split.validation)
    data = data_as_used(e.split, raw, e.seed)
    judges = _judges(e)
    mapped = {"label_map": FileOf(path=e.label_map)} if isinstance(e.label_map, Path) else {}
    told = [j for j, of in zip(judges, e.evaluation.classifiers, strict=True) if _same_classes(e.generator, of)]
    finding = {"generator": e.generator, "judge": told[0] if told else None, "label_map": mapped.get("label_map")}
    assigned = _assigned(e, raw)
    by_similarity = {} if assigned is None else {"assigned": assigned}
    classes = Step("classes", find_classes, finding, {"data": data} | by_similarity, kept=False)
    training = training_step(e.split, data, e.seed)
    first = e.evaluation.first()  # what only stands beside the table's score makes no decoder train again
    scoring = {"evaluation": first, "judges": judges[: len(first.classifiers)]}
    scored: dict[str, Step | None] = {"data": data, "classes": classes if _judged_by_label(e) else None}
    own = None
    if e.evaluation.own_classes:
        naming = {"generator": e.generator, "label_map": mapped.get("label_map")}
        own = Step("own_classes", find_own_classes, naming, {"data": data} | by_similarity, kept=False)
        scored |= {"own": own} if first.own_classes else {}
    # classes that are assigned belong to a fold, whose training stimuli decide them
    fold0 = raw if assigned else data_step(source, source.folds()[0], e.split.validation)
    occurring = Step("classes", find_classes, finding, {"data": fold0} | by_similarity, kept=False)
    drawing = {"generator": e.generator, "sampling": e.sampling}
    return Given(
        data=data,
        training=training,
        classes=classes,
        latents=Step("latents", make_latents, {"generator": e.generator} | mapped, {"data": raw}, load_latents),
        pools=source.pools(raw),
        generator=e.generator,
        sampling=e.sampling,
        test_score=Step("test_score", test_scorer, scoring, scored, kept=False),
        validation_score=Step(
            "validation_score", validation_scorer, scoring, {**scored, "training": training}, kept=False
        ),
        seed=e.seed,
        drawn=lambda n: Step(
            "drawn", make_drawn, drawing | {"n": n}, {"data": fold0, "classes": occurring}, load_drawn
        ),
        of_subject=lambda subject: given_of(e, source.of_subject(subject), index),
        own_classes=own,
        assigned=assigned,
    )


def _assigned(e: Experiment, data: Step) -> Step | None:
    """The step that assigns classes by similarity, where the experiment wants that.

    Raises:
        UserError: there is no classifier of the generator's classes.
    """
    if e.label_map != AUTO:
        return None
    settings = {"generator": e.generator, "judge": assigning_judge(e)}
    return Step("label_map", make_assigned, settings, {"data": data}, load_assigned)


def data_step(source: DataSource, index: int, validation: float | None = None) -> Step:
    """One fold of a data source as it is, before the experiment edits it.

    Args:
        validation: share of what is trained on that stands in place of the test set; None: the test set stays.
    """
    images = None
    if source.stores_images:
        settings = {"images": StoredImagesOf(source=source)}
        images = Step("images", store_images, settings, load=stored_images)
    chosen: dict[str, Any] = {"source": source, "fold": index}
    if validation is not None:
        return Step("data", make_held_out, chosen | {"share": validation}, {"images": images}, load_held_out)
    return Step("data", make_data, chosen, {"images": images}, load_data)


def findings_step(source: DataSource, index: int, validation: float | None = None) -> Step:
    """What is to be known of one fold of a data source; arguments as of :func:`data_step`."""
    data = data_step(source, index, validation)
    return Step("findings", make_findings, needs={"data": data}, load=load_findings)


def _judges(e: Experiment) -> tuple[JudgeChoice, ...]:
    return tuple(judge.of(e.generator) for judge in e.evaluation.classifiers)


def _same_classes(generator: GeneratorChoice, judge: JudgeChoice) -> bool:
    return judge.class_space(generator) == generator.class_space()


def _judged_by_label(e: Experiment) -> bool:
    return e.evaluation.truth == "label" and bool(e.evaluation.classifiers)


def _own_classes(fold: FoldSteps) -> dict[str, Step]:
    """A need of what is scored, where a score asks for the classes of the data set."""
    own = fold.given.own_classes
    return {} if own is None else {f"own{fold.index}": own}


def all_folds(experiment: Experiment) -> list[FoldSteps]:
    """The steps of each fold."""
    return [fold_steps(experiment, index) for index in experiment.data.folds()]


def record_step(experiment: Experiment, folds: list[FoldSteps]) -> Step:
    """The last step: scores, histories and images of all folds."""
    e = experiment
    needs: dict[str, Step | None] = {}
    for fold in folds:
        needs |= {f"sample{fold.index}": fold.sample, f"data{fold.index}": fold.given.data}
        needs[f"findings{fold.index}"] = findings_step(e.data, fold.index, e.split.validation)
        if _judged_by_label(e):
            needs[f"classes{fold.index}"] = fold.given.classes
        needs |= _own_classes(fold)
        needs |= {} if fold.given.assigned is None else {f"assigned{fold.index}": fold.given.assigned}
    settings = {"evaluation": e.evaluation, "judges": _judges(e)}
    make = partial(write_record, experiment=e, trained=[fold.own for fold in folds])
    return Step("record", make, settings, needs)


def analysis_step(experiment: Experiment, folds: list[FoldSteps]) -> Step:
    """The linear decoding analysis of a run (sec. 3.4); not every run has one."""
    e = experiment
    settings = {"analysis": e.analysis, "sampling": e.sampling, "seed": e.seed}
    needs: dict[str, Step | None] = {}
    for fold in folds:
        needs |= {f"sample{fold.index}": fold.sample, f"classes{fold.index}": fold.given.classes}
    return Step("analysis", partial(analyse_run, decoder=e.decoder, folds=folds), settings, needs)


def interventions_step(experiment: Experiment, folds: list[FoldSteps]) -> Step:
    """Scores of a run's decoder with parts of it replaced; not every decoder has such parts."""
    e = experiment
    settings = {"interventions": registry.load(str(e.decoder.interventions))(), "evaluation": e.evaluation}
    settings |= {"judges": _judges(e), "sampling": e.sampling, "seed": e.seed}
    needs: dict[str, Step | None] = {}
    for fold in folds:
        needs |= {f"sample{fold.index}": fold.sample, f"classes{fold.index}": fold.given.classes}
        needs |= _own_classes(fold)
    return Step("interventions", partial(intervene, decoder=e.decoder, folds=folds), settings, needs)


def figures_step(experiment: Experiment, analysed: Step) -> Step:
    """The pictures of an analysis."""
    title = f"{experiment.name}, seed {experiment.seed}"
    make = partial(draw_figures, title=title)
    return Step("figures", make, {"page": FileOf(path=PAGE)}, {"analysis": analysed})


def steps(experiment: Experiment, analyse: bool = False, intervene: bool = False) -> list[Step]:
    """Every kept step of a run in order of computation; the last one is the record.

    Args:
        analyse: with the linear decoding analysis and its figures, which stand before the record.
        intervene: with the scores of the decoder with parts of it replaced, which stand there too.
    """
    folds = all_folds(experiment)
    ends = [fold.sample for fold in folds]
    if intervene:
        ends.append(interventions_step(experiment, folds))
    if analyse:
        ends.append(figures_step(experiment, analysis_step(experiment, folds)))
    ends.append(record_step(experiment, folds))
    found = {(step.name, step.key): step for end in ends for step in upstream(end)}
    return list(found.values())


def can_be_analysed(experiment: Experiment) -> bool:
    """Whether what is decoded steers a UNet that has an encoder and a decoder side."""
    return experiment.decoder.has_condition and experiment.generator.has_cross_attention


def has_interventions(experiment: Experiment) -> bool:
    """Whether the decoder names parts that can be replaced."""
    return experiment.decoder.interventions is not None


def missing(experiment: Experiment) -> list[str]:
    """For each file that is not there: what to get, where to get it and where to put it, in one line."""
    e = experiment
    generator = e.generator.missing() if e.decoder.uses_generator else []
    judges = [line for judge in e.evaluation.classifiers for line in judge.missing()]
    data, decoder = e.data.missing(), e.decoder.missing()
    known = not data and not decoder and e.split.validation is None
    if known and (stimuli := e.data.test_stimuli()) is not None:
        decoder = e.decoder.missing_for(stimuli, e.sampling.samples_per_item)
    return [*data, *generator, *judges, *decoder]


# ---------------------------------------------------------------- finished runs


def recorded_keys(cache: StageCache, record: Path, folds: list[FoldSteps]) -> dict[tuple[str, str], str]:
    """Keys of the results that a finished run was made of, whatever the code is today, by (name, today's key).

    Raises:
        UserError: the run was written by a version that kept results differently.
    """
    known: dict[tuple[str, str], str] = {}
    described = read_json(record / DESCRIPTION)
    if described.get("format") != FORMAT:
        raise UserError(f"{record}: written by another version of CnD; use that version, or run the sweep again")
    needs = described["needs"]
    for fold in folds:
        if (sample := needs.get(f"sample{fold.index}")) is not None:
            known |= dict(_pairs(cache, fold.sample, sample))
    return known


def _pairs(cache: StageCache, step: Step, described: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """Today's step and the recorded one, then what both need under the same name."""
    yield (step.name, step.key), described["key"]
    needs = described.get("needs")
    if needs is None:
        path = cache.find(step.name, described["key"])
        needs = read_json(path / DESCRIPTION)["needs"] if path else {}
    for name, need in step.needs.items():
        if need is not None and (other := needs.get(name)) is not None and other["name"] == need.name:
            yield from _pairs(cache, need, other)
