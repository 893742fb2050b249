"""Three simulated runs as a scanner and a BIDS converter would leave them, to try the way from scans to a report.

    python experiments/example_scans.py --output scans

Writes ``sub-01_task-view_run-{1,2,3}_bold.nii.gz`` with ``events.tsv`` and confounds, an atlas with the names of its
areas, the images that were shown (objects of the simulated world, whose classes the embedded generator knows), and
``recipe.yaml``. Responses are linear in the image and its category, made slow by a haemodynamic response, and scanned
with drift, motion and noise. They are simulated: their scores say that the way works, and nothing about a brain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from nilearn.glm.first_level import make_first_level_design_matrix
from PIL import Image

T_R = 2.0  # seconds a volume
ON, OFF, LEAD, TAIL = (
    4.0,
    4.0,
    8.0,
    16.0,
)  # seconds that an image is shown, of rest after it, before the first and after the last
SHAPE, AFFINE = (14, 14, 8), np.array([[3.0, 0, 0, -20], [0, 3, 0, -95], [0, 0, 3, -10], [0, 0, 0, 1]])
AREAS = ("V1", "V2", "V4", "LO2")
RECIPE = """# python -m cnd.data prepare nifti scans --output my_data
atlas: areas.nii.gz
areas: areas.tsv
confounds: [trans_*]
estimate: lss
stimuli: stimuli
split: run  # the last one is the test set
simulated: true  # no brain was scanned
"""


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--categories", type=int, default=12, help="of the 200 of the simulated world")
    parser.add_argument("--images", type=int, default=2, help="of each category in each run, each shown twice")
    parser.add_argument("--noise", type=float, default=1.0, help="standard deviation, in percent of the signal")
    options = parser.parse_args()
    write(options.output, options.categories, options.images, options.noise)


def write(output: Path, n_categories: int = 12, n_images: int = 2, noise: float = 1.0, n_runs: int = 3) -> None:
    """Runs, events, confounds, atlas, images and recipe."""
    from cnd.data.simulation.names import CATEGORY_NAMES, N_CATEGORIES
    from cnd.data.simulation.stimuli import render

    rng = np.random.default_rng(14)
    (output / "stimuli").mkdir(parents=True, exist_ok=True)
    area = atlas()
    chosen = np.linspace(0, N_CATEGORIES - 1, n_categories).round().astype(int)
    voxels = int((area > 0).sum())
    fields, tuning = rng.standard_normal((64, voxels)) / 8, rng.standard_normal((N_CATEGORIES, voxels))
    for run in range(1, n_runs + 1):
        category = np.repeat(chosen, n_images)
        images = render(category, rng)
        names = [f"{CATEGORY_NAMES[c].replace(' ', '-')}_{run}{i % n_images}.png" for i, c in enumerate(category)]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(output / "stimuli" / name)
        small = images.reshape(len(images), 3, 8, 8, 8, 8).mean((1, 3, 5)).reshape(len(images), 64) / 64
        response = (small - small.mean(0)) @ fields + tuning[category]
        shown = np.concatenate([rng.permutation(len(names)) for _ in range(2)])
        onset = LEAD + (ON + OFF) * np.arange(len(shown))
        events = pd.DataFrame(
            {"onset": onset, "duration": ON, "trial_type": [CATEGORY_NAMES[category[i]] for i in shown]}
        )
        events["stim_file"] = [f"stimuli/{names[i]}" for i in shown]
        stem = output / f"sub-01_task-view_run-{run}"
        events.to_csv(f"{stem}_events.tsv", sep="\t", index=False)
        series, motion = scan(response[shown], onset, noise, rng)
        motion.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
        volume = np.full((*SHAPE, len(series)), 100.0, np.float32)
        volume[area > 0] = series.T
        image = nibabel.Nifti1Image(volume, AFFINE)
        image.header.set_zooms((3, 3, 3, T_R))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, f"{stem}_bold.nii.gz")
    nibabel.save(nibabel.Nifti1Image(area, AFFINE), output / "areas.nii.gz")
    pd.DataFrame({"index": range(1, len(AREAS) + 1), "name": AREAS}).to_csv(output / "areas.tsv", sep="\t", index=False)
    (output / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


def atlas() -> np.ndarray:
    """Numbers of areas, uint8 of ``SHAPE``: an ellipsoid in slabs from back to front."""
    place = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    slab = np.floor((place[1] + 1) / 2 * len(AREAS)).clip(0, len(AREAS) - 1) + 1
    return np.where((place**2).sum(0) < 1, slab, 0).astype(np.uint8)


def scan(
    response: np.ndarray, onset: np.ndarray, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, pd.DataFrame]:
    """Time series [volumes, voxels] of responses [events, voxels] in percent, and the motion that is in them."""
    n = int((onset[-1] + ON + TAIL) / T_R)
    times = T_R * np.arange(n)
    events = pd.DataFrame({"onset": onset, "duration": ON, "trial_type": [f"e{i:04d}" for i in range(len(onset))]})
    design = make_first_level_design_matrix(times, events, drift_model=None).to_numpy()[:, : len(onset)]
    voxels = response.shape[1]
    motion = np.cumsum(rng.standard_normal((n, 3)), axis=0) / 20
    drift = np.sin(np.pi * times[:, None] / times[-1] + rng.uniform(0, 6, voxels)) * rng.uniform(0, 2, voxels)
    signal = design @ response + motion @ rng.standard_normal((3, voxels)) + drift
    level = rng.uniform(400, 900, voxels)
    series = level * (1 + (signal + noise * rng.standard_normal((n, voxels))) / 100)
    return series.astype(np.float32), pd.DataFrame(motion, columns=["trans_x", "trans_y", "trans_z"])


if __name__ == "__main__":
    main()
