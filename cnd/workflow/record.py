"""What a finished run leaves for reports: scores, histories, images and a summary, pooled over folds."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.json_files import read_json, write_json
from cnd.metrics.evaluation import EvaluationConfig, best_of_samples, mean_scores, rank_table, score_table, top_concepts
from cnd.protocols import Bench, FmriDataset, JudgeChoice, Pairings
from cnd.steps import Step
from cnd.workflow.assigned import FILE as LABEL_MAP
from cnd.workflow.assigned import Assigned
from cnd.workflow.assigned import told as in_words
from cnd.workflow.findings import told
from cnd.workflow.origin import origin
from cnd.workflow.samples import SAMPLES
from cnd.workflow.scoring import all_own, judge_folds

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd

    from cnd.experiment import Experiment


def write_record(
    bench: Bench,
    folder: Path,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    experiment: Experiment,
    trained: list[dict[str, Step]],
    **needs: Step,
) -> None:
    """Score all folds together and write what reports read.

    ``items.parquet`` has a line for each test item, ``scores.parquet`` one for each item, sample and metric;
    ``history.parquet``, ``images.safetensors`` and, where there is a judge or attention, ``ranks.parquet`` and
    ``attention.parquet`` stand beside them, with ``experiment.json`` and ``summary.json``. Where the first metric has
    them, ``pairings.safetensors`` keeps its :class:`cnd.protocols.Pairings` in single precision.

    Args:
        trained: the decoder's own steps by fold.
        needs: ``sample<fold>``, ``data<fold>``, ``findings<fold>``; where labels are the truth ``classes<fold>``; where
            a score asks for the data set's classes ``own<fold>``; where classes are assigned ``assigned<fold>``.
    """
    import numpy as np
    import torch
    from safetensors.numpy import save_file

    names = [name.removeprefix("sample") for name in needs if name.startswith("sample")]
    samples = [bench.value(needs[f"sample{name}"]) for name in names]
    bench.report("evaluate", 0.0, 0, {})
    tested = [_tested(bench, needs, name) for name in names]
    datasets = [part["dataset"] for part in tested]
    pictures, images = _pictures(datasets, samples)
    items = _items(tested, names)
    labels = None if tested[0]["labels"] is None else np.concatenate([part["labels"] for part in tested])
    own = all_own(bench, [needs.get(f"own{name}") for name in names])
    stimuli, truth = judge_folds(bench, evaluation, judges, datasets, labels, images, own)
    metrics = evaluation.all_metrics()
    scores = score_table(metrics, stimuli, images, truth)
    if truth.judgements:
        table = next(iter(truth.judgements.values()))  # the table's judge
        items["truth"] = table.truth if evaluation.candidates == "judge" else table.own_truth
        rank_table(truth.judgements, evaluation.candidates).to_parquet(folder / "ranks.parquet")
    if (pairings := metrics[0].pairings(stimuli, images, truth)) is not None:
        _pairings(pairings, metrics[0].name, folder)
    items.to_parquet(folder / "items.parquet")
    scores.to_parquet(folder / "scores.parquet")
    stages = _stages(bench, trained, samples)
    _history(stages).to_parquet(folder / "history.parquet")
    _curve(stages, folder)
    _attention(samples, experiment, folder)
    save_file({"stimuli": pictures, "reconstructions": images}, folder / "images.safetensors")
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    warnings, noted = told([part["findings"] for part in tested])
    noted += _assigned(bench, {name: needs[f"assigned{name}"] for name in names if f"assigned{name}" in needs}, folder)
    summary = _summary(experiment, datasets[0], len(items), stages)
    summary |= {
        "scores": mean_scores(scores),
        "best_of_samples": best_of_samples(scores, metrics),
        "remarks": [*summary["remarks"], *noted],
        "warnings": [*experiment.warnings(), *warnings],
        "metrics": [metric.describe(truth) for metric in metrics],
        "classifiers": evaluation.judges,
        "versions": dict(python=platform.python_version(), torch=torch.__version__, machine=platform.machine()),
        "code": origin().described(),
    }
    write_json(folder / "summary.json", summary)


def _assigned(bench: Bench, steps: dict[str, Step], folder: Path) -> list[str]:
    """``label_map.json`` with the classes that were assigned by similarity in each fold, and what to say of them."""
    if not steps:
        return []
    found: dict[str, list[Assigned]] = {fold: bench.value(step) for fold, step in steps.items()}
    lines = [{"fold": int(fold)} | entry._asdict() for fold, entries in found.items() for entry in entries]
    write_json(folder / LABEL_MAP, lines)
    return in_words(list(found.values()))


def _tested(bench: Bench, needs: dict[str, Step], name: str) -> dict[str, Any]:
    """Data set of a fold, what was found of it and, where labels are the truth, the class of each test item."""
    dataset: FmriDataset = bench.value(needs[f"data{name}"])
    part = {"dataset": dataset, "findings": bench.value(needs[f"findings{name}"]), "labels": None}
    if (classes := needs.get(f"classes{name}")) is not None:
        find: Callable[[Any], np.ndarray] = bench.value(classes)
        part["labels"] = find(dataset.test)
    return part


def _pictures(datasets: list[FmriDataset], samples: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Stimuli [item, c, h, w] and reconstructions [item, sample, c, h, w]; white where there are labels only."""
    import numpy as np
    from safetensors.numpy import load_file

    stimuli, drawn = [], []
    for dataset, folder in zip(datasets, samples, strict=True):
        reconstructions = load_file(folder / SAMPLES)["reconstructions"]
        shown = np.asarray(dataset.test.images)
        stimuli.append(shown if shown.size else np.full_like(reconstructions[:, 0], 255))
        drawn.append(reconstructions)
    return np.concatenate(stimuli), np.concatenate(drawn)


def _items(tested: list[dict[str, Any]], folds: list[str]) -> pd.DataFrame:
    """One line a test item: item, fold, stimulus, category, category_name, ``in_training`` (how it is known that the
    stimulus is trained on too: name, pixels, near; "" where it is not), and ``seen`` where the data set knows."""
    import pandas as pd

    parts = []
    for part, fold in zip(tested, folds, strict=True):
        dataset: FmriDataset = part["dataset"]
        test = dataset.test
        names = [dataset.class_names[c] for c in test.category]
        columns = dict(fold=int(fold), stimulus=list(test.stimulus), category=test.category, category_name=names)
        how = {twin.item: twin.how for twin in part["findings"].twins}
        columns["in_training"] = [how.get(i, "") for i in range(len(test))]
        parts.append(pd.DataFrame(columns if test.seen is None else columns | {"seen": test.seen}))
    return pd.concat(parts, ignore_index=True).rename_axis("item").reset_index()


def _pairings(pairings: Pairings, metric: str, folder: Path) -> None:
    """Tensors item, target and scores as in :class:`cnd.protocols.Pairings`; the metric's name in the metadata."""
    import numpy as np
    from safetensors.numpy import save_file

    index = {name: np.ascontiguousarray(getattr(pairings, name), dtype=np.int64) for name in ("item", "target")}
    scores = np.ascontiguousarray(pairings.scores, dtype=np.float32)
    save_file(index | {"scores": scores}, folder / "pairings.safetensors", {"metric": metric})


def _stages(bench: Bench, trained: list[dict[str, Step]], samples: list[Path]) -> list[tuple[int, str, Path]]:
    """Index of the fold, name and folder of each step that left facts; folds may share one."""
    found = []
    for index, (own, sample) in enumerate(zip(trained, samples, strict=True)):
        found += [(index, name, bench.value(step)) for name, step in own.items()]
        found.append((index, "sample", sample))
    return found


def _history(stages: list[tuple[int, str, Path]]) -> pd.DataFrame:
    import pandas as pd

    files = [(index, folder / "history.parquet") for index, _, folder in stages]
    tables = [pd.read_parquet(path).assign(fold=index) for index, path in files if path.exists()]
    empty = pd.DataFrame(columns=["phase", "samples_seen", "name", "value", "fold"])
    return pd.concat(tables, ignore_index=True) if tables else empty


def _curve(stages: list[tuple[int, str, Path]], folder: Path) -> None:
    """``curve.parquet`` with the score of each validation item along the trainings, where a decoder left that."""
    import pandas as pd

    files = [(index, folder / "curve.parquet") for index, _, folder in stages]
    tables = [pd.read_parquet(path).assign(fold=index) for index, path in files if path.exists()]
    if tables:
        pd.concat(tables, ignore_index=True).to_parquet(folder / "curve.parquet")


def _attention(samples: list[Path], experiment: Experiment, folder: Path) -> None:
    """``attention.parquet`` with each item's strongest concepts, where the decoder attends to concepts."""
    import pandas as pd
    from safetensors.numpy import load_file

    found, offset = [], 0
    for sample in samples:
        tensors = load_file(sample / SAMPLES)
        if "attention" in tensors:
            table = top_concepts(tensors["attention"], experiment.generator.class_names())
            found.append(table.assign(item=table["item"] + offset))
        offset += len(tensors["reconstructions"])
    if found:
        pd.concat(found, ignore_index=True).to_parquet(folder / "attention.parquet")


def _summary(e: Experiment, dataset: FmriDataset, n_items: int, stages: list[tuple[int, str, Path]]) -> dict[str, Any]:
    once = {folder: name for _, name, folder in stages}  # folds may share a step
    infos = [{"stage": name} | read_json(folder / "info.json") for folder, name in once.items()]
    counted = next(({k: i[k] for k in ("trainable", "frozen")} for i in infos if "trainable" in i), {})
    fitted = [i["facts"]["parameters"] for i in infos if "parameters" in i.get("facts", {})]
    counted |= {"trainable": fitted[0]} if fitted else {}
    pooled = [i["n_patterns"] for i in infos if i["stage"] == "pretrain"]
    seconds: dict[str, float] = {}
    for info in infos:
        phase = "phase1" if info["stage"] == "pretrain" else info["stage"]
        seconds[phase] = seconds.get(phase, 0.0) + info["seconds"]
        if "seconds_fit" in info:
            seconds["fit"] = seconds.get("fit", 0.0) + info["seconds_fit"]
    return dict(
        n_items=n_items,
        n_samples=e.sampling.samples_per_item,
        parameters=counted,
        seconds=seconds,
        in_steps=e.decoder.in_steps,
        training=_training(infos),
        facts=[i.get("facts", {}) | {k: i[k] for k in ("chosen_step",) if k in i} for i in infos],
        simulated=dataset.simulated,
        remarks=[*remarks(e, dataset, max([i.get("n_left_out", 0) for i in infos])), *_divided(infos)],
        micro_batches={i["stage"]: i["micro_batches"] for i in infos if "micro_batches" in i},
        data=dict(
            description=dataset.description,
            n_voxels=dataset.train.fmri.shape[1],
            n_train=len(dataset.train),
            n_test=n_items,
            n_unlabelled=max([*pooled, sum(map(len, dataset.unlabelled))]),
            **dataset.facts,
        ),
    )


def _divided(infos: list[dict[str, Any]]) -> list[str]:
    """What to say of steps that were short of memory (:mod:`cnd.workflow.splitting`)."""
    parts = dict.fromkeys(f"{i['stage']} in {i['micro_batches']} parts" for i in infos if "micro_batches" in i)
    told = (
        f"Short of memory: batches of {', '.join(parts)}. Effective batch, negatives and random numbers are those of "
        "whole batches, and so are the results but for rounding."
    )
    return [told] * bool(parts)


def _training(infos: list[dict[str, Any]]) -> dict[str, float]:
    """What the trainings in steps took: of the longest fold its steps and samples, and all seconds of scoring."""
    told = [i for i in infos if "steps" in i]
    if not told:
        return {}
    longest = max(told, key=lambda info: info["steps"])
    scoring = sum(info.get("seconds_scoring", 0.0) for info in told)
    return {"steps": longest["steps"], "samples_seen": longest["samples_seen"], "seconds_scoring": scoring}


def remarks(e: Experiment, dataset: FmriDataset, n_left_out: int = 0) -> list[str]:
    """What a reader must know of the data besides its description.

    Args:
        n_left_out: training items that the decoder was not trained on.
    """
    drawn = "Labels without images: latents of training items come from images that the generator drew of each class."
    labels_only = len(dataset.train) > 0 and not dataset.train.images.size
    left_out = (
        f"{n_left_out} of {len(dataset.train)} training items are left out of Phase 2 and scored along it; decoders "
        "without a training in steps learn from all."
    )
    notes = [*([drawn] if labels_only else []), *([left_out] if n_left_out else [])]
    return [*notes, *e.data.notes()]
