"""``python -m cnd.data prepare nifti``: tiny scans whose responses are known, and every kind of broken input."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from analysis_folder import write_analysis
from nilearn.glm.first_level import make_first_level_design_matrix
from PIL import Image
from test_data_hcp import write_cifti

from cnd.commands.volumes import write_volumes
from cnd.cortex.drawing.maps import WEIGHT, read_analysis, voxel_maps
from cnd.data.folder import FolderData
from cnd.data.hcp import N_GRAYORDINATES
from cnd.data.tools.command import main
from cnd.data.tools.nifti.estimate import patterns
from cnd.data.tools.nifti.prepare import prepare, voxels
from cnd.data.tools.nifti.recipe import Recipe, read_recipe
from cnd.data.tools.nifti.runs import find_runs
from cnd.errors import UserError

T_R, N_VOLUMES, SHAPE = 2.0, 60, (3, 4, 2)
AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -90], [0, 0, 4, -8], [0, 0, 0, 1]])
AREA = np.zeros(SHAPE, np.int16)
AREA[:2, 1:, 0], AREA[0, 2:, 1] = 1, 7
N_VOXELS = int((AREA > 0).sum())
LABELS = ("cat", "dog")
ONSETS = 6 + 12.0 * np.arange(8)  # seconds
RECIPE = "atlas: areas.nii.gz\nareas: areas.tsv\nstimuli: pictures\nscale: none\nconfounds: [trans_*]\n"


def write_scans(folder: Path, noise: float = 0.0, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Three runs of eight events of four stimuli; the responses [events, voxels] of each run.

    Args:
        shift: added to the responses of the third run.
    """
    rng = np.random.default_rng(3)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    responses = {}
    for run in "123":
        shown = np.array([f"{LABELS[i % 2]}{run}{i // 2}" for i in (0, 1, 2, 3, 0, 1, 2, 3)])[rng.permutation(8)]
        for name in shown:
            Image.new("RGB", (8, 8), (30 * int(run), 50 * int(name[-1]) + 20, 200)).save(
                folder / "pictures" / f"{name}.png"
            )
        events = pd.DataFrame({"onset": ONSETS, "duration": 4.0, "trial_type": [n[:3] for n in shown]})
        events["stim_file"] = [f"stimuli/{n}.png" for n in shown]
        rest = pd.DataFrame({"onset": [0.0, 110.0], "duration": 4.0, "trial_type": "rest", "stim_file": "n/a"})
        pd.concat([rest, events]).to_csv(folder / f"sub-1_run-{run}_events.tsv", sep="\t", index=False)
        motion = rng.standard_normal((N_VOLUMES, 2))
        table = pd.DataFrame(motion, columns=["trans_x", "trans_y"]).assign(csf=1.0)
        table.to_csv(folder / f"sub-1_run-{run}_desc-confounds_timeseries.tsv", sep="\t", index=False)
        responses[run] = rng.standard_normal((8, N_VOXELS)) + (shift if run == "3" else 0)
        design = design_of([f"e{i}" for i in range(8)])[[f"e{i}" for i in range(8)]].to_numpy()
        series = 500 + design @ responses[run] + motion @ rng.standard_normal((2, N_VOXELS))
        series += np.cos(np.pi * (np.arange(N_VOLUMES) + 0.5) / N_VOLUMES)[:, None] * rng.standard_normal(N_VOXELS)
        write_run(folder / f"sub-1_run-{run}_bold.nii.gz", series + noise * rng.standard_normal(series.shape))
    nibabel.save(nibabel.Nifti1Image(AREA, AFFINE), folder / "areas.nii.gz")
    (folder / "areas.tsv").write_text("index\tname\n1\tV1\n7\tLO2\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return responses


def write_run(path: Path, series: np.ndarray, affine: np.ndarray = AFFINE, t_r: float = T_R) -> None:
    volume = np.zeros((*SHAPE, len(series)), np.float32)
    volume[AREA > 0] = series.T
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_zooms((3, 3, 4, t_r))
    nibabel.save(image, path)


def design_of(names: list[str], confounds: np.ndarray | None = None, high_pass: float | None = None) -> pd.DataFrame:
    """nilearn's design matrix of the eight events under these names."""
    drift = {"drift_model": None} if high_pass is None else {"drift_model": "cosine", "high_pass": high_pass}
    events = pd.DataFrame({"onset": ONSETS, "duration": 4.0, "trial_type": names})
    return make_first_level_design_matrix(T_R * np.arange(N_VOLUMES), events, add_regs=confounds, **drift)


def estimates(folder: Path, **settings: Any) -> list[np.ndarray]:
    recipe = read_recipe(folder, [f"{key}={value}" for key, value in settings.items()])[0]
    runs = find_runs(recipe, folder)
    inside, _ = voxels(recipe, folder, runs[0].series.space)
    return [patterns(recipe, run, inside) for run in runs]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy") / "<i>scans"
    write_scans(folder, noise=1.0)
    return folder


# ---------------------------------------------------------------- estimates


def test_lsa_recovers_what_was_put_in(tmp_path: Path) -> None:
    responses = write_scans(tmp_path)
    for found, known in zip(estimates(tmp_path, estimate="lsa"), responses.values(), strict=True):
        np.testing.assert_allclose(found, known, atol=2e-3)  # of a float32 signal around 500
    level = 500 + np.zeros(N_VOXELS)
    for found, known in zip(estimates(tmp_path, estimate="lsa", scale="percent"), responses.values(), strict=True):
        np.testing.assert_allclose(found, 100 * known / level, rtol=0.02, atol=2e-3)  # the run's mean is not the level


def test_lsa_and_lss_are_least_squares(noisy: Path) -> None:
    all_, each = estimates(noisy, estimate="lsa"), estimates(noisy, estimate="lss")
    for place, run in enumerate("123"):
        y = np.asarray(nibabel.load(noisy / f"sub-1_run-{run}_bold.nii.gz").dataobj)[AREA > 0].T.astype(float)
        motion = pd.read_csv(noisy / f"sub-1_run-{run}_desc-confounds_timeseries.tsv", sep="\t")[["trans_x", "trans_y"]]
        names = [f"e{i}" for i in range(8)]
        design = design_of(names, motion, 0.008)
        wanted = np.linalg.lstsq(design.to_numpy(), y, rcond=None)[0][[design.columns.get_loc(n) for n in names]]
        np.testing.assert_allclose(all_[place], wanted, atol=1e-4)
        for i in range(8):
            design = design_of(["this" if j == i else "that" for j in range(8)], motion, 0.008)
            wanted = np.linalg.lstsq(design.to_numpy(), y, rcond=None)[0][design.columns.get_loc("this")]
            np.testing.assert_allclose(each[place][i], wanted, atol=1e-4)


def test_block_means_are_those_of_the_residuals(noisy: Path) -> None:
    """Against cosines, confounds and volumes counted by hand."""
    found = estimates(noisy, estimate="block_mean", hrf_delay=4)
    y = np.asarray(nibabel.load(noisy / "sub-1_run-2_bold.nii.gz").dataobj)[AREA > 0].T.astype(float)
    table = pd.read_csv(noisy / "sub-1_run-2_desc-confounds_timeseries.tsv", sep="\t")
    order = int(np.floor(2 * N_VOLUMES * T_R * 0.008))
    cosines = [np.cos(np.pi / N_VOLUMES * (np.arange(N_VOLUMES) + 0.5) * k) for k in range(order + 1)]
    nuisance = np.column_stack([*cosines, table["trans_x"], table["trans_y"]])
    residual = y - nuisance @ np.linalg.pinv(nuisance) @ y
    wanted = [residual[[int((onset + 4) / 2), int((onset + 4) / 2) + 1]].mean(0) for onset in ONSETS]  # 4 s, 2 volumes
    np.testing.assert_allclose(found[1], wanted, atol=1e-4)


def test_short_events_take_the_nearest_volume_and_other_events_are_modelled(noisy: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        runs=({"bold": noisy / "sub-1_run-1_bold.nii.gz", "events": tmp_path / "e.tsv"},), atlas=noisy / "areas.nii.gz"
    )
    lines = ["onset\tduration\ttrial_type\tpicture", "20.6\t0.1\tcat\ta", "50\t1\tpress\tn/a", "70.2\t0.1\tdog\tb"]
    (tmp_path / "e.tsv").write_text("\n".join(lines))
    recipe = Recipe.model_validate(recipe.model_dump() | {"stimulus": "picture", "scale": "none", "hrf_delay": 4.0})
    (run,) = find_runs(recipe, tmp_path)
    assert run.name == "1" and list(run.items["stimulus"]) == ["a", "b"] and list(run.others["trial_type"]) == ["press"]
    inside, _ = voxels(recipe, tmp_path, run.series.space)
    by_lsa = patterns(Recipe.model_validate(recipe.model_dump() | {"estimate": "lsa"}), run, inside)
    assert by_lsa.shape == (2, N_VOXELS) and np.isfinite(by_lsa).all()
    nearest = patterns(Recipe.model_validate(recipe.model_dump() | {"high_pass": 1e-6}), run, inside)
    y = np.asarray(nibabel.load(noisy / "sub-1_run-1_bold.nii.gz").dataobj)[AREA > 0].T.astype(float)
    np.testing.assert_allclose(nearest, (y - y.mean(0))[[12, 37]], atol=1e-3)  # 24.65 s, 74.25 s


# ---------------------------------------------------------------- the folder


def test_the_folder_is_read_with_places_areas_and_images(noisy: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["prepare", "nifti", str(noisy), "--output", str(tmp_path), "--set", "estimate=lss"]) == 0
    told = capsys.readouterr()
    assert "3 runs prepared now, 0 before" in told.out and "3 runs" in told.err
    page = (tmp_path / "page" / "index.html").read_text()
    assert "&lt;i&gt;scans: lss, split by run" in page and "<i>" not in page
    source = FolderData(path=tmp_path, image_size=8)
    source.check()
    dataset = source.load(0)
    assert [len(dataset.train), len(dataset.test)] == [16, 8] and dataset.class_names == list(LABELS)
    assert dataset.test.stimulus[0].startswith("stimuli/") and dataset.test.run is not None
    assert sorted(set(dataset.test.run)) == [2] and sorted(set(dataset.train.run)) == [0, 1]
    index = np.argwhere(AREA > 0)
    np.testing.assert_allclose(dataset.xyz, index @ AFFINE[:3, :3].T + AFFINE[:3, 3], atol=1e-5)
    assert dataset.roi == [{1: "V1", 7: "LO2"}[AREA[tuple(at)]] for at in index]
    name = dataset.test.stimulus[3].removeprefix("stimuli/")
    np.testing.assert_array_equal(
        dataset.test.images[3], np.asarray(Image.open(noisy / "pictures" / name)).transpose(2, 0, 1)
    )
    raw = estimates(noisy, estimate="lss")  # z-scored by run with training items: by this formula
    centred = np.concatenate([part - part.mean(0) for part in raw[:2]])
    np.testing.assert_allclose(dataset.train.fmri, centred / centred.std(0), atol=1e-4)
    np.testing.assert_allclose(
        dataset.test.fmri, (raw[2] - np.concatenate(raw[:2]).mean(0)) / centred.std(0), atol=1e-4
    )
    assert source.volume() == tmp_path / "mask.nii.gz"
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), AREA > 0)
    np.testing.assert_allclose(mask.affine, AFFINE)
    assert {path.name for path in (tmp_path / "page").iterdir()} >= {
        "index.html",
        "mask.png",
        "design.png",
        "reliability.png",
    }


def test_simulated_scans_say_so(noisy: Path, tmp_path: Path) -> None:
    for told in (True, False):  # of an earlier recipe nothing is left
        prepare(*read_recipe(noisy, [f"simulated={told}"]), tmp_path)
        source = FolderData(path=tmp_path)
        dataset = source.load(0)
        assert (source.simulated, dataset.simulated, len(dataset.remarks)) == (told, told, int(told))
        assert (tmp_path / "origin.json" in source.files()) == told
    (tmp_path / "origin.json").write_text('{"simulatd": true}')
    with pytest.raises(UserError, match=r"origin.json: expected one key, simulated, .* write {\"simulated\": true}"):
        source.load(0)


def test_labels_alone_say_what_they_need(noisy: Path, tmp_path: Path, capsys: Any) -> None:
    prepare(*read_recipe(noisy, ["stimuli=null", "stimulus=stim_file"]), tmp_path)
    assert main(["check", str(tmp_path), "--output", str(tmp_path / "check")]) == 0
    assert "Labels without images need classes that the generator knows" in capsys.readouterr().err


def test_test_scans_decide_nothing_about_training(tmp_path: Path) -> None:
    trained = []
    for name, shift in (("a", 0.0), ("b", 5.0)):
        write_scans(tmp_path / name, shift=shift)
        prepare(*read_recipe(tmp_path / name, []), tmp_path / f"{name}-out")
        trained.append(FolderData(path=tmp_path / f"{name}-out", image_size=8).load(0))
    assert trained[0].train.fmri.tobytes() == trained[1].train.fmri.tobytes()
    assert (trained[0].test.fmri != trained[1].test.fmri).any()


def test_a_killed_call_goes_on_and_another_split_estimates_nothing(noisy: Path, tmp_path: Path) -> None:
    recipe, folder = read_recipe(noisy, [])

    def killed(runs: list[Any]) -> Any:
        yield runs[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, folder, tmp_path, killed)
    assert len(list((tmp_path / "runs").iterdir())) == 1 and not (tmp_path / "train.npz").exists()
    done = prepare(recipe, folder, tmp_path)
    assert (done.made, done.before) == (2, 1)
    fresh = prepare(recipe, folder, tmp_path / "fresh")
    assert done.fmri.tobytes() == fresh.fmri.tobytes()
    by_stimulus = prepare(*read_recipe(noisy, ["split=stimulus"]), tmp_path)
    assert (by_stimulus.made, by_stimulus.before) == (0, 3)
    test = by_stimulus.items[by_stimulus.items["test"]]
    assert not set(test["stimulus"]) & set(by_stimulus.items["stimulus"][~by_stimulus.items["test"]])
    assert set(test["label"]) == set(LABELS) and test["stimulus"].nunique() == 2  # a fifth of six, of each label
    assert prepare(*read_recipe(noisy, ["test=[1]", "hrf_delay=4"]), tmp_path).made == 3


# ---------------------------------------------------------------- broken input


def edit_events(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = folder / "sub-1_run-2_events.tsv"
    change(pd.read_csv(path, sep="\t", keep_default_na=False)).to_csv(path, sep="\t", index=False)


def with_nan(folder: Path) -> None:
    series = np.full((N_VOLUMES, N_VOXELS), 500.0)
    series[3, 2] = np.nan
    write_run(folder / "sub-1_run-2_bold.nii.gz", series)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing column": (lambda f: edit_events(f, lambda t: t.drop(columns="duration")), "no column 'duration'"),
    "a stimulus without an image": (
        lambda f: (f / "pictures" / "cat10.png").unlink(),
        r"'stimuli/cat10\.png' is no image",
    ),
    "an onset that is no number": (
        lambda f: edit_events(f, lambda t: t.assign(onset="soon")),
        "onset/duration in row 0",
    ),
    "an event beyond the end": (
        lambda f: edit_events(f, lambda t: t.assign(onset=t["onset"] * 9)),
        r"the event in row \d begins at \d+ s.*beyond the end of sub-1_run-2_bold\.nii\.gz at 120 s",
    ),
    "affines that differ": (
        lambda f: write_run(f / "sub-1_run-3_bold.nii.gz", np.full((60, N_VOXELS), 5.0), 2 * AFFINE),
        "its affine .* differs .* of the first run",
    ),
    "a mask of another shape": (
        lambda f: nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), AFFINE), f / "areas.nii.gz"),
        "has 2x2x2 voxels, expected 3x4x2 voxels as the run",
    ),
    "NaN voxels": (with_nan, "1 of 8 voxels inside the mask hold NaN"),
    "no time from volume to volume": (
        lambda f: write_run(f / "sub-1_run-1_bold.nii.gz", np.full((60, N_VOXELS), 5.0), t_r=0.0),
        "set t_r in the recipe",
    ),
    "no run": (lambda f: [path.unlink() for path in f.glob("*_bold.nii.gz")], r"no \*_bold\.nii\.gz"),
    "no events": (lambda f: (f / "sub-1_run-2_events.tsv").unlink(), "its events are not clear: no sub-1_run-2_events"),
    "confounds of another length": (
        lambda f: (f / "sub-1_run-2_desc-confounds_timeseries.tsv").write_text("trans_x\n1\n2\n"),
        "has 2 rows, expected 60",
    ),
    "an area without a name": (lambda f: (f / "areas.tsv").write_text("index\tname\n1\tV1\n"), "area 7 has no name"),
    "an unknown key": (lambda f: (f / "recipe.yaml").write_text("msak: x\n"), r"recipe\.yaml:1: unknown key 'msak'"),
    "neither mask nor atlas": (
        lambda f: (f / "recipe.yaml").write_text("stimuli: pictures\n"),
        "neither mask nor atlas",
    ),
    "a file that is no image": (lambda f: (f / "sub-1_run-1_bold.nii.gz").write_bytes(b"x" * 400), "not a readable"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_is_one_line(case: str, tmp_path: Path, capsys: Any) -> None:
    write_scans(tmp_path / "scans")
    change, told = BROKEN[case]
    change(tmp_path / "scans")
    assert main(["prepare", "nifti", str(tmp_path / "scans"), "--output", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]

    assert str(tmp_path) in line and re.search(told, line), line
    assert not (tmp_path / "out" / "train.npz").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("test=[5]", "test names the run '5', which is not there; valid: 1, 2, 3"),
        ("test=[1,2,3]", "test leaves 0 of 24 items"),
        ("estimate=glm", "--set estimate: estimate = 'glm': must be 'block_mean', 'lsa' or 'lss'"),
        ("scale", "--set scale: expected key=value"),
        ("confounds=[rot_x]", "no column 'rot_x'"),
        ("stimulus=picture", "no column 'picture'"),
        ("label=kind", "no column 'kind'"),
        ("high_pass=0.22", "regressors that depend on each other"),
    ],
)
def test_settings_that_do_not_fit(setting: str, told: str, noisy: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["prepare", "nifti", str(noisy), "--output", str(tmp_path), "--set", "estimate=lsa", "--set", setting]
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_no_stimulus_to_test_on(noisy: Path, tmp_path: Path) -> None:
    settings = ["split=stimulus", "stimulus=trial_type", "stimuli=null"]
    with pytest.raises(UserError, match="no test stimulus: every label has a single one"):
        prepare(*read_recipe(noisy, settings), tmp_path)


def test_a_raw_folder_names_the_command(noisy: Path) -> None:
    with pytest.raises(UserError, match=f"prepare nifti {noisy} --output"):
        FolderData(path=noisy).load(0)


# ---------------------------------------------------------------- surfaces


def test_gifti_pairs_and_cifti(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "e.tsv").write_text("onset\tduration\ttrial_type\n0\t1\tcat\n1\t1\tdog\n")
    for side in "LR":
        series = 100 + rng.standard_normal((6, 10_242)).astype(np.float32)
        image = nibabel.gifti.GiftiImage(darrays=[nibabel.gifti.GiftiDataArray(volume) for volume in series])
        nibabel.save(image, tmp_path / f"a_hemi-{side}_bold.func.gii")
        mask = nibabel.gifti.GiftiDataArray((np.arange(10_242) % 100 == 5).astype(np.int32))
        nibabel.save(nibabel.gifti.GiftiImage(darrays=[mask]), tmp_path / f"hemi-{side}_mask.gii")
    files = {"bold": "a_hemi-L_bold.func.gii", "events": "e.tsv"}
    common = {"hrf_delay": 2.0, "high_pass": None, "scale": "none", "test": ["dog"], "split": "stimulus"}
    recipe = Recipe.model_validate(common | {"runs": [files], "t_r": 1.0, "mask": "hemi-L_mask.gii"})
    (run,) = find_runs(recipe, tmp_path)
    inside, _ = voxels(recipe, tmp_path, run.series.space)
    vertex = run.series.space.vertex(inside)
    assert run.series.space.surface == "fsaverage5" and list(vertex[:2]) == [5, 105] and vertex[-1] == 10_242 + 10_205
    right = nibabel.load(tmp_path / "a_hemi-R_bold.func.gii")
    np.testing.assert_array_equal(run.series.read(inside)[:, -1], [d.data[10_205] for d in right.darrays])
    with pytest.raises(UserError, match="set t_r"):
        find_runs(Recipe.model_validate(common | {"runs": [files]}), tmp_path)
    data = rng.standard_normal((6, N_GRAYORDINATES)).astype(np.float32)
    write_cifti(tmp_path / "b_bold.dtseries.nii", data)
    recipe = Recipe.model_validate(common | {"runs": [{"bold": "b_bold.dtseries.nii", "events": "e.tsv"}]})
    (run,) = find_runs(recipe, tmp_path)
    assert run.t_r == pytest.approx(0.72) and run.series.space.n_positions == 59_412
    inside, _ = voxels(recipe, tmp_path, run.series.space)
    np.testing.assert_array_equal(run.series.read(inside), data[:, :59_412])
    assert list(run.series.space.vertex(inside)[[0, -1]]) == [0, 59_411]


# ---------------------------------------------------------------- maps


def test_maps_are_written_back_where_they_come_from(tmp_path: Path) -> None:
    index = np.argwhere(AREA > 0)
    xyz = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    cortex = pd.DataFrame({"voxel": range(N_VOXELS), "roi": "L_V1", "vertex": -1})
    cortex[["x", "y", "z"]] = xyz.astype(np.float32)
    tables = write_analysis(tmp_path / "tables", cortex=cortex, drives=("stimulus",))
    grid = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image((AREA > 0).astype(np.uint8), AFFINE), grid)
    written = write_volumes(tables, grid, tmp_path / "maps")
    assert len(written) == 2 * 3 * 3 and len(pd.read_csv(tmp_path / "maps" / "maps.tsv", sep="\t")) == len(written)
    image = nibabel.load(tmp_path / "maps" / "stimulus_encoder_weight_by_layer.nii.gz")
    assert image.shape == (*SHAPE, 3) and np.allclose(image.affine, AFFINE)
    maps = voxel_maps(read_analysis(tables).voxels, "stimulus", "layer", WEIGHT)
    wanted = maps.query("side == 'encoder' and at == 9").sort_values("voxel")["value"]
    np.testing.assert_allclose(image.get_fdata()[..., 1][tuple(index.T)], wanted, rtol=1e-6)
    assert not image.get_fdata()[AREA == 0].any()
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), 1.3 * AFFINE), grid)
    with pytest.raises(UserError, match="do not lie on its grid"):
        write_volumes(tables, grid, tmp_path / "maps")
