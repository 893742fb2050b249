"""CnD from Python: ``cnd.run``. Importing this loads no torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override, parse_experiment
from cnd.json_files import read_json
from cnd.places import EXPERIMENTS, find_file
from cnd.threads import threads
from cnd.watching import watching
from cnd.workflow.cache import StageCache
from cnd.workflow.examine import examine
from cnd.workflow.plan import missing
from cnd.workflow.run import check
from cnd.workflow.run import run as run_experiment

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        path: folder of its record; its files are described in ``sweeps/README.md``.
    """

    path: Path

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Score of every test item: columns item, sample, metric, value; accuracies from 0 to 1, folds pooled."""
        import pandas as pd

        return pd.read_parquet(self.path / "scores.parquet")

    @cached_property
    def items(self) -> pd.DataFrame:
        """A line a test item: item, fold, stimulus, category, category_name, in_training ("" where it is not)."""
        import pandas as pd

        return pd.read_parquet(self.path / "items.parquet")

    @property
    def stimuli(self) -> np.ndarray:
        """What was shown, uint8 [item, channel, height, width]; white where the data has labels only."""
        return self._images("stimuli")

    @property
    def reconstructions(self) -> np.ndarray:
        """What was drawn, uint8 [item, sample, channel, height, width]."""
        return self._images("reconstructions")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Mean ``scores`` by metric; ``metrics`` with the bounds, direction and chance of each; ``warnings``, data,
        parameters, seconds, versions and code. ``simulated``: whether the fMRI was."""
        found: dict[str, Any] = read_json(self.path / "summary.json")
        return found

    def _images(self, name: str) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(self.path / "images.safetensors", "numpy") as file:
            return file.get_tensor(name)


def run(
    experiment: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    output: str | Path = "runs",
    quiet: bool = False,
) -> Result:
    """Run one experiment here, in this process, or read its result where that was kept.

    It does what a trial of a sweep does, to the last digit, with one thread of the CPU or with the GPU that PyTorch
    finds. Results are kept under ``output/cache``, where the command finds them, and this finds those of the command.

    >>> import cnd
    >>> result = cnd.run("smoke", set={"decoder.kind": "oracle"}, output=output)
    >>> result.scores.columns.tolist(), len(result.items), result.reconstructions.shape
    (['item', 'sample', 'metric', 'value'], 50, (50, 1, 3, 64, 64))
    >>> result.scores.groupby("metric")["value"].mean().round(1).to_dict()
    {'nway100_top1': 0.5, 'nway50_top1': 0.6}

    Args:
        experiment: name of one that ships (``simulated``, ``digits69``, ``god``, ``bold5000``, ``smoke``), path of a
            YAML file, or the content of such a file.
        set: settings to change, dotted: ``{"data.snr": 0.05}``.
        output: folder of results, made where it is missing.
        quiet: say nothing on stderr of what runs and how long it takes.

    Raises:
        UserError: unknown experiment or setting, a value out of range, or a file that is missing or malformed; nothing
            has run then.
        FloatingPointError: a loss is not finite; names quantity and step.

    Warns:
        UserWarning: what must be known before the scores are believed, such as test stimuli that are in training.
    """
    chosen = _chosen(experiment)
    chosen = override(chosen, dict(set), "set") if set else chosen
    cache = StageCache(Path(output).expanduser().absolute() / "cache")
    if lacking := missing(chosen):
        raise UserError(lacking[0])
    examine(chosen, cache)
    check(chosen)
    with threads(1), watching(chosen.name, quiet) as listener:
        result = Result(run_experiment(chosen, cache, listener))
    for warning in result.summary["warnings"]:
        warnings.warn(warning, stacklevel=2)
    return result


def _chosen(experiment: str | Path | Mapping[str, Any]) -> Experiment:
    """Raises:
    UserError: there is no such experiment, or its content is wrong.
    """
    if isinstance(experiment, Mapping):
        return parse_experiment({"name": "mine"} | dict(experiment), "experiment")
    path = experiment if isinstance(experiment, Path) else find_file(experiment, EXPERIMENTS, "experiment")
    return load_experiment(path)
