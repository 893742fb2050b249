"""What the printed intervals, p-values and verdicts are worth, by simulation with variance components of `simulated`.

    python experiments/benchmarks/inference.py [--draws 400] [--tables 100] [--only rows]

Parts: ``rows`` (the interval of one row's n-way accuracy, beside that of t), ``pairs`` (comparisons of identical
methods, one by one and whole tables; power and equivalence). The components are those of category means over three
seeds of the sixteen rows of Table 1 on the embedded data.
"""

from __future__ import annotations

import argparse
from functools import lru_cache

import numpy as np
from scipy import optimize

from cnd import statistics
from cnd.metrics.nway import n_way_accuracy

SEEDS = (2, 3, 5, 10)
N_WAY, TARGETS = (8, 50, 100), (None, 0.05, 0.1, 0.2, 0.5, 0.9)
N_CATEGORIES, N_ROWS, MARGIN, N_CLASSES = 50, 16, 0.05, 1000
# row x item, row x seed, row x item x seed; the difference of two rows has twice these
DEVIATIONS = {"rows of Table 1": (0.00035, 0.0001, 0.0046), "one row, retrained": (0.0, 0.00011, 0.009)}
DESIGNS = {"50 items": (50, 1, 1), "50 items, 5 samples": (50, 1, 5), "50 x 4 items": (50, 4, 1)}
DESIGNS |= {"113 items": (113, 1, 1), "200 items": (200, 1, 1), "200 items, 5 samples": (200, 1, 5)}


def accuracies(
    rng: np.random.Generator, shape: tuple[int, int, int], n_way: int, ability: float, n_draws: int
) -> np.ndarray:
    """n-way accuracy by unit, [draw, unit], of items of different difficulty; the ranks of ability 0 are at chance.

    Args:
        shape: units, items a unit, samples an item.
    """
    units, items, _ = shape
    ease = rng.gamma(1.0, 1.0, (n_draws, units, 1, 1)) * rng.gamma(1.0, 1.0, (n_draws, units, items, 1))
    share = rng.beta(1, 1 + ability * np.broadcast_to(ease, (n_draws, *shape)))  # of the classes above the true one
    return _by_place(n_way)[np.minimum((share * N_CLASSES).astype(int), N_CLASSES - 1)].mean(axis=(2, 3))


@lru_cache
def _by_place(n_way: int) -> np.ndarray:
    """n-way accuracy by the number of classes above the true one, which is the first."""
    above = np.arange(N_CLASSES)[None, :] <= np.arange(N_CLASSES)[:, None]
    ranking = np.where(above, 1.0, -1.0)
    ranking[:, 0] = 0
    return n_way_accuracy(ranking, np.zeros(N_CLASSES, dtype=int), n_way)


def rows(n_draws: int) -> None:
    """Coverage of nominal 95 %, and intervals wholly below and wholly above the truth, in %."""
    print(f"{'':42}{'interval':>26}{'t':>26}\n{'':42}" + 2 * f"{'covers   below / above':>26}")
    for n_way in N_WAY:
        for target in TARGETS:
            if target is not None and target < 1.5 / n_way:
                continue
            ability, truth = _ability(n_way, target)
            for name, shape in DESIGNS.items():
                scores = accuracies(np.random.default_rng(1), shape, n_way, ability, n_draws)
                line = f"{n_way:3}-way, {f'{target:.0%}' if target else 'chance':>6}, {name:24}"
                for bounds in ((0.0, 1.0), (-np.inf, np.inf)):
                    found = [statistics.mean_interval(one, np.arange(len(one)), bounds=bounds) for one in scores]
                    below = 100 * np.mean([interval.high < truth for interval in found])
                    above = 100 * np.mean([interval.low > truth for interval in found])
                    line += f"{100 - below - above:15.1f}{below:6.1f} /{above:4.1f}"
                print(line, flush=True)


def _ability(n_way: int, target: float | None) -> tuple[float, float]:
    """The ability that gives an accuracy, and the accuracy that it gives in many draws."""

    def mean(ability: float, seed: int = 0, n_draws: int = 200) -> float:
        return float(accuracies(np.random.default_rng(seed), (400, 1, 1), n_way, ability, n_draws).mean())

    if target is None:
        return 0.0, 1 / n_way
    found = float(optimize.brentq(lambda ability: mean(ability) - target, 1e-6, 1e6, xtol=1e-3, rtol=1e-4))
    return found, mean(found, seed=1, n_draws=2000)


def pairs(n_tables: int) -> None:
    """Tables of identical methods, then differences of known size."""
    units = np.arange(N_CATEGORIES)
    print(f"{N_ROWS - 1} comparisons with a reference a table, {N_CATEGORIES} categories, {n_tables} tables; in %")
    print("false positives at 5 %: of a comparison, the same with seeds averaged away, of a table (Holm)")
    print("detectable: median of what the rows say, in points; power: at what the components say is found in 80 %")
    print(f"equivalent: within {100 * MARGIN:g} points when the truth is none, and when it is just the margin")
    heads = ("comparison", "seeds away", "table", "detectable", "power", "equal", "at margin")
    print(f"{'':20}{'seeds':>6}" + "".join(f"{head:>12}" for head in heads))
    for name, components in DEVIATIONS.items():
        for n_seeds in SEEDS:
            rng = np.random.default_rng(2)
            effect = _predicted(components, n_seeds)
            p, away, tables, detectable, found, equal, at_margin = [], [], [], [], [], [], []
            for _ in range(n_tables):
                table = _deviations(rng, components, n_seeds)
                differences = [row - table[0] for row in table[1:]]
                results = [statistics.crossed_mean(d, units) for d in differences]
                p += (own := [result.p_value for result in results])
                tables.append(statistics.holm(own).min() <= 0.05)
                detectable += [result.detectable for result in results]
                averaged = [statistics.crossed_mean(d.mean(axis=1, keepdims=True), units) for d in differences]
                away += [result.low > 0 or result.high < 0 for result in averaged]
                found.append(statistics.crossed_mean(differences[0] + effect, units).p_value <= 0.05)
                equal.append(statistics.equivalence_p(results[0], MARGIN) <= 0.05)
                shifted = statistics.crossed_mean(differences[0] + MARGIN, units)
                at_margin.append(statistics.equivalence_p(shifted, MARGIN) <= 0.05)
            shares = [np.mean(np.array(p) <= 0.05), np.mean(away), np.mean(tables), np.median(detectable)]
            shares += [np.mean(found), np.mean(equal), np.mean(at_margin)]
            print(f"{name:20}{n_seeds:6}" + "".join(f"{100 * share:12.1f}" for share in shares), flush=True)


def _deviations(rng: np.random.Generator, components: tuple[float, float, float], n_seeds: int) -> np.ndarray:
    """[row, item, seed], of equally good rows."""
    shapes = (N_ROWS, N_CATEGORIES, 1), (N_ROWS, 1, n_seeds), (N_ROWS, N_CATEGORIES, n_seeds)
    return sum(np.sqrt(v) * rng.normal(size=shape) for v, shape in zip(components, shapes, strict=True))


def _predicted(components: tuple[float, float, float], n_seeds: int) -> float:
    effects = (("item",), ("seed",), ("item", "seed"))
    variance = {effect: 2 * component for effect, component in zip(effects, components, strict=True)}
    error = statistics.Components(variance, {"item": N_CATEGORIES, "seed": n_seeds}).error()
    return statistics.detectable_effect(error.standard, error.freedom())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400, help="of each design of a row")
    parser.add_argument("--tables", type=int, default=100, help="of each number of seeds")
    parser.add_argument("--only", choices=("rows", "pairs"))
    args = parser.parse_args()
    if args.only != "pairs":
        rows(args.draws)
    if args.only != "rows":
        pairs(args.tables)


if __name__ == "__main__":
    main()
