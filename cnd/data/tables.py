"""Arrays from files that a user brings: read without pickle; what is wrong is told in one line with the remedy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from cnd.errors import UserError


def read(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays named ``keys`` of an ``.npz``, ``.h5`` or ``.parquet`` file, those that are there.

    Raises:
        UserError: the file is missing, truncated, of another format, or an array holds Python objects.
    """
    return {".npz": read_npz, ".h5": read_hdf5, ".parquet": read_parquet}[path.suffix](path, keys)


def keys_of(path: Path) -> list[str]:
    """Names of everything in a file that :func:`read` has read."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            return sorted(content.files)
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as content:
            return sorted(content)
    import pyarrow.parquet

    return sorted(pyarrow.parquet.read_schema(path).names)


def read_npz(path: Path, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file, by name; only those among ``keys`` where these are given.

    Raises:
        UserError: the file is missing, truncated, of another format, or an array holds Python objects.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise UserError(f"{path}: holds one array without a name, as an .npy file does; save it with np.savez")
        with content:
            return {key: text(_member(path, content, key)) for key in content.files if keys is None or key in keys}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, AttributeError) as error:
        raise UserError(f"{path}: not a readable .npz file ({error}); copy or download it again") from error


def _member(path: Path, content: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        array = content[key]
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: '{key}' in it is no array; take it out of the file")
        return array
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        remedy = f"save it as numbers or fixed-width strings, e.g. np.asarray({key}.tolist())"
        raise UserError(f"{path}: key '{key}' holds Python objects, which are not read (pickle); {remedy}") from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file.

    Raises:
        UserError: the file is missing, truncated, of another format, or holds Python objects.
    """
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: an archive of several arrays, expected one; save the array itself with np.save")
        return array
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a readable .npy file of numbers ({error}); save it again with np.save") from error


def read_hdf5(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """The data sets named ``keys`` at the root of an HDF5 file, those that are there.

    Raises:
        UserError: the file is truncated or of another format, or a key is a group.
    """
    import h5py

    found = {}
    try:
        with h5py.File(path, "r") as content:
            for key in set(keys) & set(content):
                if not isinstance(content[key], h5py.Dataset):
                    raise UserError(f"{path}: key '{key}' is a group, expected a data set; store the array itself")
                is_text = h5py.check_string_dtype(content[key].dtype) is not None
                found[key] = np.asarray(content[key].asstr()[()] if is_text else content[key][()])
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or write it again") from error
    return {key: text(values) for key, values in found.items()}


def read_parquet(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """The columns named ``keys`` of a Parquet file, those that are there; a column of lists becomes a matrix.

    Raises:
        UserError: the file is truncated or of another format, lists differ in length, or a value is missing.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        there = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.read_table(path, columns=[key for key in keys if key in there])
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); copy or write it again") from error
    found = {}
    for key in table.column_names:
        column = table[key].combine_chunks()
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise UserError(f"{path}: {key} has no value in row {row}, expected one in each; fill it or drop the row")
        is_list = hasattr(column.type, "value_field")  # every kind of list, and no struct
        found[key] = text(_lists(path, key, column) if is_list else column.to_numpy(False))
    return found


def _lists(path: Path, key: str, column: Any) -> np.ndarray:
    lengths = np.array([len(row) for row in column])
    if len(set(lengths)) > 1:
        row = int(np.argmax(lengths != lengths[0]))
        raise UserError(
            f"{path}: {key} has {lengths[row]} values in row {row}, expected {lengths[0]} as in row 0; "
            f"each item needs the same voxels"
        )
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
    return values.reshape(len(lengths), -1)


def text(values: np.ndarray) -> np.ndarray:
    """Strings in whatever form a file keeps them as fixed-width unicode; numbers as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    return values.astype(str) if values.dtype.kind in "OT" else values


def matrix(path: Path, key: str, values: np.ndarray, axes: str) -> np.ndarray:
    """``values`` if they are a finite, non-empty matrix of real numbers.

    Args:
        axes: its shape in words, e.g. ``[items, voxels]``.

    Raises:
        UserError: another shape or type, no values, NaN or infinite values.
    """
    if values.ndim != 2 or not values.size:
        raise UserError(f"{path}: {key} has shape {values.shape}, expected {axes}; reshape it and save it again")
    if values.dtype.kind not in "fiu":
        raise UserError(f"{path}: {key} is of type {values.dtype}, expected real numbers; convert it to float32")
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        where = f"the first in row {row}, column {column} of {values.shape[0]} x {values.shape[1]}"
        raise UserError(
            f"{path}: {key} holds {np.count_nonzero(~finite)} NaN or infinite values ({where}), expected finite "
            f"numbers; drop those voxels or items"
        )
    return values


def zscore(values: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Columns scaled to mean 0 and standard deviation 1 of ``reference`` (default: of themselves), float32.

    A constant column becomes 0.
    """
    reference = values if reference is None else reference
    mean, std = reference.mean(0, dtype=np.float64), reference.std(0, dtype=np.float64)
    varies = std > 1e-7 * np.abs(mean)  # a constant float32 column has a tiny standard deviation by rounding
    scaled = (values - mean) / np.where(varies, std, 1)
    return np.where(varies, scaled, 0).astype(np.float32)
