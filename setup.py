"""Packages of the wheel; everything else stands in pyproject.toml.

In the repository ``sweeps``, ``reports`` and ``experiments`` lie beside ``cnd``. Installed they lie inside of it, in
``cnd/_app``, where no folder of a user's hides them and they hide none (``cnd/places.py``).
"""

from setuptools import find_packages, setup

INSIDE = {f"cnd._app.{name}": name for name in ("sweeps", "reports", "experiments")}

setup(packages=[*find_packages(include=["cnd", "cnd.*"]), *INSIDE], package_dir=INSIDE)
