"""Does TPE find better settings than chance does? Real trainings, the same budget, several search seeds.

    python experiments/benchmarks/samplers.py --output runs/samplers --picture best_so_far.png

Each search (samplers.yaml, or ``--search FILE``) runs one trial after the other, so that its proposals follow from its
seed; ``--processes`` searches run at once. Both samplers of one seed begin with the same five points, which are trained
once. Prints the best validation score after so many trials and the score of each search's winner on test items,
trained anew with another seed, with 95 % intervals (Student's t) over search seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch: one thread a search

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is installed has only cnd

from cnd.experiment import load_experiment, override
from cnd.json_files import read_json, write_json
from cnd.workflow import run as pipeline
from cnd.workflow.cache import StageCache
from sweeps.search import OptunaSearch, best, higher_is_better, objective_names, validation_scores
from sweeps.space import load_search, validation
from sweeps.storage import journal

HERE = Path(__file__).resolve().parent
SAMPLERS = {"random": {"kind": "random"}, "tpe": {"kind": "tpe", "startup": 5}}


def searched(file: str, experiment: str, sampler: str, seed: int, trials: int, output: Path) -> Path:
    """One search from its start. What is in the cache is not trained again.

    Returns:
        the file of its validation scores, in order, and the winner's test score.
    """
    folder = output / f"{sampler}-{seed}"
    if (folder / "scores.json").is_file() and len(read_json(folder / "scores.json")["validation"]) == trials:
        return folder / "scores.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.jsonl").unlink(missing_ok=True)  # proposals follow from the seed, results lie in the cache
    search = load_search(file)
    search = type(search).model_validate(search.model_dump() | {"sampler": SAMPLERS[sampler], "seed": seed})
    base = override(load_experiment(Path(experiment)), search.set, file)
    cache, held_out = StageCache(output / "cache"), validation(base, file)
    proposer = OptunaSearch(
        search.model_copy(update={"trials": trials}), held_out, pipeline.steps, journal(folder / "study.jsonl")
    )
    scores_of = validation_scores(objective_names(search, held_out))
    values = []
    while (trial := proposer.ask()) is not None:
        pipeline.prepare(trial.experiment, cache, lambda *_: None)
        scores = scores_of(pipeline.run(trial.experiment, cache, lambda *_: None))
        proposer.tell(trial, scores)
        values.append(scores[0])
        print(f"{sampler} {seed}: trial {len(values)} of {trials}, {scores[0]:.3f}", flush=True)
    (winner,) = best(proposer.outcomes(), higher_is_better(search, held_out), 1)
    tested = override(base, winner.settings | {"seed": base.seed + 1}, file)
    pipeline.prepare(tested, cache, lambda *_: None)
    record = pipeline.run(tested, cache, lambda *_: None)
    (name,) = objective_names(search, held_out)
    test = float(read_json(record / "summary.json")["scores"][name])
    write_json(folder / "scores.json", {"validation": values, "test": test, "settings": winner.settings})
    return folder / "scores.json"


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t, in points."""
    found = 100 * np.asarray(values)
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return f"{found.mean():.1f} [{found.mean() - half:.1f}, {found.mean() + half:.1f}]"


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """Best so far by trial: each search thin, the mean thick, its interval shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=100)
    for (name, values), colour in zip(curves.items(), ("tab:gray", "tab:blue"), strict=True):
        at, mean = np.arange(1, values.shape[1] + 1), 100 * values.mean(0)
        half = stats.t.ppf(0.975, len(values) - 1) * 100 * values.std(0, ddof=1) / np.sqrt(len(values))
        axes.plot(at, 100 * values.T, color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(at, mean, color=colour, linewidth=2.2, label=name)
        axes.fill_between(at, mean - half, mean + half, color=colour, alpha=0.15)
    axes.set(xlabel="trials", ylabel="best validation score so far, %", xlim=(1, values.shape[1]), ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", default=str(HERE / "samplers.yaml"))
    parser.add_argument("--experiment", default=str(HERE.parent / "simulated.yaml"))
    parser.add_argument("--seeds", type=int, default=5, help="searches of each sampler")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/samplers"))
    parser.add_argument("--picture", type=Path)
    o = parser.parse_args()
    asked = [(o.search, o.experiment, name, seed, o.trials, o.output) for name in SAMPLERS for seed in range(o.seeds)]
    with ProcessPoolExecutor(o.processes) as pool:
        found = [read_json(path) for path in pool.map(searched, *zip(*asked, strict=True))]
    of = {name: found[i * o.seeds : (i + 1) * o.seeds] for i, name in enumerate(SAMPLERS)}
    curves = {name: np.maximum.accumulate([one["validation"] for one in ones], axis=1) for name, ones in of.items()}
    lines = []
    for n in sorted({*range(4, o.trials, 4), 10, o.trials} & set(range(o.trials + 1))):
        by_name = {name: curve[:, n - 1] for name, curve in curves.items()}
        lines.append([f"best of {n} trials", *by_name.values()])
    lines.append(["its winner on test", *(np.array([one["test"] for one in ones]) for ones in of.values())])
    table = [[label, interval(a), interval(b), interval(b - a)] for label, a, b in lines]
    print(pd.DataFrame(table, columns=["%", *SAMPLERS, "tpe minus random"]).to_string(index=False))
    if o.picture:
        draw(curves, o.picture)


if __name__ == "__main__":
    main()
