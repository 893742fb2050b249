"""Memory and time to load data of the size of Generic Object Decoding: five subjects, 1,250 images of 256x256.

python experiments/benchmarks/loading.py [--layout npz|h5]

Random files of the original sizes are written to a temporary folder (npz: 3 GB, h5: 1 GB). Then fresh processes load
five subjects with this package and read every image; and one subject as public code does it, with its own copy of the
float64 images, which takes 2 GB more for each further subject. Peak RSS is Linux's VmHWM.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from cnd.data.god import SPM_VOXELS
from cnd.data.god_layouts import N_TEST, N_TRAIN, image_list

SIZE, REPETITIONS = 256, 35
N_TRIALS = N_TEST * REPETITIONS

OURS = """
import sys
from pathlib import Path
from cnd.data.god import GodData
from cnd.data.images import STORE, write_store
folder = Path(sys.argv[1])
write_store(GodData(path=folder).image_source(), folder / STORE)
subjects = [GodData(path=folder, subject=k).load(0, folder / STORE) for k in range(1, 6)]
total = sum(int(image.sum()) for s in subjects for split in (s.train, s.test) for image in split.images)
"""
NAIVE = """
import sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
images, content = dict(np.load(folder / "images_256.npz")), dict(np.load(folder / "sbj_1.npz"))
train = content["arr_0"][:, content["VC"]], images["train_images"][content["arr_3"]]
test = content["arr_2"][:, content["VC"]], images["test_images"]
"""
PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""  # not getrusage: its maximum is inherited from the parent, which has just written the files


def write_npz(folder: Path, rng: np.random.Generator) -> None:
    """``images_256.npz`` in float64, as it is in use, and ``sbj_1.npz`` to ``sbj_5.npz``."""
    pictures = rng.integers(0, 256, (N_TRAIN + N_TEST, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(folder / "images_256.npz", train_images=pictures[:N_TRAIN] / 255, test_images=pictures[N_TRAIN:] / 255)
    for k, n_voxels in enumerate(SPM_VOXELS, start=1):
        trials = rng.standard_normal((N_TRAIN + N_TRIALS, n_voxels))
        labels = np.tile(np.arange(N_TEST), REPETITIONS)
        train, test = trials[:N_TRAIN], trials[N_TRAIN:]
        arrays = [train, test, test.reshape(REPETITIONS, N_TEST, -1).mean(0), rng.permutation(N_TRAIN), labels]
        arrays += [np.ones(n_voxels), np.ones(n_voxels)]
        np.savez(folder / f"sbj_{k}.npz", *arrays, VC=np.ones(n_voxels, bool))


def write_h5(folder: Path, rng: np.random.Generator) -> None:
    """``Subject1.h5`` to ``Subject5.h5`` and one JPEG an image."""
    import h5py
    from PIL import Image

    (folder / "images").mkdir()
    for name in image_list("training")[1] + image_list("test")[1]:
        noise = rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((500, 500)).save(folder / "images" / f"{name}.JPEG")  # 500x500 were shown
    ids = [image_list("training")[0], np.tile(image_list("test")[0], REPETITIONS)]
    for k, n_voxels in enumerate(SPM_VOXELS, start=1):
        kind = np.repeat([1.0, 2.0], [N_TRAIN, N_TRIALS])
        voxels = rng.standard_normal((N_TRAIN + N_TRIALS, n_voxels))
        keys = ("DataType", "stimulus_id", "ROI_VC")
        value = np.full((3, n_voxels + 2), np.nan)
        value[0, 0] = value[1, 1] = 1
        value[2, 2:] = 1
        with h5py.File(folder / f"Subject{k}.h5", "w") as file:
            file["dataset"] = np.column_stack([kind, np.concatenate(ids), voxels])
            file["metadata/key"] = [key.encode() for key in keys]
            file["metadata/description"] = [b"" for _ in keys]
            file["metadata/value"] = value


def peak_and_seconds(code: str, folder: Path) -> tuple[float, float]:
    """Peak RSS in MB and the wall-clock time of a fresh process."""
    start = perf_counter()
    done = subprocess.run([sys.executable, "-c", code + PEAK, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024, perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=("npz", "h5"), default="npz")
    layout = parser.parse_args().layout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_npz if layout == "npz" else write_h5)(folder, np.random.default_rng(0))
        print(f"five subjects with {N_TRAIN + N_TEST} images of {SIZE}x{SIZE}, {layout}")
        print("                          peak RSS     time")
        first = peak_and_seconds(OURS, folder)
        print(f"first load, store written {first[0]:6.0f} MB {first[1]:7.1f} s")
        again = peak_and_seconds(OURS, folder)
        print(f"load                      {again[0]:6.0f} MB {again[1]:7.1f} s")
        if layout == "npz":
            naive = peak_and_seconds(NAIVE, folder)
            print(f"one subject, own copy     {naive[0]:6.0f} MB {naive[1]:7.1f} s")
            print(f"ratio                     {naive[0] / max(first[0], again[0]):6.1f} x")


if __name__ == "__main__":
    main()
