"""What a reader cannot represent exactly it converts by a stated rule or refuses: each kind, with the right value."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_writers import packed_god, write_digits69, write_god_h5
from PIL import Image
from scipy.io import loadmat, savemat
from test_data_folder import N_TEST, N_TRAIN, N_VOXELS, content, explains, write, write_both

from cnd.data import digits69
from cnd.data.digits69 import Digits69Data
from cnd.data.folder import FolderData
from cnd.data.god import GodData
from cnd.data.hcp import HcpPool
from cnd.data.images import ImageArchive, ImageFiles
from cnd.data.pictures import pixels_of
from cnd.data.tables import MISSING, names, read, read_npy, whole
from cnd.errors import UserError

HERE = Path("train.npz")
DAYS = np.array(["2026-03-01", "2026-03-02"], "M8[D]")


def both(**edits: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Contents of both files; functions of the number of items are put in under their key, None takes a key out."""
    parts = content(), content(N_TEST, 1)
    for part, n in zip(parts, (N_TRAIN, N_TEST), strict=True):
        for key, make in edits.items():
            if make is None:
                del part[key]
            else:
                part[key] = make(n)
    return parts


# ---------------------------------------------------------------- names of runs, areas, stimuli, classes


@pytest.mark.parametrize(
    "run",
    [
        lambda n: DAYS[np.arange(n) % 2],
        lambda n: DAYS[np.arange(n) % 2].astype("M8[ns]"),
        lambda n: np.array([1.0, 2.0])[np.arange(n) % 2],
        lambda n: np.array(["a", "b"])[np.arange(n) % 2],
        lambda n: np.array([[True, False]] * (n // 2)).reshape(n, 1),
    ],
    ids=["days", "nanoseconds", "floats", "text", "column of truth values"],
)
def test_runs_of_any_type_are_those_of_whole_numbers(run, tmp_path):
    train, test = both(run=lambda n: np.arange(n) % 2)
    train["fmri"][1::2] += 50
    test["fmri"][1::2] += 50
    right = write_both(tmp_path / "right", train, test).load(0)
    assert right.train.fmri.std() > 0.9 and right.test.fmri.std() > 0.5  # datetimes once gave zeros
    given = write_both(tmp_path / "given", train | {"run": run(N_TRAIN)}, test | {"run": run(N_TEST)}).load(0)
    np.testing.assert_array_equal(given.train.fmri, right.train.fmri)
    np.testing.assert_array_equal(given.test.fmri, right.test.fmri)
    assert len(set(given.train.run.tolist())) == 2 and given.test.run.tolist() == given.train.run[:N_TEST].tolist()


def test_names_become_text_by_one_rule():
    for given, expected in (
        ([3, -1], ["3", "-1"]),
        ([2.0, 0.5], ["2", "0.5"]),
        ([1518878.010042], ["1518878.010042"]),  # as GOD numbers its stimuli
        ([0.1], ["0.1"]),
        ([True], ["True"]),
        (["x", "no"], ["x", "no"]),
    ):
        assert names(HERE, "stimulus", np.array(given)).tolist() == expected
    days, seconds = (names(HERE, "run", DAYS.astype(unit)).tolist() for unit in ("M8[D]", "M8[s]"))
    assert days == seconds and days[0].startswith("2026-03-01")
    assert names(HERE, "roi", np.array(["V1", ""]), empty=True).tolist() == ["V1", ""]
    assert np.float32(names(HERE, "stimulus", np.array([0.1], np.float32))[0]) == np.float32(0.1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([1, np.nan]), "has no value in row 1 ('nan')"),
        (np.array([np.inf, 1]), "has no value in row 0"),
        (np.array(["V1", np.nan], dtype=object).astype(str), "has no value in row 1 ('nan')"),
        (np.array(["2026-01-01", "NaT"], "M8[D]"), "has no value in row 1 ('NaT')"),
        (np.array(["a", ""]), "has no value in row 1 (''), expected one; fill it, or drop the row"),
        (np.array([1j]), "is of type complex128, expected text, whole numbers or dates"),
        (np.array(["9000-01-01"], "M8[D]"), "dates that are out of range"),
        *[(np.array(["a", text]), "has no value in row 1") for text in MISSING],
    ],
)
def test_what_names_nothing_is_refused(values, expected):
    with pytest.raises(UserError) as caught:
        names(HERE, "run", values)
    assert "train.npz: run" in str(caught.value) and expected in str(caught.value)


def test_whole_numbers_are_exact():
    assert whole(HERE, "labels", np.array([2.0, -3.0])).tolist() == [2, -3]
    for values in ([0.5], [np.nan], [1e300], ["1"]):
        with pytest.raises(UserError, match="expected integers"):
            whole(HERE, "labels", np.array(values))
    with pytest.raises(UserError, match="expected integers"):
        whole(HERE, "labels", np.array([2**63 + 1], np.uint64))


def test_labels_and_vertices_of_floats_are_those_of_integers(tmp_path):
    train, test = both(labels=lambda n: np.arange(n) % 3, vertex=None)
    train["vertex"] = np.arange(N_VOXELS)
    right = write_both(tmp_path / "a", train, test).load(0)
    train, test = (part | {"labels": part["labels"].astype(float)[:, None]} for part in (train, test))
    given = write_both(tmp_path / "b", train | {"vertex": np.arange(N_VOXELS, dtype=float)}, test).load(0)
    assert given.class_names == right.class_names == ["0", "1", "2"]
    assert given.train.category.tolist() == right.train.category.tolist()
    assert given.vertex.tolist() == right.vertex.tolist()


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        (np.array([1.0, np.nan] * (N_VOXELS // 2)), "roi has no value in row 1 ('nan'), expected one; write ''"),
        (np.array(["V1", "nan"] * (N_VOXELS // 2)), "roi has no value in row 1"),
    ],
)
def test_an_area_that_is_missing_is_none(areas, expected, tmp_path):
    train, test = both(roi=None, vertex=None, xyz=None)
    explains(write_both(tmp_path, train | {"roi": areas}, test), expected)


def test_voxels_in_no_area_and_areas_by_number(tmp_path):
    train, test = both(roi=None)
    config = write_both(tmp_path, train | {"roi": np.array(["V1", ""] * (N_VOXELS // 2))}, test)
    assert config.load(0).roi[:2] == ["V1", ""]
    write(tmp_path / "train.npz", train | {"roi": np.arange(N_VOXELS) // 5 + 1.0})
    assert config.load(0).roi == ["1"] * 5 + ["2"] * 5
    assert config.model_copy(update={"roi": ("2",)}).load(0).train.fmri.shape[1] == 5


def test_text_that_is_not_utf8_is_refused(tmp_path):
    train, test = both(labels=lambda n: np.array(["Löwe".encode("latin-1")] * n))
    explains(write_both(tmp_path, train, test), "labels' holds text that is not UTF-8")


# ---------------------------------------------------------------- several files that say the same thing


def test_of_two_forms_of_a_file_none_is_preferred(tmp_path):
    train, test = both()
    config = write_both(tmp_path, train, test)
    write(tmp_path / "train.h5", train)
    explains(config, "train.npz: train.h5 lies beside it, expected one train file; keep the one that counts")


def test_a_subject_in_two_places_is_refused(tmp_path):
    parts = both(subject=lambda n: np.array(["S1"] * n))
    write_both(tmp_path, *parts)
    write_both(tmp_path / "S1", *parts)
    explains(FolderData(path=tmp_path, subject="S1"), "holds subject 'S1'")


@pytest.mark.parametrize("key", ["roi", "vertex", "xyz", "class_names"])
def test_voxels_and_classes_of_the_test_file_must_be_those_of_training(key, tmp_path):
    train, test = both()
    names = np.array(["castle", "goldfish", "tiger"])
    train, test = train | {"class_names": names}, test | {key: (train | {"class_names": names})[key][::-1]}
    explains(write_both(tmp_path, train, test), f"test.npz: {key} differs from that of train.npz")


def test_voxels_told_twice_or_in_part_are_refused(tmp_path):
    config = write_both(tmp_path, *both())
    write(tmp_path / "voxels.parquet", {"roi": ["V1"] * N_VOXELS})
    explains(config, "voxels.parquet: train.npz holds roi too")
    write(tmp_path / "train.npz", both(roi=None, vertex=None, xyz=None)[0])
    write(tmp_path / "test.npz", both(roi=None, vertex=None, xyz=None)[1])
    write(tmp_path / "voxels.parquet", {"x": [1.0] * N_VOXELS, "y": [1.0] * N_VOXELS})
    explains(config, "has x and y only, expected x, y and z")
    write(tmp_path / "voxels.parquet", {"surface": ["fs_LR_32k", "fsaverage5"] * (N_VOXELS // 2)})
    explains(config, "surface is fs_LR_32k and fsaverage5, expected one")
    (tmp_path / "voxels.parquet").unlink()
    write(tmp_path / "train.npz", both()[0] | {"class_names": np.array(["a"])})
    (tmp_path / "class_names.json").write_text('["b"]')
    explains(config, "class_names.json: differs from class_names in train.npz")
    (tmp_path / "class_names.json").write_text('["b", 1]')
    explains(config, "class_names.json: expected a list of strings")


def test_digits_and_pools_in_two_places_are_refused(tmp_path):
    for name in ("digit69_28x28.mat", "digit69_old.mat"):
        write_digits69(tmp_path / name)
    with pytest.raises(UserError, match=r"digit69_old\.mat lies beside it; name the file that counts with data\.path"):
        Digits69Data(path=tmp_path).check()
    (tmp_path / "pool").mkdir()
    series = np.random.default_rng(0).standard_normal((20, 3))
    np.save(tmp_path / "pool" / "rest.npy", series)
    np.savez(tmp_path / "pool" / "rest.npz", bold=series)
    with pytest.raises(UserError, match=r"rest\.npz lies beside it, and each would count"):
        HcpPool(path=tmp_path / "pool").check()


def test_god_says_which_of_two_layouts_it_read(tmp_path):
    write_god_h5(tmp_path / "Subject1.h5")
    assert GodData(path=tmp_path).load(0).remarks == []
    np.savez(tmp_path / "sbj_1.npz", **packed_god())
    assert GodData(path=tmp_path).load(0).remarks == ["Subject1.h5 is read; sbj_1.npz beside it is not."]


# ---------------------------------------------------------------- fMRI


def test_fmri_that_never_changes_is_refused(tmp_path):
    train, test = both()
    train["fmri"][:] = train["fmri"][0]
    explains(write_both(tmp_path, train, test), "train.npz: fmri is the same in every row")
    np.save(tmp_path / "rest.npy", np.ones((20, 3)))
    with pytest.raises(UserError, match="the time series is the same in every row"):
        HcpPool(path=tmp_path / "rest.npy").check()


def test_half_precision_does_not_overflow(tmp_path):
    train, test = both(run=lambda n: np.arange(n) // 12)
    for part in (train, test):
        part["fmri"] = (part["fmri"] + 30_000).astype(np.float16)
    given = write_both(tmp_path / "a", train, test).load(0)
    for part in (train, test):
        part["fmri"] = part["fmri"].astype(np.float64)
    right = write_both(tmp_path / "b", train, test).load(0)
    np.testing.assert_allclose(given.train.fmri, right.train.fmri, atol=1e-6)
    assert given.train.fmri.std() > 0.9


# ---------------------------------------------------------------- HDF5, of MATLAB and others


def write_matlab(path: Path, arrays: dict[str, Any]) -> None:
    """As ``save(path, '-v7.3')`` lays it out: the first axis last, lists as columns, text as UTF-16 codes."""

    def put(file: h5py.Group, key: str, values: np.ndarray, kind: str) -> None:
        file[key] = values.T
        file[key].attrs["MATLAB_class"] = np.bytes_(kind)

    def codes(text: str) -> np.ndarray:
        return np.array([[ord(letter) for letter in text]], np.uint16)  # 1 x length

    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            if isinstance(values, str):
                put(file, key, codes(values), "char")
            elif np.asarray(values).dtype.kind == "U":
                cells = np.empty((len(values), 1), h5py.ref_dtype)
                for i, text in enumerate(values):
                    put(file, f"#refs#/{key}{i}", codes(str(text)), "char")
                    cells[i] = file[f"#refs#/{key}{i}"].ref
                file.create_dataset(key, data=cells.T, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                values = np.asarray(values)
                wide = values[:, None] if values.ndim == 1 else values
                put(file, key, wide.astype(float) if wide.dtype.kind == "i" else wide, "double")


def test_a_file_of_matlab_holds_what_matlab_showed(tmp_path):
    train, test = both(stimulus=lambda n: np.array([f"s{n}-{i}" for i in range(n)]), run=lambda n: np.arange(n) // 12)
    right = write_both(tmp_path / "npz", train, test).load(0)
    (tmp_path / "mat").mkdir()
    write_matlab(tmp_path / "mat" / "train.h5", train | {"surface": "fs_LR_32k"})
    write_matlab(tmp_path / "mat" / "test.h5", test)
    given = FolderData(path=tmp_path / "mat", image_size=8).load(0)
    np.testing.assert_array_equal(given.train.fmri, right.train.fmri)
    np.testing.assert_array_equal(given.test.images, right.test.images)
    assert given.class_names == right.class_names  # references were once one class
    assert given.train.category.tolist() == right.train.category.tolist()
    assert given.test.stimulus == right.test.stimulus and given.roi == right.roi
    assert given.vertex.tolist() == right.vertex.tolist() and given.train.run.tolist() == right.train.run.tolist()


def test_a_char_matrix_of_matlab_is_text_without_the_blanks(tmp_path):
    train, test = both(images=None)
    config = write_both(tmp_path, train, test, ".h5")
    for name, part in (("train", train), ("test", test)):
        with h5py.File(tmp_path / f"{name}.h5", "a") as file:
            del file["labels"]
            rows = np.array([list(text.ljust(8)) for text in part["labels"]])
            file["labels"] = np.vectorize(ord)(rows).astype(np.uint16).T
            file["labels"].attrs["MATLAB_class"] = np.bytes_("char")
    assert config.load(0).class_names == ["castle", "goldfish", "tiger"]


def test_a_transposed_file_is_told_as_such(tmp_path):
    train, test = both(images=None, roi=None, vertex=None, xyz=None)
    explains(write_both(tmp_path, train | {"fmri": train["fmri"].T}, test, ".h5"), "fmri looks transposed")


REF = h5py.ref_dtype


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda f: f.create_dataset("labels", data=[f["fmri"].ref] * N_TRAIN, dtype=REF), "labels' holds references"),
        (lambda f: f.create_dataset("labels", (N_TRAIN,), dtype=REF), "labels' holds references to other parts"),
        (lambda f: f.create_dataset("labels", (N_TRAIN,), h5py.vlen_dtype(int)), "holds rows of different lengths"),
        (lambda f: f.create_dataset("labels", data=h5py.Empty("i8")), "labels' is empty"),
        (lambda f: f.create_dataset("labels", data=[0, 0]).attrs.update(MATLAB_empty=1), "labels' is empty"),
        (
            lambda f: f.create_dataset("labels", data=[[1, 2]]).attrs.update(
                MATLAB_object_decode=3, MATLAB_class=np.bytes_("string")
            ),
            "labels' is an object of MATLAB's class string",
        ),
        (lambda f: f.create_group("labels"), "labels' is a group"),
        (lambda f: f.create_dataset("labels", data=np.zeros(N_TRAIN, "i4,f4")), "labels are [('f0'"),
    ],
)
def test_hdf5_without_a_counterpart_is_refused(make, expected, tmp_path):
    train, test = both(images=None)
    config = write_both(tmp_path, train, test, ".h5")
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["labels"]
        make(file)
    explains(config, expected)


# ---------------------------------------------------------------- Parquet


def test_parquet_dates_and_dictionaries(tmp_path):
    train, test = both(images=None, roi=None, vertex=None, xyz=None, run=lambda n: np.arange(n) // 12)
    right = write_both(tmp_path / "npz", train, test).load(0)
    (tmp_path / "pq").mkdir()
    for name, part in (("train", train), ("test", test)):
        columns = {"fmri": list(part["fmri"]), "labels": pa.array(part["labels"]).dictionary_encode()}
        columns["run"] = pa.array(DAYS[part["run"]].astype("M8[us]"))
        pq.write_table(pa.table(columns), tmp_path / "pq" / f"{name}.parquet")
    given = FolderData(path=tmp_path / "pq").load(0)
    np.testing.assert_array_equal(given.train.fmri, right.train.fmri)
    assert given.class_names == right.class_names and given.train.run.tolist() == right.train.run.tolist()


@pytest.mark.parametrize(
    ("key", "column", "expected"),
    [
        ("labels", pa.array([1] * N_TRAIN).cast(pa.decimal128(20)), "holds values of type Decimal"),
        ("run", pa.array([1] * N_TRAIN, pa.time32("s")), "holds values of type time"),
        ("run", pa.array([float("nan")] * N_TRAIN), "run has no value in row 0"),
        ("labels", pa.array([[1], [None]] * (N_TRAIN // 2)), "labels has no value somewhere in row 1"),
    ],
)
def test_parquet_without_a_counterpart_is_refused(key, column, expected, tmp_path):
    train, test = both(images=None, roi=None, vertex=None, xyz=None)
    config = write_both(tmp_path, train, test, ".parquet")
    table = {"fmri": list(train["fmri"]), "labels": list(train["labels"])} | {key: column}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    explains(config, expected)


# ---------------------------------------------------------------- images


def grey16(path: Path) -> np.ndarray:
    """A ramp over all 16 bits; its pixels."""
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(path)
    return ramp


def test_sixteen_bits_of_grey_keep_their_upper_eight(tmp_path):
    ramp = grey16(tmp_path / "a.png")
    expected = (ramp >> 8).astype(np.uint8)  # 99.6 % of them were once white
    assert (expected == 255).mean() < 0.05
    for pixels in (pixels_of(tmp_path / "a.png"), next(ImageFiles([tmp_path / "a.png"], 8).batches())[0]):
        np.testing.assert_array_equal(pixels, np.stack([expected] * 3))


def shapes_of_images(folder: Path) -> dict[str, Path]:
    rgba = np.full((8, 8, 4), 200, np.uint8)
    colours = Image.fromarray(rgba[..., :3])
    Image.fromarray(rgba).save(folder / "alpha.png")
    Image.fromarray(rgba[..., [0, 3]], "LA").save(folder / "grey-alpha.png")
    colours.convert("P").save(folder / "palette.png", transparency=colours.convert("P").getpixel((0, 0)))
    colours.save(folder / "key.png", transparency=(200, 200, 200))
    colours.save(folder / "frames.gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / "floats.tif")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("read", [pixels_of, lambda p: list(ImageFiles([p], 8).batches()), None])
def test_images_that_cannot_become_rgb_are_refused(read, tmp_path):
    expected = dict.fromkeys(("alpha", "grey-alpha", "palette", "key"), "is partly transparent; save it as RGB")
    expected |= {
        "frames": "holds 2 frames, expected one image",
        "floats": "is an image of mode F, expected grey or RGB",
    }
    files = shapes_of_images(tmp_path)
    for name, told in expected.items():
        with pytest.raises(UserError) as caught:
            ImageFiles([files[name]], 8).check() if read is None else read(files[name])
        assert told in str(caught.value) and str(files[name]) in str(caught.value)


def test_alpha_that_hides_nothing_is_no_fault(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = ImageFiles([tmp_path / "a.png"], 8)
    source.check()
    np.testing.assert_array_equal(next(source.batches())[0], pixels[..., :3].transpose(2, 0, 1))


def test_black_images_of_zeros_and_ones_are_refused(tmp_path):
    train, test = both(images=lambda n: np.ones((n, 8, 8), np.uint8))
    explains(write_both(tmp_path, train, test), "images are uint8 and go from 0 to 1, expected 0 to 255")
    np.savez(tmp_path / "images.npz", train_images=np.ones((4, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="ranges from 1 to 1, expected 0 to 1 or 0 to 255"):
        list(ImageArchive(tmp_path / "images.npz", {"train_images": 4}, 8).batches())


# ---------------------------------------------------------------- the published layouts


def edited(path: Path, **arrays: Any) -> None:
    known = {key: value for key, value in loadmat(path).items() if key[0] != "_"}
    savemat(path, known | arrays)


def test_digits_of_other_number_types(tmp_path):
    config = Digits69Data(path=tmp_path / "digit69_28x28.mat")
    write_digits69(config.path)
    right = digits69.read(config)[1]
    known = loadmat(config.path)
    for scale in (1.0, 1 / 255):  # 0..255 or 0..1, as floats
        edited(config.path, **{key: known[key] * scale for key in ("stimTrn", "stimTest")})
        np.testing.assert_array_equal(digits69.read(config)[1], right)
    edited(config.path, stimTrn=known["stimTrn"].astype(np.uint16) * 257)  # once modulo 256
    with pytest.raises(UserError, match="go from 0 to 65535, expected 0 to 255 or 0 to 1"):
        config.check()
    edited(config.path, stimTrn=known["stimTrn"] * 0, stimTest=known["stimTest"] * 0)
    with pytest.raises(UserError, match="not all black"):
        config.check()
    edited(config.path, stimTrn=known["stimTrn"], stimTest=known["stimTest"], fmriTrn=known["fmriTrn"] + 1j)
    with pytest.raises(UserError, match="fmriTrn has type complex128, expected real numbers"):
        config.check()


def test_packed_god_takes_masks_and_whole_numbers_only(tmp_path):
    arrays = packed_god()
    for key, values, expected in (
        ("V1", np.arange(12), "V1 holds other values than 0 and 1, expected a mask"),
        ("arr_3", arrays["arr_3"] + 0.4, "arr_3 is of type float64, expected integers"),
        ("arr_0", arrays["arr_0"] * 0, "arr_0 is the same in every row"),
    ):
        np.savez(tmp_path / "sbj_1.npz", **arrays | {key: values})
        with pytest.raises(UserError, match=expected):
            GodData(path=tmp_path).load(0)


def test_a_run_of_god_that_is_unknown_is_no_number(tmp_path):
    write_god_h5(tmp_path / "Subject1.h5")
    with h5py.File(tmp_path / "Subject1.h5", "a") as file:
        keys = [key.decode() for key in file["metadata/key"][()]]
        column = int(np.flatnonzero(file["metadata/value"][keys.index("Run")] == 1)[0])
        table = file["dataset"][()]
        table[3, column] = np.nan
        file["dataset"][...] = table
    with pytest.raises(UserError, match=r"Subject1\.h5: Run is of type float64, expected integers"):
        GodData(path=tmp_path).load(0)


def test_hdf5_that_leads_nowhere_or_claims_too_much_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["soft"] = h5py.SoftLink("/gone")
        file["external"] = h5py.ExternalLink("gone.h5", "/x")
        file.create_dataset("huge", (10**9, 10**6), np.float32, chunks=(1024, 1024))  # 4 PB, none written
        file["fine"] = np.zeros(3)
    nowhere = "a link that leads nowhere"
    for key, expected in [("soft", nowhere), ("external", nowhere), ("huge", "claims 4,000,000,000,000,000 bytes")]:
        with pytest.raises(UserError, match=expected):
            read(tmp_path / "x.h5", [key])
    assert read(tmp_path / "x.h5", ["fine"])["fine"].shape == (3,)


def test_arrays_that_claim_more_than_there_is_memory_are_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }".ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(npy)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("fmri.npy", npy)
    with pytest.raises(UserError, match="not a readable"):
        read(tmp_path / "x.npz", ["fmri"])
    with pytest.raises(UserError, match="not a readable"):
        read_npy(tmp_path / "x.npy")
