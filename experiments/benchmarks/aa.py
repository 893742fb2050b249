"""How often a method differs from itself retrained, by both rules of comparison.

    python experiments/benchmarks/aa.py OUTPUT [SWEEP] [--row ID]

Reads the finished trials of ``sweeps/aa.yaml`` (SWEEP, default: aa-simulated, below OUTPUT/sweeps), or those of one
row of another sweep over many seeds, such as ``ablation_table1-simulated --row 10``. The retrainings are dealt to two
groups of two, then of three, in all ways that give other comparisons: the first of one group is paired with the first
of the other. Printed is the share of these comparisons that differ at p <= .05 (1) as if items were the only source of
chance, seeds being averaged, and (2) with seeds and items crossed. Deals share retrainings: the shares are those of one
drawing of twelve, and scatter more than as many independent comparisons would.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is installed has only cnd

from cnd import statistics
from cnd.errors import UserError
from reports.collect import Records, read_sweep

ALPHA = 0.05
FLIPS = 2_000  # of signs: the p-values need no more digits here
Deal = tuple[tuple[int, ...], tuple[int, ...]]


def deals(n: int, size: int) -> Iterator[Deal]:
    """All ways to pair ``size`` of n retrainings with as many others, each once.

    The order of the pairs does not matter, and neither does which group is called the first.
    """
    for chosen in combinations(range(n), 2 * size):
        for first in combinations(chosen[1:], size - 1):
            group = (chosen[0], *first)
            others = [i for i in chosen if i not in group]
            for second in permutations(others):
                yield group, second


def drawn(n: int, size: int, most: int) -> list[Deal]:
    """The deals, or so many of them, evenly drawn, where there are more."""
    every = list(deals(n, size))
    if len(every) <= most:
        return every
    chosen = np.random.default_rng(0).choice(len(every), most, replace=False)
    return [every[i] for i in sorted(chosen)]


def differing(scores: np.ndarray, units: np.ndarray, chosen: list[Deal]) -> tuple[float, float]:
    """Shares of comparisons that differ, by items alone and with seeds crossed.

    Args:
        scores: [n_items, n_retrainings].
        units: [n_items] label of each item's independent unit.
    """
    alone, crossed = 0, 0
    for first, second in chosen:
        one, other = scores[:, list(first)], scores[:, list(second)]
        alone += statistics.paired_difference(one, other, units, n_flips=FLIPS).p_value <= ALPHA
        crossed += (statistics.crossed_mean(one - other, units).p_value or 0.0) <= ALPHA
    return alone / len(chosen), crossed / len(chosen)


def retrainings(records: Records, row: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every finished trial, [n_items, n_retrainings], by the experiments' seeds, and the items' units.

    Raises:
        UserError: there are several subjects, or too few trials.
    """
    trials = [t for t in records.complete if row is None or t.row == row]
    subjects = {t.subject or "" for t in trials}
    if len(subjects) > 1:
        raise UserError("several subjects: an A/A comparison is made on one")
    if len(trials) < 4:
        raise UserError(
            f"{len(trials)} finished retrainings: four are needed to compare two with two (is --row right?)"
        )
    trials.sort(key=lambda t: int(t.experiment["seed"]))
    wide = records.per_item[records.metric].unstack("item").dropna(axis=1)
    scores = wide.loc[[(t.row, t.subject or "", t.seed) for t in trials]].to_numpy().T
    category = records.per_item["category"].groupby("item").first()[wide.columns]
    return scores, statistics.sampling_units(category.to_numpy(), wide.columns.to_numpy())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the --output folder of the sweep")
    parser.add_argument("sweep", nargs="?", default="aa-simulated", help="its folder below OUTPUT/sweeps")
    parser.add_argument("--row", help="one row, of a sweep whose rows are different methods")
    parser.add_argument("--most", type=int, default=3_000, help="comparisons of each size (default: 3,000)")
    args = parser.parse_args(arguments)
    try:
        records = read_sweep(args.output, args.output / "sweeps" / args.sweep)
        scores, units = retrainings(records, args.row)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    means = ", ".join(records.scale.number(mean) for mean in scores.mean(axis=0))
    simulated = " (simulated)" if any(t.summary.get("simulated") for t in records.complete) else ""
    print(f"{scores.shape[1]} retrainings{simulated}, {records.scale.axis}: {means}")
    print(f"comparisons of the method with itself that differ at p <= {ALPHA:g}")
    print(f"{'seeds':>6}{'comparisons':>14}{'items alone, %':>18}{'seeds x items, %':>18}")
    for size in (2, 3):
        if scores.shape[1] >= 2 * size:
            chosen = drawn(scores.shape[1], size, args.most)
            alone, crossed = differing(scores, units, chosen)
            print(f"{size:6}{len(chosen):14}{100 * alone:18.1f}{100 * crossed:18.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
