"""How much faster the closed form of n-way accuracy is than Algorithm 1's loop over trials, in one run.

python experiments/benchmarks/nway.py
"""

from __future__ import annotations

import statistics
from time import perf_counter

import numpy as np

from cnd.metrics import nway

N_ITEMS, N_CLASSES, N_WAY, N_TRIALS, REPEATS = 200, 1000, 50, 1000, 7


def loop_over_trials(scores: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Algorithm 1 (sec. 8.1) as it is printed, in plain Python and NumPy."""
    accuracy = np.zeros(len(scores))
    for item, truth in enumerate(target):
        others = np.delete(np.arange(scores.shape[1]), truth)
        for _ in range(N_TRIALS):
            chosen = np.append(rng.choice(others, N_WAY - 1, replace=False), truth)
            accuracy[item] += chosen[np.argmax(scores[item, chosen])] == truth
    return accuracy / N_TRIALS


def main() -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.random((N_ITEMS, N_CLASSES)), rng.integers(0, N_CLASSES, N_ITEMS)
    scores[np.arange(N_ITEMS), target] += rng.random(N_ITEMS)
    seconds = []
    for _ in range(REPEATS):
        nway._success_by_place.cache_clear()  # the table is part of the price
        start = perf_counter()
        exact = nway.n_way_accuracy(scores, target, N_WAY)
        seconds.append(perf_counter() - start)
    start = perf_counter()
    looped = loop_over_trials(scores, target, rng)
    loop_seconds = perf_counter() - start
    closed = statistics.median(seconds)
    print(f"{N_ITEMS} items, {N_CLASSES} classes, {N_WAY}-way; the loop runs {N_TRIALS} trials an item")
    print(f"loop over trials  {loop_seconds:8.2f} s   mean accuracy {looped.mean():.4f}")
    print(f"closed form       {closed * 1e3:8.2f} ms  mean accuracy {exact.mean():.4f} (median of {REPEATS} runs)")
    print(f"ratio             {loop_seconds / closed:8.0f} x")


if __name__ == "__main__":
    main()
