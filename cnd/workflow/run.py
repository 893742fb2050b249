"""A run: from an experiment to its record, doing what the cache lacks.

A step is a pure function of its settings, its inputs and its seed, and is kept under the hash of those and of its code
(:mod:`cnd.steps`). Rows that share a step compute it once; a run that was killed goes on where it was. A sweep calls
``missing``, ``steps``, ``examine``, ``check``, ``warm_up``, ``prepare``, ``run`` or ``run_together``, ``intervene``
and ``analyse``. Importing this loads no torch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnd.errors import UserError
from cnd.experiment import Experiment, override, parse_experiment
from cnd.generators.shared import Meeting, Seat
from cnd.json_files import read_json
from cnd.protocols import Classes, FmriDataset, Generator, GeneratorChoice
from cnd.steps import upstream
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import DESCRIPTION, StageCache
from cnd.workflow.choices import check_choices
from cnd.workflow.examine import examine
from cnd.workflow.lab import Laboratory
from cnd.workflow.plan import (
    FoldSteps,
    all_folds,
    analysis_step,
    can_be_analysed,
    figures_step,
    findings_step,
    has_interventions,
    interventions_step,
    missing,
    record_step,
    recorded_keys,
    steps,
)
from cnd.workflow.progress import Clock, Listener, Progress, ignore
from cnd.workflow.sharing import SharingBench
from cnd.workflow.splitting import SplitBench
from cnd.workflow.watched import WatchedBench

__all__ = [
    "Progress",
    "analyse",
    "analyse_record",
    "check",
    "examine",
    "export_record",
    "intervene",
    "intervene_record",
    "missing",
    "prepare",
    "run",
    "run_together",
    "steps",
    "together",
    "warm_up",
]


def check(experiment: Experiment) -> None:
    """Look at the experiment's files before anything runs.

    Raises:
        UserError: a data file or a checkpoint is missing or malformed, or metrics choose among more than there is.
    """
    e = experiment
    generator = [e.generator] if e.decoder.uses_generator else []
    for part in (e.data, *generator, e.decoder, *e.evaluation.classifiers):
        part.check()
    check_choices(e, e.data.classes() if e.evaluation.own_classes else None, None)


def warm_up() -> None:
    """Import what a trial needs; takes seconds, so a worker does it while another one prepares."""
    import cnd.decoders.cnd.phase1.training
    import cnd.decoders.cnd.phase2.training
    import cnd.generators.latent_diffusion
    import cnd.workflow.record  # noqa: F401


def prepare(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> None:
    """Build the steps that all rows share: data, latents, assigned classes. Uses every core of the calling process."""
    bench = Workbench(cache, listener)
    for fold in all_folds(experiment):
        learns = experiment.decoder.uses_generator and experiment.decoder.learns
        for wanted in (fold.given.latents if learns else fold.given.data, fold.given.assigned):
            for step in upstream(wanted) if wanted is not None else ():  # edited data, as by random_input, are not kept
                if cache.find(step.name, step.key) is None:
                    bench.folder(step)


def run(
    experiment: Experiment,
    cache: StageCache,
    listener: Listener = ignore,
    micro_batches: int | Mapping[str, int] = 1,
) -> Path:
    """Do what is missing of one experiment and return its record folder.

    Args:
        micro_batches: in how many parts batches are, where memory is short, of all steps or by their names; results are
            the same but for rounding.

    Raises:
        UserError: bad data file.
        FloatingPointError: a loss is not finite; names quantity and step.
    """
    n_folds = len(list(experiment.data.folds()))
    clock = Clock(experiment.decoder.shares, n_folds)
    if micro_batches != 1:
        return run_on(SplitBench(cache, listener, clock, micro_batches), experiment)
    return run_on(WatchedBench(cache, listener, clock), experiment)


def run_on(bench: Workbench, experiment: Experiment) -> Path:
    """The same on a given workbench."""
    folds = all_folds(experiment)
    _refuse(bench, experiment, folds)
    for index, fold in enumerate(folds):
        bench.clock.done = index
        if bench.cache.find("sample", fold.sample.key) is None:
            bench.folder(fold.sample)
    bench.clock.done = len(folds)
    for step in steps(experiment):  # of what was found damaged, all that a reader of the record may ask for
        if bench.cache.was_set_aside(step.name, step.key):
            bench.folder(step)
    record = bench.folder(record_step(experiment, folds))
    bench.listener(Progress("done", 1.0, metrics=read_json(record / "summary.json")["scores"]))
    return record


def _refuse(bench: Workbench, experiment: Experiment, folds: list[FoldSteps]) -> None:
    """Data too large to be looked at in a plan are looked at before anything is trained.

    Raises:
        UserError: metrics choose among more than there is.
    """
    if bench.cache.find("record", record_step(experiment, folds).key) is None:
        looked = [findings_step(experiment.data, fold.index, experiment.split.validation) for fold in folds]
        found, classes = [bench.value(step) for step in looked], experiment.data.classes()
        if classes is None and experiment.evaluation.own_classes:
            dataset: FmriDataset = bench.value(folds[0].given.data)
            classes = Classes(list(dataset.class_names), list(dataset.wnid), True)
        check_choices(experiment, classes, found)


def together(experiment: Experiment) -> Any | None:
    """What experiments must have in common to run together; None: this one runs alone."""
    common = experiment.decoder.fused_with() if experiment.decoder.uses_generator else None
    return None if common is None else (experiment.generator, common)


def run_together(
    experiments: Mapping[str, Experiment], cache: StageCache, own: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[tuple[str, Progress | Path | Exception]]:
    """Do what is missing of several experiments, their rows side by side in one frozen generator.

    Args:
        own: names and keys of steps that only one experiment has, here and wherever else the cache is used now.

    Yields:
        name of an experiment with its progress, and last with its record folder or what went wrong; an error of one
        stops no other. Results are those of :func:`run` but for rounding.
    """
    told: queue.SimpleQueue[tuple[str, Progress | Path | Exception]] = queue.SimpleQueue()
    meeting, loaded = Meeting(present=len(experiments)), dict[GeneratorChoice, Generator]()

    def work(name: str, experiment: Experiment, number: int) -> None:
        with meeting.attend():
            try:
                clock = Clock(experiment.decoder.shares, len(list(experiment.data.folds())))
                listener: Listener = lambda progress: told.put((name, progress))  # noqa: E731
                bench = SharingBench(cache, listener, clock, Seat(meeting, number), loaded, own)
                told.put((name, run_on(bench, experiment)))
            except Exception as error:
                told.put((name, error))

    for number, (name, experiment) in enumerate(experiments.items()):
        threading.Thread(target=work, args=(name, experiment, number), name=name, daemon=True).start()
    running = len(experiments)
    while running:
        name, event = told.get()
        running -= not isinstance(event, Progress)
        yield name, event


def intervene(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> Path:
    """Scores of an experiment's decoder with parts of it replaced: their folder; runs what is missing."""
    bench = Workbench(cache, listener, Clock({"interventions": 1.0}, 1))
    return bench.folder(interventions_step(experiment, all_folds(experiment)))


def analyse(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> tuple[Path, Path]:
    """The linear decoding analysis of an experiment: folders of its tables and of its figures; runs what is missing.

    Raises:
        UserError: a layer that the generator does not have.
    """
    folds = all_folds(experiment)
    bench = Workbench(cache, listener, Clock({"analysis": 1.0}, 1))
    analysed = analysis_step(experiment, folds)
    return bench.folder(analysed), bench.folder(figures_step(experiment, analysed))


# ---------------------------------------------------------------- finished runs


def analyse_record(
    record: Path, cache: StageCache, edits: dict[str, Any] | None = None, listener: Listener = ignore
) -> tuple[Path, Path]:
    """The same for a finished run, from the weights it left: nothing is trained, whatever the code is today.

    Args:
        record: its record folder.
        edits: settings to change, e.g. ``{"analysis.n_components": 50}``.

    Raises:
        UserError: the run's results are gone, or it has nothing to analyse.
    """
    experiment = read_experiment(record)
    if not can_be_analysed(experiment):
        kind = experiment.decoder.kind
        raise UserError(
            f"{record}: decoder '{kind}' has no condition of a UNet to analyse; choose a run of CnD or ridge"
        )
    experiment = override(experiment, edits or {}, "--set")
    folds = all_folds(experiment)
    bench = _reopened(record, cache, folds, "analysis", listener)
    analysed = analysis_step(experiment, folds)
    return bench.folder(analysed), bench.folder(figures_step(experiment, analysed))


def intervene_record(record: Path, cache: StageCache, listener: Listener = ignore) -> Path:
    """As :func:`intervene`, for a finished run, from the weights it left.

    Raises:
        UserError: the run's results are gone, or its decoder has no parts that can be replaced.
    """
    experiment = read_experiment(record)
    if not has_interventions(experiment):
        kind = experiment.decoder.kind
        raise UserError(f"{record}: decoder '{kind}' names no parts that can be replaced; choose a run of CnD")
    folds = all_folds(experiment)
    return _reopened(record, cache, folds, "interventions", listener).folder(interventions_step(experiment, folds))


def _reopened(record: Path, cache: StageCache, folds: list[FoldSteps], phase: str, listener: Listener) -> Workbench:
    """A bench on which a finished run's results stand for today's; its trainings are not made anew.

    Raises:
        UserError: a training's result is gone, which is told before anything is computed.
    """
    own = frozenset(name for fold in folds for name in fold.own)
    bench = Workbench(cache, listener, Clock({phase: 1.0}, 1), recorded_keys(cache, record, folds), own)
    for step in (step for fold in folds for step in fold.own.values()):
        bench.folder(step)
    return bench


def export_record(record: Path, cache: StageCache, fold: int, output: Path) -> Path:
    """Write the decoder that a finished run trained on one fold as a diffusers pipeline.

    Raises:
        UserError: no such fold; its results are gone; the generator is not the one it was trained with; it has no such
            form; or ``output`` is in use or cannot be written.
    """
    experiment = read_experiment(record)
    folds = {f.index: f for f in all_folds(experiment)}
    if fold not in folds:
        raise UserError(f"--fold {fold}: the run has the folds {', '.join(map(str, folds))}")
    chosen = folds[fold]
    known = recorded_keys(cache, record, [chosen])
    _same_generator(experiment, cache, known[chosen.sample.name, chosen.sample.key])
    bench = Workbench(cache, recorded=known, fixed=frozenset(["data", *chosen.own]))
    lab = Laboratory(bench, chosen.given, chosen.given.classes, chosen.given.generator)
    dataset: FmriDataset = bench.value(chosen.given.data)
    n_voxels = dataset.train.fmri.shape[1]
    experiment.decoder.export(lab, n_voxels, experiment.model_dump(mode="json"), output)
    if dataset.normalisation is not None:
        from cnd.generators.pipeline import write_normalisation

        write_normalisation(dataset.normalisation, output)
    return output


def _same_generator(experiment: Experiment, cache: StageCache, sample: str) -> None:
    folder = cache.find("sample", sample)
    if folder is None:
        raise UserError(f"{cache.path('sample', sample)}: the result of an earlier step is gone; run the sweep again")
    used = read_json(folder / DESCRIPTION)["settings"].get("generator")
    if used is not None and used != experiment.generator.identity():
        raise UserError(
            f"{experiment.generator.folder()}: its files are not those that '{experiment.name}' was trained with; put "
            "those back, or run its sweep again"
        )


def read_experiment(record: Path) -> Experiment:
    """The resolved settings of a finished run.

    Raises:
        UserError: the record was written by a version whose settings mean nothing to this one.
    """
    return parse_experiment(read_json(record / "experiment.json"), str(record / "experiment.json"))
