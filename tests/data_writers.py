"""Synthetic files in the original layouts of the data sets: every row and image of them, few voxels, tiny images."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from cnd.data.bold5000 import AREAS
from cnd.data.digits69 import SHAPES
from cnd.data.god_layouts import N_TEST, N_TRAIN, image_list
from cnd.data.images import write_store
from cnd.data.miyawaki import STIMULI
from cnd.protocols import DataSource, FmriDataset


def store_of(source: DataSource, stores: Path) -> Path | None:
    """Where the images of a source are kept in the folder ``stores``, once for each content and size."""
    if (images := source.image_source()) is None:
        return None
    store = stores / f"{source.identity()['images']}-{images.size}.npy"
    if not store.exists():
        write_store(images, store)
    return store


def load(source: DataSource, stores: Path) -> FmriDataset:
    """The first fold."""
    return source.load(source.folds()[0], store_of(source, stores))


# ---------------------------------------------------------------- digits69


def digits69_content() -> dict[str, np.ndarray]:
    """A stand-in for ``digit69_28x28.mat``, which may not be here."""
    rng = np.random.default_rng(0)
    arrays = {
        key: rng.standard_normal(shape) if key.startswith("fmri") else rng.integers(0, 256, shape, dtype=np.uint8)
        for key, shape in SHAPES.items()
    }
    return arrays | {"labelTrn": np.tile([[1], [2]], (45, 1)), "labelTest": np.tile([[1], [2]], (5, 1))}


def write_digits69(path: Path, test: np.ndarray | None = None, test_shift: float = 0) -> None:
    """The stand-in; ``test`` tells which of the 100 items are test items."""
    content = digits69_content()
    if test is not None:
        content["fmriTrn"][test[:90]] += test_shift
        content["fmriTest"][test[90:]] += test_shift
    savemat(path, content)


# ---------------------------------------------------------------- miyawaki


def write_miyawaki(path: Path, test: list[str] | None = None, test_shift: float = 0) -> None:
    """A stand-in: 12 runs of ten blocks of twenty stimuli, one block less; ``test`` names stimuli that are shifted."""
    rng = np.random.default_rng(8)
    pixels = rng.integers(0, 2, (len(STIMULI), 10, 10)).repeat(4, 1).repeat(4, 2)[:, 6:34, 6:34].reshape(-1, 784) / 1.0
    pixels = pixels[np.lexsort(pixels.T[::-1])]  # in the order of their pixels
    stimulus = np.tile(np.arange(len(STIMULI)), 6)[:119]
    fmri = rng.standard_normal((119, 967))
    fmri[np.isin(np.array(STIMULI)[stimulus], test or [])] += test_shift
    order = rng.permutation(119)
    content = {"train_indices": order[None, :107], "test_indices": order[None, 107:]}
    for key, values in (("fmri", fmri), ("stim", pixels[stimulus]), ("label", 21 + np.arange(119)[:, None] // 10)):
        content |= {f"{key}Trn": values[order[:107]], f"{key}Test": values[order[107:]]}
    savemat(path, content)


# ---------------------------------------------------------------- Generic Object Decoding

REPETITIONS = 35
GOD_AREAS = {"VC": slice(0, None), "V1": slice(0, 4), "V2": slice(4, 7), "LVC": slice(0, 7), "HVC": slice(7, None)}


def god_trials(subject: int, n_voxels: int, test_shift: float = 0) -> dict[str, np.ndarray]:
    """Training, perception and imagery trials in random order; voxels have mean 3 and respond to the image.

    Here and below, ``test_shift`` is added to the fMRI of the test items and to nothing else.
    """
    rng = np.random.default_rng([1, subject])
    train_image, test_image = rng.permutation(N_TRAIN), rng.permutation(np.repeat(np.arange(N_TEST), REPETITIONS))
    signal = 3 + rng.standard_normal((N_TRAIN + N_TEST, n_voxels))
    return {
        "train_image": train_image,
        "test_image": test_image,
        "train": signal[train_image] + 0.1 * rng.standard_normal((N_TRAIN, n_voxels)),
        "test": signal[N_TRAIN + test_image] + test_shift + 0.1 * rng.standard_normal((len(test_image), n_voxels)),
        "imagery": 50 + rng.standard_normal((N_TEST, n_voxels)),  # must end up nowhere
    }


def god_columns(trials: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of the BData table, in order: one value, or all voxels, of every trial."""
    ids = {split: image_list(split)[0] for split in ("training", "test")}
    n = [len(trials[name]) for name in ("train", "test", "imagery")]
    return {
        "DataType": np.repeat([1.0, 2.0, 3.0], n),
        "Run": np.concatenate([np.arange(k) // 50 + 1.0 for k in n]),
        "stimulus_id": np.concatenate([
            ids["training"][trials["train_image"]], ids["test"][trials["test_image"]], ids["test"][: n[2]],
        ]),
        "VoxelData": np.concatenate([trials["train"], trials["test"], trials["imagery"]]),
    }  # fmt: skip


def write_god_h5(path: Path, subject: int = 1, n_voxels: int = 12, test_shift: float = 0, legacy: bool = False) -> None:
    """``Subject1.h5`` exactly as bdpy 0.26 writes it; ``legacy`` uses the old spelling of the keys."""
    columns = god_columns(god_trials(subject, n_voxels, test_shift))
    if legacy:
        columns["Label"] = columns.pop("stimulus_id")
    metadata = _metadata(columns, slice(0, None))
    with h5py.File(path, "w") as file:
        file["dataSet" if legacy else "dataset"] = np.column_stack(list(columns.values()))
        _write_metadata(file.create_group("metaData" if legacy else "metadata"), metadata)


def write_god_tasks(
    folder: Path, subject: int = 1, n_voxels: int = 12, test_shift: float = 0, key: str = "stimulus_name"
) -> None:
    """``Subject1_ImageNetTraining.h5`` and ``_ImageNetTest.h5`` as bdpy makes them of fMRIPrep's output: the whole
    brain, several columns under ``Label``, and names of the stimuli by number in ``vmap``."""
    trials = god_trials(subject, n_voxels, test_shift)
    for task, split, part in (("Training", "training", "train"), ("Test", "test", "test")):
        known, names = image_list(split)
        fmri, image = trials[part], trials[f"{part}_image"]
        n = len(fmri)
        elsewhere = np.random.default_rng([6, subject]).standard_normal((n, 5))
        labels = {"trial_type": np.ones(n), key: known[image], "evaluation": np.full(n, np.nan)}
        columns = {
            "VoxelData": np.column_stack([elsewhere, fmri, elsewhere]),
            "Session": np.ones(n),
            "Run": np.arange(n) // 50 + 1.0,
            "Label": np.column_stack(list(labels.values())),
        }
        metadata = _metadata(columns, slice(5, 5 + n_voxels))
        place = np.flatnonzero(metadata["Label"] == 1)
        metadata |= {label: _marked(len(metadata["Label"]), place[i], 1) for i, label in enumerate(labels)}
        with h5py.File(folder / f"Subject{subject}_ImageNet{task}.h5", "w") as file:
            file["dataset"] = np.column_stack(list(columns.values()))
            _write_metadata(file.create_group("metadata"), metadata)
            for i, name in enumerate(names):
                file[f"vmap/{key}/{known[i]}"] = name.encode()


def _metadata(columns: dict[str, np.ndarray], inside: slice) -> dict[str, np.ndarray]:
    """Rows of the metadata; ``inside`` are the voxels that lie in the areas."""
    widths = [1 if c.ndim == 1 else c.shape[1] for c in columns.values()]
    starts = np.cumsum([0, *widths])
    metadata = {name: _marked(starts[-1], starts[i], widths[i]) for i, name in enumerate(columns)}
    voxels = np.flatnonzero(metadata["VoxelData"] == 1)
    for axis in "xyz":
        metadata[f"voxel_{axis}"] = np.full(starts[-1], np.nan)
        metadata[f"voxel_{axis}"][voxels] = 999
        metadata[f"voxel_{axis}"][voxels[inside]] = 3.0 * np.arange(len(voxels[inside])) + ord(axis)
    for area, part in GOD_AREAS.items():
        metadata[f"ROI_{area}"] = np.full(starts[-1], np.nan)
        metadata[f"ROI_{area}"][voxels] = 0
        metadata[f"ROI_{area}"][voxels[inside][part]] = 1
    return metadata


def _write_metadata(group: h5py.Group, metadata: dict[str, np.ndarray]) -> None:
    group["key"] = [key.encode() for key in metadata]
    group["description"] = [f"1 = {key}".encode() for key in metadata]
    group["value"] = np.stack(list(metadata.values()))


def _marked(n: int, start: int, width: int) -> np.ndarray:
    row = np.full(n, np.nan)
    row[start : start + width] = 1
    return row


def write_god_h5_by_bdpy(path: Path, subject: int = 1, n_voxels: int = 12) -> None:
    """The same content, written by bdpy itself."""
    from bdpy import BData

    bdata = BData()
    for name, values in god_columns(god_trials(subject, n_voxels)).items():
        bdata.add(values, name)
    for axis in "xyz":
        bdata.add_metadata(f"voxel_{axis}", 3.0 * np.arange(n_voxels) + ord(axis), axis, where="VoxelData")
    for area, part in GOD_AREAS.items():
        inside = np.zeros(n_voxels)
        inside[part] = 1
        bdata.add_metadata(f"ROI_{area}", inside, f"1 = ROI_{area}", where="VoxelData")
    bdata.save(str(path))


def packed_god(subject: int = 1, n_voxels: int = 12, test_shift: float = 0) -> dict[str, np.ndarray]:
    """Content of ``sbj_1.npz``."""
    trials = god_trials(subject, n_voxels, test_shift)
    arrays = [trials["train"], trials["test"]]
    arrays.append(np.stack([trials["test"][trials["test_image"] == i].mean(0) for i in range(N_TEST)]))
    arrays += [trials["train_image"], trials["test_image"], np.full(n_voxels, 0.5), np.full(n_voxels, 0.1)]
    masks = {area: np.isin(np.arange(n_voxels), np.arange(n_voxels)[part]) for area, part in GOD_AREAS.items()}
    return {f"arr_{i}": array for i, array in enumerate(arrays)} | masks


def god_images(size: int = 8) -> dict[str, np.ndarray]:
    """Content of ``images_256.npz``: float64 in 0..1, channels last."""
    rng = np.random.default_rng(2)
    counts = {"train_images": N_TRAIN, "test_images": N_TEST}
    return {key: rng.integers(0, 256, (n, size, size, 3)) / 255 for key, n in counts.items()}


def write_image_files(folder: Path, size: tuple[int, int] = (12, 8)) -> None:
    """``training/n01518878_10042.JPEG`` and so on, each of another grey."""
    for split in ("training", "test"):
        (folder / split).mkdir(parents=True)
        for i, name in enumerate(image_list(split)[1]):
            grey = (i % 200 + 20, i // 200 * 30 + 20, 90 if split == "training" else 200)
            Image.new("RGB", size, grey).save(folder / split / f"{name}.JPEG", quality=95)


# ---------------------------------------------------------------- BOLD5000

BOLD_REPEATED = [f"n0144{i:04d}_{i}.JPEG" for i in range(3)] + ["COCO_train2014_000000000007.jpg", "kitchen3.jpg"]
BOLD_SINGLE = [f"n0155{i:04d}_{i}.JPEG" for i in range(12)] + [f"COCO_train2014_{i:012d}.jpg" for i in range(20, 32)]
BOLD_SINGLE += [f"bedroom{i}.jpg" for i in range(12)]


def bold_trials(subject: int) -> list[list[list[str]]]:
    """Names by session and run, with ``rep_`` where a list marks a repetition; CSI4 has two sessions, others three."""
    rng = np.random.default_rng([3, subject])
    single = rng.permutation(BOLD_SINGLE)
    sessions = []
    for number in range(2 if subject == 4 else 3):
        repeated = [name if number == 0 else f"rep_{name}" for name in BOLD_REPEATED]
        names = rng.permutation([*single[12 * number : 12 * number + 12], *repeated]).tolist()
        sessions.append([names[:9], names[9:]])
    return sessions


def write_bold5000(folder: Path, subject: int = 1, n_voxels: int = 3, test_shift: float = 0) -> None:
    """Betas and presentation lists of one subject; a session shifts and scales its betas."""
    rng = np.random.default_rng([4, subject])
    sessions = bold_trials(subject)
    for i, runs in enumerate(sessions, start=1):
        lists = folder / "Stimuli_Presentation_Lists" / f"CSI{subject}" / f"CSI{subject}_sess{i:02d}"
        lists.mkdir(parents=True)
        for k, names in enumerate(runs, start=1):
            (lists / f"CSI_sess{i:02d}_run{k:02d}.txt").write_text("\n".join(names) + "\n")
    names = [name.removeprefix("rep_") for runs in sessions for run in runs for name in run]
    session = np.repeat(np.arange(len(sessions)), [sum(map(len, runs)) for runs in sessions])
    seeds = {name: i for i, name in enumerate([*BOLD_REPEATED, *BOLD_SINGLE])}
    for hemisphere in ("LH", "RH"):
        for j, area in enumerate(AREAS):
            signal = np.stack([np.random.default_rng([seeds[n], j]).standard_normal(n_voxels + j) for n in names])
            betas = (signal + 0.1 * rng.standard_normal(signal.shape)) * (1 + session[:, None]) + 5 * session[:, None]
            betas[np.isin(names, BOLD_REPEATED)] += test_shift
            np.save(folder / bold_file(subject, hemisphere + area), betas)


def bold_file(subject: int, area: str) -> str:
    return f"CSI{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{area}.npy"


def write_bold_images(folder: Path) -> None:
    """``Scene_Stimuli`` with the list of repeated images and one file an image."""
    stimuli = folder / "Scene_Stimuli"
    for i, name in enumerate([*BOLD_REPEATED, *BOLD_SINGLE]):
        kind = "ImageNet" if name[0] == "n" else "COCO" if name.startswith("COCO") else "Scene"
        path = stimuli / "Presented_Stimuli" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10), (20 + 4 * i, 250 - 4 * i, 128)).save(path, quality=95)
    (stimuli / "repeated_stimuli_113_list.txt").write_text("\n".join(BOLD_REPEATED) + "\n")


# ---------------------------------------------------------------- your own folder


def write_folder(folder: Path, pictures: bool, test_shift: float = 0, n_voxels: int = 7) -> None:
    """``train.npz`` and ``test.npz`` with labels and areas, with or without images."""
    rng = np.random.default_rng(5)
    for name, n, shift in (("train", 24, 0.0), ("test", 6, test_shift)):
        arrays = {
            "fmri": 2 + rng.standard_normal((n, n_voxels)) + shift,
            "labels": np.array(["cat", "dog", "hen"])[np.arange(n) % 3],
            "images": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
            "roi": np.array(["L_V1"] * n_voxels),
            "xyz": np.arange(3.0 * n_voxels).reshape(n_voxels, 3),
            "run": np.arange(n) // 12,
        }
        np.savez(folder / f"{name}.npz", **{k: a for k, a in arrays.items() if pictures or k != "images"})
