"""Unlabelled fMRI: the three shapes of HCP-like pools, packing, and every kind of broken file."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from cnd.data import hcp
from cnd.data.hcp import HcpPool
from cnd.data.tools import hcp_pack
from cnd.errors import UserError
from cnd.experiment import load_experiment

VOLUMES = 8
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def write_cifti(path: Path, data: np.ndarray) -> None:
    """Grayordinates as HCP has them: left and right cortex (fs_LR 32k without medial wall), then voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_before_the_data(data.shape) + data.astype("<f4").tobytes(order="F"))


@cache
def _before_the_data(shape: tuple[int, int]) -> bytes:
    """What nibabel writes in front of the data, which takes it a second."""
    data = np.zeros(shape, np.float32)
    left = BrainModelAxis.from_surface(np.arange(29696), 32492, "CortexLeft")
    right = BrainModelAxis.from_surface(np.arange(29716), 32492, "CortexRight")
    n_voxels = data.shape[1] - 29696 - 29716
    place = np.column_stack(np.unravel_index(np.arange(n_voxels), (40, 40, 40)))
    voxels = BrainModelAxis("Thalamus_Left", voxel=place, affine=np.eye(4), volume_shape=(40, 40, 40))
    image = Cifti2Image(data, header=(SeriesAxis(0, 0.72, len(data)), left + right + voxels))
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(image, path := Path(folder) / "empty.dtseries.nii")
        return path.read_bytes()[: -data.nbytes]


@pytest.fixture(scope="module")
def grayordinates() -> np.ndarray:
    return np.random.default_rng(0).normal(10_000, 50, (VOLUMES, hcp.N_GRAYORDINATES)).astype(np.float32)


@pytest.fixture(scope="module")
def raw(grayordinates, tmp_path_factory) -> Path:
    """Two subjects as the HCP's servers lay them out."""
    folder = tmp_path_factory.mktemp("HCP_1200")
    for subject, data in (("100206", grayordinates), ("100307", grayordinates[::-1])):
        results = folder / subject / "MNINonLinear" / "Results" / "rfMRI_REST1_LR"
        write_cifti(results / "rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii", data)
    return folder


def test_areas_are_those_of_the_parcellation():
    areas = hcp.visual_areas()
    left = {area: np.count_nonzero(index < 29696) for area, index in areas.items()}
    assert left == {"V1": 831, "V2": 619, "V3": 337, "V4": 361}
    assert sum(map(len, areas.values())) == 4183
    assert all(index.max() < 59412 and (np.diff(index) > 0).all() for index in areas.values())  # of the cortex, sorted


def test_raw_files_give_z_scored_averaged_windows(raw, grayordinates):
    pool = hcp.load_pool(HcpPool(path=raw, window=2))
    columns = np.concatenate(list(hcp.visual_areas().values()))
    series = grayordinates[:, columns].astype(np.float64)
    series = (series - series.mean(0)) / series.std(0)
    expected = series.reshape(4, 2, -1).mean(1)
    expected = (expected - expected.mean(0)) / expected.std(0)
    assert pool.shape == (8, 4183) and pool.dtype == np.float32
    np.testing.assert_allclose(pool[:4], expected, atol=1e-4)
    np.testing.assert_allclose(pool[4:], expected[::-1], atol=1e-4)  # the second subject's time runs backwards


def test_prepare_packs_what_raw_files_hold_and_resumes(raw, tmp_path, monkeypatch):
    assert hcp_pack.prepare(raw, tmp_path) == (2, 0)
    packed = HcpPool(path=tmp_path, window=2)
    assert [p.parent.name for p in hcp.pool_files(packed)] == ["100206", "100307"]
    np.testing.assert_allclose(hcp.load_pool(packed), hcp.load_pool(HcpPool(path=raw, window=2)), atol=1e-4)
    (tmp_path / "100307" / hcp.PACKED).unlink()
    seen = []
    monkeypatch.setattr(
        hcp_pack, "read_grayordinates", lambda p, read=hcp.read_grayordinates: seen.append(p) or read(p)
    )
    assert hcp_pack.prepare(raw, tmp_path) == (1, 1)
    assert len(seen) == 1 and "100307" in str(seen[0])


def test_the_shipped_experiments_find_what_prepare_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = Path("data/hcp/100206") / hcp.PACKED
    packed.parent.mkdir(parents=True)
    packed.touch()
    for name in ("god", "bold5000"):
        (pool,) = load_experiment(EXPERIMENTS / f"{name}.yaml").data.unlabelled
        assert hcp.pool_files(pool) == [packed]


def test_a_killed_write_leaves_no_file(raw, tmp_path, monkeypatch):
    def killed(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(hcp_pack.np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        hcp_pack.prepare(raw, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_broken_subject_does_not_stop_the_others(raw, tmp_path, grayordinates):
    source = tmp_path / "raw"
    write_cifti(source / "100206_rfMRI_REST1_LR_Atlas_MSMAll.dtseries.nii", grayordinates)
    (source / "100307_rfMRI_REST1_LR_Atlas_MSMAll.dtseries.nii").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"100307.*1 of 2 subjects failed, 1 were packed"):
        hcp_pack.prepare(source, tmp_path / "out")
    assert (tmp_path / "out" / "100206" / hcp.PACKED).is_file()


def test_confounds_are_regressed_out(tmp_path):
    rng = np.random.default_rng(1)
    confounds, signal = rng.standard_normal((60, 3)), rng.standard_normal((60, 5))
    np.savez(tmp_path / "rest.npz", bold=signal + confounds @ rng.standard_normal((3, 5)) + 7, confounds=confounds)
    config = HcpPool(path=tmp_path / "rest.npz")
    pool = hcp.load_pool(config)
    assert np.abs(confounds.T @ pool).max() < 1e-3
    assert np.corrcoef(pool[:, 0], signal[:, 0])[0, 1] > 0.9
    assert "3 confounds regressed out" in hcp.describe_pool(config)


def test_time_series_without_confounds(tmp_path):
    series = np.random.default_rng(2).integers(0, 1000, (21, 4)).astype(np.int16)
    series[:, 3] = 5  # a constant voxel stays 0
    np.save(tmp_path / "rest.npy", series)
    config = HcpPool(path=tmp_path / "rest.npy", window=2)
    pool = hcp.load_pool(config)
    assert pool.shape == (10, 4) and pool.dtype == np.float32  # the odd volume is left out
    np.testing.assert_allclose(pool[:, :3].std(0), 1, atol=1e-5)
    assert not pool[:, 3].any()
    assert "regressed" not in hcp.describe_pool(config)


def test_the_real_resting_state(rest_file):
    pool = hcp.load_pool(HcpPool(path=rest_file))
    assert pool.shape == (652, 3059)
    np.testing.assert_allclose(pool.std(0), 1, atol=1e-4)
    assert "29 confounds" in hcp.describe_pool(HcpPool(path=rest_file))


@pytest.fixture
def rest_file() -> Path:
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "rest_visual" / "rest_visual_fsaverage5.npz"
    if not path.is_file():
        pytest.skip("rest_visual: rest_visual_fsaverage5.npz is not here")
    return path


# ---------------------------------------------------------------- broken files

SERIES = np.random.default_rng(3).standard_normal((12, 6)).astype(np.float32)


def _packed(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v for k, v in {a: SERIES for a in hcp.AREAS}.items() if k not in changes} | {
        k: v for k, v in changes.items() if v is not None
    }


BROKEN = {
    "renamed key": (_packed(V3=None, V3d=SERIES), "key 'V3' is missing; expected V1, V2, V3, V4, found"),
    "lengths differ": (_packed(V2=SERIES[:9]), "volumes differ between areas (V1 12, V2 9"),
    "wrong shape": (_packed(V1=SERIES[0]), "V1 has shape (6,), expected [volumes, vertices]"),
    "NaN": ({"bold": np.where(SERIES > 1, np.nan, SERIES)}, "NaN or infinite values (the first in row"),
    "complex": ({"bold": SERIES.astype(np.complex64)}, "bold is of type complex64, expected real numbers"),
    "pickled": ({"bold": SERIES.astype(object)}, "key 'bold' holds Python objects"),
    "two candidates": ({"left": SERIES, "right": SERIES}, "key 'bold' is missing, and 2 arrays are matrices"),
    "no matrix": ({"t": SERIES[0]}, "0 arrays are matrices"),
    "confounds too short": ({"bold": SERIES, "confounds": SERIES[:5]}, "confounds have 5 rows"),
    "too many confounds": ({"bold": SERIES, "confounds": np.tile(SERIES, 2)}, "12 confounds leave nothing"),
    "too short": ({"bold": SERIES[:1]}, "1 volumes are 1 windows of 1, expected 2 or more"),
}


@pytest.mark.parametrize(("arrays", "expected"), BROKEN.values(), ids=BROKEN)
def test_broken_arrays_are_explained(arrays, expected, tmp_path):
    path = tmp_path / "broken.npz"
    np.savez(path, **arrays)
    explains(path, expected)


def explains(path: Path, expected: str, named: Path | None = None) -> None:
    """The check fails with one line that names the file and says ``expected``."""
    with pytest.raises(UserError) as caught:
        HcpPool(path=path).check()
    message = str(caught.value)
    assert expected in message and str(named or path) in message and "\n" not in message


def test_truncated_files_are_explained(raw, tmp_path):
    np.savez(tmp_path / "whole.npz", bold=SERIES)
    np.save(tmp_path / "whole.npy", SERIES)
    source = hcp.pool_files(HcpPool(path=raw))[0]
    names = {
        "cut.npz": ((tmp_path / "whole.npz").read_bytes(), "not a readable .npz file"),
        "cut.npy": ((tmp_path / "whole.npy").read_bytes(), "not a readable .npy file"),
        "cut.dtseries.nii": (source.read_bytes(), "ends early"),
    }
    for name, (content, expected) in names.items():
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        explains(tmp_path / name, expected)
    whole = source.read_bytes()
    (tmp_path / "cut.dtseries.nii").write_bytes(whole[:-4])  # of the last voxel, far from V1 to V4
    explains(tmp_path / "cut.dtseries.nii", f"ends early, with {len(whole) - 4} of {len(whole)} bytes")


def test_other_files_and_nothing_are_explained(tmp_path, grayordinates):
    explains(tmp_path / "nowhere", "no such file or folder")
    explains(tmp_path, "holds no HCP_visual_voxel.npz")
    (tmp_path / "data.csv").write_text("1,2")
    explains(tmp_path / "data.csv", "expected .dtseries.nii, .npz or .npy")
    (tmp_path / "text.dtseries.nii").write_text("no image")
    explains(tmp_path / "text.dtseries.nii", "not a readable CIFTI-2 file")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "x.nii")
    (tmp_path / "x.nii").rename(tmp_path / "volume.dtseries.nii")
    explains(tmp_path / "volume.dtseries.nii", "expected CIFTI-2 grayordinates")
    write_cifti(tmp_path / "7T.dtseries.nii", np.zeros((2, 60_000)))
    explains(tmp_path / "7T.dtseries.nii", "expected (volumes, 91282) grayordinates")


def test_files_of_one_pool_have_the_same_voxels(tmp_path):
    np.save(tmp_path / "a.npy", SERIES)
    np.save(tmp_path / "b.npy", SERIES[:, :5])
    explains(tmp_path, "5 voxels, expected 6", named=tmp_path / "b.npy")


def test_two_raw_files_of_one_subject(tmp_path):
    for name in ("hp2000_clean", "hp0_clean_rclean"):
        (tmp_path / f"100206_rfMRI_REST1_LR_Atlas_MSMAll_{name}.dtseries.nii").touch()
    (tmp_path / "._100206_rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii").touch()  # macOS leaves such files
    with pytest.raises(UserError, match=r"two files of subject 100206.*--pattern"):
        hcp_pack.prepare(tmp_path, tmp_path / "out")
    assert len(hcp.raw_files(tmp_path, "*_hp2000_clean.dtseries.nii")) == 1
    with pytest.raises(UserError, match="--pattern '/a': expected names of files"):
        hcp.raw_files(tmp_path, "/a")
