"""How much faster one decomposition for all fits is than a scikit-learn RidgeCV a fit, in one run.

The linear decoding of Figures 5 and 6: 24 fits (2 sides x 3 layers x 4 steps) of 1,200 items x 4,643 voxels to 300
components, 10 penalties, each target with its own. Both sides choose by exact leave-one-out, and do so in float64 for
scikit-learn (as it always does) and float32 for ours (the precision of fMRI). Every one of the 24 calls is timed.
Beside them, without a counterpart in RidgeCV: the same fits with five folds of whole categories, by himalaya, which is
how the analysis itself chooses its penalties.

OMP_NUM_THREADS=1 python experiments/benchmarks/linear_decoding.py
"""

from __future__ import annotations

import argparse
import resource
from time import perf_counter

import numpy as np
from sklearn.linear_model import RidgeCV

from cnd.linear.ridge import VoxelRidge

ALPHAS = np.logspace(0, 6, 10)


def simulate(n_items: int, n_voxels: int, n_targets: int, n_fits: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated voxels float32 [items, voxels], and the targets of all fits [items, fits * targets].

    Variance falls along the components of a fit, as in a PCA, and so does the share that the voxels tell.
    """
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n_items, 60)) @ rng.standard_normal((60, n_voxels)) / np.sqrt(60)
    voxels = shared + rng.standard_normal((n_items, n_voxels))
    voxels = (voxels - voxels.mean(0)) / voxels.std(0)
    signal = voxels @ rng.standard_normal((n_voxels, n_fits * n_targets)).astype(np.float32) / np.sqrt(n_voxels)
    rank = np.tile(np.arange(n_targets), n_fits)
    targets = signal / (1 + rank / 10) + rng.standard_normal(signal.shape)
    return voxels.astype(np.float32), (targets / np.sqrt(1 + rank)).astype(np.float32)


def peak_megabytes() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of every size, for a test")
    quick = parser.parse_args().quick
    n_items, n_voxels, n_targets, n_fits = (120, 464, 30, 4) if quick else (1200, 4643, 300, 24)
    voxels, targets = simulate(n_items, n_voxels, n_targets, n_fits)
    print(f"{n_fits} fits of {n_items} x {n_voxels} voxels to {n_targets} targets, {len(ALPHAS)} penalties")

    start = perf_counter()
    ours = VoxelRidge(ALPHAS).fit(voxels, targets)
    our_seconds = perf_counter() - start
    start = perf_counter()
    VoxelRidge(ALPHAS, cv=5).fit(voxels, targets, groups=np.arange(n_items) // 8)
    fold_seconds, memory = perf_counter() - start, peak_megabytes()

    same, worst, their_seconds = 0, 0.0, 0.0
    for fit in range(n_fits):
        part = slice(fit * n_targets, (fit + 1) * n_targets)
        start = perf_counter()
        theirs = RidgeCV(ALPHAS, alpha_per_target=True).fit(voxels, targets[:, part])
        their_seconds += perf_counter() - start
        same += int((ours.alpha_[part] == theirs.alpha_).sum())
        difference = np.linalg.norm(ours.coef_[part] - theirs.coef_, axis=1) / np.linalg.norm(theirs.coef_, axis=1)
        worst = max(worst, float(difference.max()))

    print(f"scikit-learn RidgeCV   {their_seconds:8.2f} s  ({n_fits} calls)")
    print(f"cnd VoxelRidge         {our_seconds:8.2f} s  (one call)")
    print(f"  by categories        {fold_seconds:8.2f} s  (one call, 5 folds, himalaya)")
    print(f"ratio                  {their_seconds / our_seconds:8.1f} x")
    print(f"same penalties         {same} of {n_fits * n_targets}, {len(np.unique(ours.alpha_))} values occur")
    print(f"coefficients           differ by at most {worst:.1e} of their norm")
    print(f"peak memory            {memory:8.0f} MB, data included")


if __name__ == "__main__":
    main()
