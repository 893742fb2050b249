"""Arrays from files that a user brings: read without pickle; what is wrong is told in one line with the remedy.

Nothing is guessed. Text is UTF-8; text that only stands for a missing value (``nan``, ``NaT``, ``None``, ``<NA>``) is
none. What MATLAB saved with ``-v7.3`` comes back in MATLAB's own order of axes, its ``char`` and ``cellstr`` as text.
Whatever else has no exact counterpart in an array of numbers, dates or text is refused.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Normalisation

MOST_COMPRESSED = 1100  # times that deflate makes data smaller, at most; HDF5 may claim any size
MISSING = ("nan", "NaN", "NaT", "None", "<NA>")  # what becomes of a missing value that is written as text


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
            return {
                key: text(path, key, _member(path, content, key))
                for key in content.files
                if keys is None or key in keys
            }
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, AttributeError, MemoryError) as error:
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
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise UserError(f"{path}: not a readable .npy file of numbers ({error}); save it again with np.save") from error


def read_hdf5(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """The data sets named ``keys`` at the root of an HDF5 file, those that are there.

    Those of MATLAB (they carry the attribute ``MATLAB_class``) get back the order of axes that they had in MATLAB,
    which stores the first axis last; ``char`` becomes text, one string a row, and a ``cellstr`` its strings.

    Raises:
        UserError: the file is truncated or of another format, a key is a group, or holds what is no array.
    """
    import h5py

    found = {}
    try:
        with h5py.File(path, "r") as content:
            for key in sorted(set(keys) & set(content)):
                if content.get(key) is None:
                    raise UserError(f"{path}: key '{key}' is a link that leads nowhere; store the array itself")
                if not isinstance(content[key], h5py.Dataset):
                    raise UserError(f"{path}: key '{key}' is a group, expected a data set; store the array itself")
                found[key] = text(path, key, _hdf5_values(path, key, content))
    except (OSError, RuntimeError, UnicodeDecodeError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or write it again") from error
    return found


def _hdf5_values(path: Path, key: str, content: Any) -> np.ndarray:
    """The values of one data set of an open file."""
    import h5py

    item = content[key]
    matlab = item.attrs.get("MATLAB_class")
    if item.shape is None or item.attrs.get("MATLAB_empty", 0):
        raise UserError(f"{path}: key '{key}' is empty; fill it, or take it out of the file")
    if item.nbytes > MOST_COMPRESSED * path.stat().st_size:
        raise UserError(f"{path}: key '{key}' claims {item.nbytes:,} bytes, which the file cannot hold; write it again")
    if "MATLAB_object_decode" in item.attrs:
        kind = matlab.decode() if isinstance(matlab, bytes) else matlab
        raise UserError(
            f"{path}: key '{key}' is an object of MATLAB's class {kind}, which no other program reads; convert it to "
            f"numbers or with cellstr({key}), and save it again"
        )
    if h5py.check_ref_dtype(item.dtype) is not None:
        values = np.array([_cell(path, key, content, reference) for reference in item[()].ravel()], dtype=str)
        return values.reshape(item.shape).T
    if h5py.check_string_dtype(item.dtype) is not None:
        return np.asarray(item.asstr()[()])
    if h5py.check_vlen_dtype(item.dtype) is not None:
        raise UserError(
            f"{path}: key '{key}' holds rows of different lengths, expected one array; write it as a matrix"
        )
    values = np.asarray(item[()])
    if matlab is None:
        return values
    return _characters(values) if matlab in (b"char", "char") else values.T


def _cell(path: Path, key: str, content: Any, reference: Any) -> str:
    """The text that an object reference points to, as a ``cellstr`` of MATLAB holds one for each of its strings."""
    import h5py

    item = content[reference] if reference else None
    if isinstance(item, h5py.Dataset):
        if h5py.check_string_dtype(item.dtype) is not None and item.size == 1:
            return str(np.ravel(item.asstr()[()])[0])
        if item.attrs.get("MATLAB_class") in (b"char", "char"):
            rows = [""] if item.attrs.get("MATLAB_empty", 0) else _characters(np.asarray(item[()]))
            if len(rows) == 1:
                return str(rows[0])
    raise UserError(
        f"{path}: key '{key}' holds references to other parts of the file, expected text or numbers; store the values "
        f"themselves, in MATLAB as an array or with cellstr"
    )


def _characters(codes: np.ndarray) -> np.ndarray:
    """Strings of MATLAB's char matrix as HDF5 has it, [length, rows]; MATLAB fills the shorter ones with blanks."""
    return np.array(["".join(map(chr, row)).rstrip() for row in codes.reshape(len(codes), -1).T], dtype=str)


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
    if twice := sorted(key for key in keys if there.count(key) > 1):
        raise UserError(
            f"{path}: column '{twice[0]}' is there {there.count(twice[0])} times, expected once; rename one"
        )
    found = {}
    for key in table.column_names:
        column = table[key].combine_chunks()
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise UserError(f"{path}: {key} has no value in row {row}, expected one in each; fill it or drop the row")
        is_list = hasattr(column.type, "value_field")  # every kind of list, and no struct
        found[key] = text(path, key, _lists(path, key, column) if is_list else column.to_numpy(False))
    return found


def _lists(path: Path, key: str, column: Any) -> np.ndarray:
    lengths = np.array([len(row) for row in column])
    if len(set(lengths)) > 1:
        row = int(np.argmax(lengths != lengths[0]))
        raise UserError(
            f"{path}: {key} has {lengths[row]} values in row {row}, expected {lengths[0]} as in row 0; "
            f"each item needs the same voxels"
        )
    flat = column.flatten()
    if flat.null_count:
        row = int(flat.is_null().to_pylist().index(True) // max(1, lengths[0]))
        raise UserError(f"{path}: {key} has no value somewhere in row {row}, expected one in each; fill it")
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    return values.reshape(len(lengths), -1)


def text(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """Strings in whatever form a file keeps them as fixed-width unicode; numbers and dates as they are.

    Raises:
        UserError: text that is not UTF-8, or objects that are no text.
    """
    if values.dtype.kind == "T":
        return values.astype(str)
    if values.dtype.kind not in "SO":
        return values
    try:
        flat = [value.decode("utf-8") if isinstance(value, bytes) else value for value in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: key '{key}' holds text that is not UTF-8 ({error.object!r}); write it as unicode, e.g. "
            f"np.char.decode({key}, 'latin-1')"
        ) from error
    other = next((value for value in flat if not isinstance(value, str)), None)
    if other is not None:
        raise UserError(
            f"{path}: key '{key}' holds values of type {type(other).__name__}, expected numbers or text; convert them, "
            f"e.g. with astype(float) or astype(str)"
        )
    return np.array(flat, dtype=str).reshape(values.shape)


def names(path: Path, key: str, values: np.ndarray, empty: bool = False) -> np.ndarray:
    """Values that name something, as text: strings as they are, whole numbers without a point, dates as ISO 8601.

    Other numbers become the shortest text that gives them back.

    Args:
        values: of any shape.
        empty: whether "" names something too.

    Raises:
        UserError: a value is missing, or of a type that names nothing.
    """
    kind = values.dtype.kind
    if kind not in "UiubfM":
        raise UserError(f"{path}: {key} is of type {values.dtype}, expected text, whole numbers or dates; convert it")
    found = values.astype(str)
    if kind == "f":
        found = np.array([f"{v:.0f}" if float(v).is_integer() else str(v) for v in values.ravel()], dtype=str)
        found[~np.isfinite(values.ravel())] = MISSING[0]
        found = found.reshape(values.shape)
    elif kind == "M":
        exact = values.astype("M8[ns]")  # one unit for both files; times of other units are the same text then
        if not ((exact.astype(values.dtype) == values) | np.isnat(values)).all():
            raise UserError(f"{path}: {key} holds dates that are out of range; write them as text")
        found = exact.astype(str)
    missing = np.isin(found, MISSING) | ((found == "") & (not empty))
    if missing.any():
        row = int(np.argwhere(missing)[0][0]) if missing.ndim else 0
        remedy = "write '' where there is none" if empty else "fill it, or drop the row"
        raise UserError(f"{path}: {key} has no value in row {row} ('{found[missing][0]}'), expected one; {remedy}")
    return found


def whole(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers of any type as int64.

    Raises:
        UserError: a number is not whole or too large, or there is something else.
    """
    exact = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool(np.isfinite(values).all()))
    if not exact or (values != np.floor(values)).any() or (np.abs(values.astype(float)) >= 2**63).any():
        raise UserError(f"{path}: {key} is of type {values.dtype}, expected integers; convert it to int64")
    return values.astype(np.int64)


def vector(values: np.ndarray) -> np.ndarray:
    """A matrix of one row or one column as what it lists, since MATLAB knows no other lists; the rest as it is."""
    return values.ravel() if values.ndim == 2 and 1 in values.shape else values


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
    return Normalisation.of(values if reference is None else reference).apply(values)


def some_vary(path: Path, key: str, values: np.ndarray) -> None:
    """Raises:
    UserError: every column of ``values`` is constant, so that nothing could be learnt from them.
    """
    if len(values) > 1 and not (values != values[0]).any():
        raise UserError(f"{path}: {key} is the same in every row, expected patterns that differ; write it again")
