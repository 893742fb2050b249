"""What the printed intervals, p-values and verdicts are worth, by simulation with variance components of `simulated`.

    python experiments/benchmarks/inference.py [--tables 300] [--only rows]

Parts: ``rows`` (coverage of the interval of one row at chance and above), ``pairs`` (false positives of a comparison and
of a table of identical methods, coverage, power). Components are those of category means, from three seeds of the
sixteen rows of Table 1 on the embedded data: of differences from the reference, and of a row retrained with other seeds.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from cnd import statistics
from cnd.metrics.nway import n_way_accuracy

N_CATEGORIES, N_ROWS, MARGIN = 50, 16, 0.05
UNITS = np.arange(N_CATEGORIES)
# item, seed, item x seed: of one row's own deviation; a difference of two rows has twice these
DEVIATIONS = {"rows of table 1": (0.00035, 0.0001, 0.0046), "row retrained": (0.0, 0.00011, 0.009)}
N_CLASSES = 1000


def scores_of_rows(rng: np.random.Generator, n_items: int, n_samples: int, n_way: int, ability: float) -> np.ndarray:
    """n-way accuracy of items that differ in difficulty, [n_items]; ability 0 is chance."""
    place = np.arange(N_CLASSES)[:, None]
    by_place = n_way_accuracy(-(np.arange(N_CLASSES) != 0) * 1.0 - (np.arange(N_CLASSES) < place), np.zeros(N_CLASSES, int), n_way)
    difficulty = rng.gamma(1.0, 1.0, (n_items, 1)) if ability else 0.0
    u = rng.beta(1, 1 + ability * difficulty * np.ones((n_items, n_samples)))
    return by_place[np.minimum((u * N_CLASSES).astype(int), N_CLASSES - 1)].mean(axis=1)
