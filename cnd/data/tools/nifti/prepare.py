"""From a recipe to ``train.npz`` and ``test.npz``, one run in memory at a time."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from cnd.data.folder_layout import ORIGIN
from cnd.data.tables import read_npz
from cnd.data.tools.nifti.estimate import patterns
from cnd.data.tools.nifti.recipe import Recipe
from cnd.data.tools.nifti.runs import Run, find_runs
from cnd.data.tools.nifti.series import Space, read_map
from cnd.errors import UserError, nearest
from cnd.json_files import write_json
from cnd.keys import content_hash, file_hash

RUNS, STIMULI, MASK = "runs", "stimuli", "mask.nii.gz"
OF_ESTIMATES = {"scale", "estimate", "hrf_delay", "hrf_model", "high_pass", "confounds", "t_r"}  # settings
SPLIT_SEED = 0  # of the stimuli that are held out where the recipe names none
HELD_OUT = 0.2  # of the stimuli of each label


class Prepared(NamedTuple):
    """What was made.

    Attributes:
        items: of all runs: run, onset, duration, stimulus, label, file, test.
        fmri: float32 [items, voxels].
        inside: bool [positions], the mask.
        made, before: runs estimated now, and by an earlier call.
    """

    runs: list[Run]
    items: pd.DataFrame
    fmri: np.ndarray
    inside: np.ndarray
    made: int
    before: int

    @property
    def space(self) -> Space:
        """Where the voxels lie."""
        return self.runs[0].series.space


def prepare(
    recipe: Recipe,
    folder: Path,
    output: Path,
    progress: Callable[[list[Run]], Iterable[Run]] = iter,
) -> Prepared:
    """Estimate what is missing, run by run, and write the folder that :mod:`cnd.data.folder` reads.

    Everything but the time series is checked before the first is read. A run's estimates lie in ``output/runs`` under
    the hash of its files and settings, so that a killed call goes on where it was, and another split costs nothing.

    Args:
        folder: where the recipe's paths start.
        progress: wraps the runs, e.g. in a progress bar.

    Raises:
        UserError: bad recipe or file; names the file, the key and the remedy.
    """
    runs = find_runs(recipe, folder)
    for run in runs[1:]:
        run.series.space.same_as(runs[0].series.space, "the first run")
    inside, area = voxels(recipe, folder, runs[0].series.space)
    items = pd.concat([run.items.assign(run=run.name) for run in runs], ignore_index=True)
    if 0 < (items["label"] != "").sum() < len(items):
        bare = items["run"][items["label"] == ""].iloc[0]
        raise UserError(f"{folder}: the events of run '{bare}' have no {recipe.label}, those of others have; add it")
    items["test"] = test_items(recipe, folder, items)
    (output / RUNS).mkdir(parents=True, exist_ok=True)
    parts, made = [], 0
    mask_hash = content_hash([np.packbits(inside).tobytes().hex()])
    for run in progress(runs):
        key = content_hash(_key(recipe, run, mask_hash))
        file = output / RUNS / f"{_safe(run.name)}-{key[:12]}.npz"
        if not file.is_file():
            _save(file, patterns=patterns(recipe, run, inside))
            made += 1
        parts.append(read_npz(file, ["patterns"])["patterns"])
    done = Prepared(runs, items, np.concatenate(parts), inside, made, len(runs) - made)
    _note_origin(recipe, output / ORIGIN)
    _write(done, area, output)
    return done


def _key(recipe: Recipe, run: Run, mask: str) -> Any:
    """What decides a run's estimates."""
    settings = recipe.model_dump(mode="json", include=OF_ESTIMATES)
    events = [part.to_json(orient="split") for part in (run.items[["onset", "duration"]], run.others)]
    return [settings, mask, events, [file_hash(path) for path in run.files]]


# ---------------------------------------------------------------- voxels and split


def voxels(recipe: Recipe, folder: Path, space: Space) -> tuple[np.ndarray, np.ndarray | None]:
    """The positions that are used, bool [positions], and the area of each of them; None without an atlas.

    Raises:
        UserError: neither mask nor atlas in a volume, another grid, no voxel, or an area without a name.
    """
    if recipe.mask is None and recipe.atlas is None and space.surface is None:
        raise UserError(f"{folder}: neither mask nor atlas; give one of them in recipe.yaml or by --set mask=FILE")
    inside, area = space.cortex(), None
    if recipe.mask is not None:
        inside = inside & (read_map(folder / recipe.mask, space, "mask")[0] != 0)
    if recipe.atlas is not None:
        number, names = read_map(folder / recipe.atlas, space, "atlas")
        if recipe.mask is None:
            inside = inside & (number != 0)
        area = _areas(recipe, folder, number[inside], names)
    if not inside.any():
        which = recipe.mask or recipe.atlas
        raise UserError(f"{folder / which if which else folder}: no voxel is other than 0; give another mask")
    return inside, area


def _areas(recipe: Recipe, folder: Path, number: np.ndarray, names: dict[int, str]) -> np.ndarray:
    """Names of areas by their numbers; "" for 0."""
    if recipe.areas is not None:
        path = folder / recipe.areas
        try:
            table = pd.read_csv(path, sep="\t", dtype={"name": str})
            names = dict(zip(table["index"].astype(int), table["name"], strict=True))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a table with the columns index and name ({error}); write one") from error
    names = {**names, 0: ""}
    there = sorted({int(n) for n in number})
    named = bool(names.keys() - {0})
    if named and (unknown := [n for n in there if n not in names]):
        raise UserError(f"{folder / str(recipe.atlas)}: area {unknown[0]} has no name; add it to areas")
    return np.array([names.get(int(n), str(int(n))) for n in number], dtype=str)


def test_items(recipe: Recipe, folder: Path, items: pd.DataFrame) -> np.ndarray:
    """Which items are test items, bool [items].

    By run: those of the named runs, or of the last. By stimulus: all of the named stimuli, or of a fifth of the stimuli
    of each label, at least one of those that have two, drawn with a fixed seed.

    Raises:
        UserError: a name that is not there; nothing to test on, or to train on.
    """
    column = "run" if recipe.split == "run" else "stimulus"
    there = list(dict.fromkeys(items[column]))
    for name in recipe.test:
        if name not in there:
            raise UserError(f"{folder}: test names the {column} '{name}', which is not there{nearest(name, there)}")
    chosen = list(recipe.test)
    if not chosen and column == "run":
        chosen = there[-1:]
    elif not chosen:
        rng = np.random.default_rng(SPLIT_SEED)
        for _, part in items.groupby("label", sort=True):
            names = sorted(set(part["stimulus"]))
            if len(names) > 1:
                chosen += rng.choice(names, max(1, round(HELD_OUT * len(names))), replace=False).tolist()
    test = items[column].isin(chosen).to_numpy()
    if not test.any():
        raise UserError(
            f"{folder}: no test stimulus: every label has a single one; name some with test, or set split to run"
        )
    if (~test).sum() < 2:
        raise UserError(
            f"{folder}: test leaves {(~test).sum()} of {len(items)} items to train on; name fewer with test"
        )
    return test


# ---------------------------------------------------------------- writing


def _write(done: Prepared, area: np.ndarray | None, output: Path) -> None:
    """``train.npz``, ``test.npz``, the images, and the mask of a volume."""
    known: dict[str, Any] = {} if area is None else {"roi": area}
    xyz, vertex = done.space.xyz(done.inside), done.space.vertex(done.inside)
    if xyz is not None:
        known["xyz"] = xyz
        _save_mask(done, output / MASK)
    if vertex is not None:
        known |= {"vertex": vertex, "surface": np.array(done.space.surface)}
    copies = _copy_images(done.items, output)
    for name in ("train", "test"):
        (output / f"{name}.npz").unlink(missing_ok=True)  # of two files that do not belong together none is left
    for name, rows in (("train", ~done.items["test"]), ("test", done.items["test"])):
        items, arrays = done.items[rows], dict(known, fmri=done.fmri[rows.to_numpy()])
        arrays |= {key: items[key].to_numpy(dtype=str) for key in ("stimulus", "run")}
        if (items["label"] != "").all():
            arrays["labels"] = items["label"].to_numpy(dtype=str)
        if copies:
            arrays["image_files"] = np.array([copies[file] for file in items["file"]], dtype=str)
        elif "labels" not in arrays:
            raise UserError(f"{output}: items have neither labels nor images; set label or stimuli in recipe.yaml")
        _save(output / f"{name}.npz", **arrays)


def _note_origin(recipe: Recipe, path: Path) -> None:
    if recipe.simulated:
        write_json(path, {"simulated": True})
    else:
        path.unlink(missing_ok=True)  # of an earlier recipe


def _copy_images(items: pd.DataFrame, output: Path) -> dict[str, str]:
    """Images beside the files that name them, so that the folder can be moved; by the original, relative names."""
    copies: dict[str, str] = {}
    for file in dict.fromkeys(items["file"]):
        if not file:
            continue
        name = f"{STIMULI}/{Path(file).name}"
        if name in copies.values():
            name = f"{STIMULI}/{len(copies)}-{Path(file).name}"
        target = output / name
        target.parent.mkdir(exist_ok=True)
        if not target.is_file() or file_hash(target) != file_hash(Path(file)):
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(file, temporary)
            temporary.replace(target)
        copies[file] = name
    return copies


def _save_mask(done: Prepared, path: Path) -> None:
    """The mask as NIfTI, on whose grid maps are written back."""
    import nibabel

    values = done.inside.astype(np.uint8).reshape(done.space.shape)
    image = nibabel.Nifti1Image(values, np.reshape(done.space.affine, (4, 4)))
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    nibabel.save(image, temporary)
    temporary.replace(path)


def _save(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz`` whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **cast(Any, arrays))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """A run's name as part of a file's."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
