"""What seeds spent only on undecided rows cost and save, by simulation with variance components of `simulated`.

    python experiments/benchmarks/sequential.py [--tables 200] [--rows 3 16]

Tables begin with two seeds a row; rows that stay undecided get one more after each look, up to ``--most``. Compared
are verdicts without a correction for the looks, with alpha spent evenly over them (what ``--seeds auto`` does: p-values
times the number of looks) and in proportion to the degrees of freedom of each; and the same seeds for all rows. False
positives are tables in which one of the rows that equal the reference is called better or worse.
"""

from __future__ import annotations

import argparse

import numpy as np
from inference import DEVIATIONS, MARGIN, N_CATEGORIES

from cnd import statistics

FEWEST = 2
EFFECTS = {"all rows alike": 0.0, "one row 10 points worse": -0.1, "one row 20 points worse": -0.2}


def weights(rule: str, most: int) -> dict[int, float]:
    """What a p-value is multiplied by, by the number of seeds behind it."""
    looks = range(FEWEST, most + 1)
    if rule == "even":
        return dict.fromkeys(looks, float(len(looks)))
    if rule == "by freedom":
        return {n: sum(m - 1 for m in looks) / (n - 1) for n in looks}
    return dict.fromkeys(looks, 1.0)


def verdicts(table: np.ndarray, seeds: list[int], factor: dict[int, float]) -> list[str | None]:
    """Of each row but the first, which is the reference.

    Args:
        table: [row, unit, seed].
        seeds: of each row but the first.
    """
    units = np.arange(table.shape[1])
    found = [
        statistics.crossed_mean(row[:, :n] - table[0][:, :n], units) for row, n in zip(table[1:], seeds, strict=True)
    ]
    own = [factor[n] for n in seeds]
    p = statistics.holm([min(1.0, f * d.p_value) for f, d in zip(own, found, strict=True)])
    equal = statistics.holm(
        [min(1.0, f * statistics.equivalence_p(d, MARGIN)) for f, d in zip(own, found, strict=True)]
    )
    return [statistics.verdict(d, a, b) for d, a, b in zip(found, p, equal, strict=True)]


def play(table: np.ndarray, most: int, factor: dict[int, float], first: int = FEWEST) -> tuple[list[str | None], int]:
    """Verdicts in the end, and how many trials they took."""
    seeds = [first] * (len(table) - 1)
    while True:
        said = verdicts(table, seeds, factor)
        further = [i for i, word in enumerate(said) if word == "undecided" and seeds[i] < most]
        if not further:
            return said, sum(seeds) + max(seeds)
        for i in further:
            seeds[i] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=200, help="of each line")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 16], help="of a table, the reference included")
    parser.add_argument("--most", type=int, default=5, help="seeds of a row")
    args = parser.parse_args()
    design = f"{N_CATEGORIES} categories, margin {100 * MARGIN:g} points, up to {args.most} seeds"
    print(f"{args.tables} tables a line, {design}")
    heads = ("false tables %", "found %", "undecided %", "trials", "of")
    print(f"{'':22}{'':26}{'rows':>5} {'alpha over the looks':22}" + "".join(f"{head:>15}" for head in heads))
    for name, components in DEVIATIONS.items():
        for title, effect in EFFECTS.items():
            for n_rows in args.rows:
                for rule in ("uncorrected", "even", "by freedom", "all rows alike"):
                    _line(f"{name:22}{title:26}", components, effect, n_rows, args.most, rule, args.tables)


def _line(start: str, components: tuple[float, ...], effect: float, n_rows: int, most: int, rule: str, n: int) -> None:
    rng, fixed = np.random.default_rng(3), rule == "all rows alike"
    false, found, undecided, trials = 0, 0, 0, 0
    for _ in range(n):
        shapes = (n_rows, N_CATEGORIES, 1), (n_rows, 1, most), (n_rows, N_CATEGORIES, most)
        table = sum(np.sqrt(v) * rng.normal(size=shape) for v, shape in zip(components, shapes, strict=True))
        table[1] += effect
        said, took = play(table, most, weights(rule, most), most if fixed else FEWEST)
        alike = said[1:] if effect else said
        false += any(word in ("better", "worse") for word in alike)
        found += bool(effect) and said[0] == ("better" if effect > 0 else "worse")
        undecided += sum(word == "undecided" for word in said) / len(said)
        trials += took
    shares = [100 * false / n, 100 * found / n if effect else float("nan"), 100 * undecided / n, trials / n]
    named = f"{most} seeds for all" if fixed else rule
    print(f"{start}{n_rows:5} {named:22}" + "".join(f"{v:15.1f}" for v in shares) + f"{n_rows * most:15}", flush=True)


if __name__ == "__main__":
    main()
