"""The outcome of the linear decoding, state by state: added up over folds, then laid out as tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cnd.cortex.compute.areas import AreaScores
from cnd.cortex.compute.components import Components
from cnd.cortex.compute.importance import Importance, importance
from cnd.cortex.compute.significance import FoldTargets, HeldOut, Permutations, Result
from cnd.cortex.compute.states import Cell
from cnd.cortex.settings import AnalysisConfig
from cnd.cortex.tables import MAPS
from cnd.linear.ridge import Backend, VoxelRidge, smoothers
from cnd.protocols import FmriDataset


@dataclass
class Tally:
    """What is kept of a state over folds."""

    decoding: HeldOut = field(default_factory=HeldOut)  # voxels to components
    encoding: HeldOut = field(default_factory=HeldOut)  # components to voxels
    explained_variance: list[float] = field(default_factory=list)
    alpha: list[np.ndarray] = field(default_factory=list)  # [n_components] each
    maps: list[Importance] = field(default_factory=list)


class Tallies:
    """The outcome of every state; one call of :meth:`add` a fold."""

    def __init__(self, config: AnalysisConfig, seed: int, backend: Backend):
        self.config, self.backend = config, backend
        self.cells: dict[Cell, Tally] = {}
        self.errors: list[dict[str, np.ndarray]] = []  # a fold each: squared error [n_test, voxels], by drive.side
        self.squares: list[np.ndarray] = []  # a fold each: sum over test items of y^2 [voxels]
        self.items: list[pd.DataFrame] = []
        self.areas = AreaScores(seed)

    def _ridge(self) -> VoxelRidge:
        return VoxelRidge(self.config.alphas, self.config.n_splits, self.backend)

    def add(self, dataset: FmriDataset, found: dict[Cell, Components], permuted: Permutations) -> None:
        """Fit voxels to components (all states at once) and components to voxels, and keep what held-out items say."""
        train, test = dataset.train, dataset.test
        targets = np.concatenate([components.train for components in found.values()], axis=1)
        decoder = self._ridge().fit(train.fmri, targets, groups=train.category)
        smooth = smoothers(train.fmri, test.fmri, self.config.alphas).astype(np.float32)
        columns, stop = {}, 0
        errors: dict[str, list[np.ndarray]] = {}
        for cell, components in found.items():
            start, stop = stop, stop + components.train.shape[1]
            columns[cell] = part = slice(start, stop)
            tally = self.cells.setdefault(cell, Tally())
            tally.explained_variance.append(components.explained_variance)
            tally.alpha.append(decoder.alpha_[part])
            tally.maps.append(importance(train.fmri, decoder.coef_[part]))
            chosen = self._index(decoder.alpha_[part])
            tally.decoding.add(FoldTargets(components.train, components.test, smooth, chosen), permuted)
            encoding = self._encoding(dataset, components)
            tally.encoding.add(encoding, permuted)
            errors.setdefault(f"{cell.drive}.{cell.place.side}", []).append((encoding.test - encoding.predicted()) ** 2)
        self.errors.append({name: np.mean(found_here, axis=0) for name, found_here in errors.items()})
        self.squares.append(((test.fmri - train.fmri.mean(0)) ** 2).sum(0, dtype=np.float64))
        self.items.append(pd.DataFrame({"stimulus": test.stimulus, "category": test.category}))
        truth = np.concatenate([components.test for components in found.values()], axis=1)
        self.areas.add(self.config, dataset, targets, truth, columns)

    def _encoding(self, dataset: FmriDataset, components: Components) -> FoldTargets:
        """Components to voxels. A state without components predicts the training mean."""
        train, test = dataset.train, dataset.test
        mean = train.fmri.mean(0)
        chosen = np.zeros(len(mean), dtype=int)
        if components.train.shape[1]:
            model = self._ridge().fit(components.train, train.fmri, groups=train.category)
            chosen = self._index(model.alpha_)
        smooth = smoothers(components.train, components.test, self.config.alphas).astype(np.float32)
        return FoldTargets(train.fmri - mean, test.fmri - mean, smooth, chosen)

    def _index(self, alpha: np.ndarray) -> np.ndarray:
        """Place of each chosen penalty among the candidates."""
        return np.abs(np.log(alpha)[:, None] - np.log(self.config.alphas)).argmin(1)

    # ---- errors of single items

    def item_errors(self) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        """What a comparison of two runs is tested by, and the test items (item, stimulus, category).

        Returns:
            by ``<drive>.<side>`` float32 [test items of all folds, voxels]: squared error of the encoding model, mean
            over layers and steps, in units of the voxel's mean square, so that its mean over items is 1 - R^2.
        """
        items = pd.concat(self.items, ignore_index=True)
        mean_square = np.maximum(np.sum(self.squares, axis=0) / len(items), 1e-12)
        names = self.errors[0]
        found = {name: np.concatenate([fold[name] for fold in self.errors]) / mean_square for name in names}
        return {name: error.astype(np.float32) for name, error in found.items()}, items.rename_axis(
            "item"
        ).reset_index()

    # ---- tables

    def tables(self, dataset: FmriDataset) -> dict[str, pd.DataFrame]:
        """All tables of :mod:`cnd.cortex.tables`; voxels, areas and positions are those of ``dataset``."""
        roi = dataset.roi or ["all"] * dataset.train.fmri.shape[1]
        states, targets, voxels = [], [], []
        for cell, tally in self.cells.items():
            decoding, encoding = tally.decoding.result(), tally.encoding.result()
            states.append(_state_line(cell, tally, decoding, self.config.fdr))
            targets.append(_target_lines(cell, tally, decoding))
            voxels.append(_voxel_lines(cell, tally, encoding))
        by_voxel = pd.concat(voxels, ignore_index=True)
        return {
            "states": pd.DataFrame(states),
            "targets": pd.concat(targets, ignore_index=True),
            "voxels": by_voxel,
            "rois": _roi_table(by_voxel, roi, self.config.fdr),
            "areas": self._area_table(),
            "cortex": _cortex_table(dataset, roi),
        }

    def _area_table(self) -> pd.DataFrame:
        lines = [
            cell.columns | {"area": area, "n_voxels": self.areas.n_voxels[area], "r2": r2}
            for (cell, area), r2 in self.areas.r2().items()
        ]
        return pd.DataFrame(lines, columns=["drive", "side", "layer", "step", "area", "n_voxels", "r2"])


def _state_line(cell: Cell, tally: Tally, result: Result, fdr: float) -> dict[str, Any]:
    return cell.columns | {
        "module": cell.place.module,
        "step_index": cell.step_index,
        "n_components": len(result.r2),
        "explained_variance": float(np.mean(tally.explained_variance)),
        "r2": result.total_r2,
        "r2_p": result.total_p,
        "n_targets": len(result.r2),
        "n_significant": int((result.q <= fdr).sum()),
        "r2_null_95": result.null_95,
    }


def _target_lines(cell: Cell, tally: Tally, result: Result) -> pd.DataFrame:
    n = len(result.r2)
    alpha = np.exp(np.mean([np.log(a[:n]) for a in tally.alpha], axis=0))  # geometric mean over folds
    lines = {"component": np.arange(n), "r2": result.r2, "p": result.p, "q": result.q, "alpha": alpha}
    return pd.DataFrame(cell.columns | lines)


def _voxel_lines(cell: Cell, tally: Tally, result: Result) -> pd.DataFrame:
    maps = {name: np.mean([getattr(fold, name) for fold in tally.maps], axis=0) for name in Importance._fields}
    lines = {"voxel": np.arange(len(result.r2)), "encoding_r2": result.r2, "p": result.p, "q": result.q}
    return pd.DataFrame(cell.columns | lines | maps)


def _roi_table(voxels: pd.DataFrame, roi: list[str], fdr: float) -> pd.DataFrame:
    """Means over the voxels of each area; hemispheres stay apart where the names tell them."""
    lines = voxels.assign(roi=np.array(roi)[voxels["voxel"]], share_significant=voxels["q"] <= fdr, n_voxels=1)
    group = lines.groupby(["drive", "side", "layer", "step", "roi"], sort=False)
    means = group[[*MAPS, "share_significant"]].mean()
    return means.assign(n_voxels=group["n_voxels"].sum()).reset_index()


def _cortex_table(dataset: FmriDataset, roi: list[str]) -> pd.DataFrame:
    n = len(roi)
    xyz = np.full((n, 3), np.nan) if dataset.xyz is None else dataset.xyz
    vertex = np.full(n, -1) if dataset.vertex is None else dataset.vertex
    return pd.DataFrame(
        {"voxel": np.arange(n), "roi": roi, "vertex": vertex, "x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2]}
    )
