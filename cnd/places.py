"""Where the files are that a name means: ``ablation_table1`` is a sweep that ships, ``simulated`` an experiment."""

from __future__ import annotations

from pathlib import Path

from cnd.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "_app").is_dir()  # else a clone, or an editable installation of one
APP = _PACKAGE / "_app" if INSTALLED else _PACKAGE.parent
"""Holds the packages ``sweeps`` and ``reports``, and ``experiments``: beside ``cnd`` in a clone, inside in a wheel."""
SWEEPS, EXPERIMENTS = APP / "sweeps", APP / "experiments"
COMMAND = "cnd" if INSTALLED else "python sweeps/run.py"
"""What a user types."""


def find_file(name: str, folder: Path, what: str) -> Path:
    """The YAML file meant by a name (``folder/NAME.yaml``) or by a path.

    Raises:
        UserError: there is none; names the nearest.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"{what} '{name}': there is no such file")
        return path
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown {what} '{name}'{nearest(name, names_in(folder))}")
    return path


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
