"""Training items that are scored in place of the test set (``split.validation``): for choices, such as a search's.

Every data source gets it. What is held out resembles what the source itself tests on, by the first rule that applies:

1. whole categories: where there are at least ten for training, and the test set has others; none that alone has more
   than the share of all items;
2. whole runs: where runs are known, at least four, a run's stimuli are in no other run, and no category is lost;
3. stimuli with all of their items, some of each category that has two or more;
4. where each category is one stimulus: items, some of each stimulus that was shown twice or more.

Test items are let go where the data are loaded: no other step sees them. The choice belongs to the data, not to a
training seed; folds of a cross-validation hold out different items.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnd.data.images import StoredImages
from cnd.data.splits import FEWEST_CATEGORIES
from cnd.data.tables import zscore
from cnd.errors import UserError
from cnd.protocols import DataSource, FmriDataset, FmriSplit, ImageArray

FEWEST_RUNS = 4  # with fewer, a run is more than a quarter of what is learnt from
SEED = 31  # of the choice: every row, seed and subject is judged on the same


class _Choice(NamedTuple):
    """Which training items are held out, bool [n], what they are in words, and whether whole stimuli are."""

    held: np.ndarray
    told: str
    stimuli_apart: bool = True


def load(source: DataSource, share: float, fold: int, images: Path | None = None) -> FmriDataset:
    """One fold of a source with held-out training items as its test items.

    Args:
        share: of the training categories (or runs, or stimuli) that is held out.
        images: as of :meth:`cnd.protocols.DataSource.load`.

    Raises:
        UserError: too few training items; or as of :meth:`cnd.protocols.DataSource.load`.
    """
    own = source.load_validation(share, fold, images)
    if own is None:
        return hold_out(source.load(fold, images), share, fold)
    held, trained = (len(np.unique(part.category)) for part in (own.test, own.train))
    return _described(own, f"{held} of {held + trained} training categories")


def hold_out(dataset: FmriDataset, share: float, fold: int) -> FmriDataset:
    """The data set with held-out training items in place of its test items.

    Patterns are z-scored anew, by the items that are still trained on. Facts on the test set are left out.

    Raises:
        UserError: too few training items.
    """
    train = dataset.train
    shown = _identities(train)
    others = bool((~np.isin(dataset.test.category, train.category)).any())
    held, told, stimuli_apart = _chosen(train, shown, others, share, fold)
    stays = ~np.isin(shown, shown[held]) if stimuli_apart else ~held  # one of two categories would be on both sides
    if not held.any() or stays.sum() < 2:
        raise UserError(
            f"split.validation: of {len(train)} training items ({len(np.unique(shown))} stimuli in "
            f"{len(np.unique(train.category))} categories) none can be held out so that two are left to learn from; "
            "add training items, two to a category, or score the test set (no search)"
        )
    measured = train.fmri if train.repeated is None else train.repeated  # as test items are
    fitted = train.fmri[stays]
    repeated = None if train.repeated is None else zscore(train.repeated[stays], fitted)
    parts = replace(
        dataset,
        train=_part(train, stays, zscore(fitted), repeated),
        test=_part(train, held, zscore(measured[held], fitted)),
        facts={},
    )
    return _described(parts, told)


def _described(dataset: FmriDataset, told: str) -> FmriDataset:
    n = len(dataset.test)
    return replace(
        dataset,
        description=f"{dataset.description}; VALIDATION: {told} ({n} items) scored in place of the test set",
        remarks=[
            *dataset.remarks,
            f"Validation: {told} ({n} items) are held out and scored in place of the test set, which is not used.",
        ],
    )


def _part(items: FmriSplit, chosen: np.ndarray, fmri: np.ndarray, repeated: np.ndarray | None = None) -> FmriSplit:
    """The chosen items (bool) with these patterns."""
    rows = np.flatnonzero(chosen)
    seen, run = (None if a is None else a[rows] for a in (items.seen, items.run))
    names = [items.stimulus[i] for i in rows]
    return FmriSplit(fmri, _images(items.images, rows), items.category[rows], names, seen, run, repeated)


def _images(images: ImageArray, rows: np.ndarray) -> ImageArray:
    """Rows of a store stay there."""
    if isinstance(images, StoredImages):
        return StoredImages(images.path, images.rows[rows])
    chosen: np.ndarray = images[rows]
    return chosen


def _identities(items: FmriSplit) -> np.ndarray:
    """Which stimulus each item shows, int [n]: items are of one where their names or their pixels are the same."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    name = np.unique(items.stimulus, return_inverse=True)[1]
    if not items.images.size:
        return name
    digests = [hashlib.sha256(items.images[i].tobytes()).hexdigest() for i in range(len(items))]
    picture = len(items) + np.unique(digests, return_inverse=True)[1]
    links = coo_array((np.ones(len(items)), (name, picture)), shape=(2 * len(items), 2 * len(items)))
    group: np.ndarray = connected_components(links, directed=False)[1]
    return group[name]


# ---------------------------------------------------------------- the rules


def _chosen(train: FmriSplit, shown: np.ndarray, others: bool, share: float, fold: int) -> _Choice:
    """Args:
    shown: of :func:`_identities`.
    others: whether the test set has categories that are not trained on.
    """
    categories, counts = np.unique(train.category, return_counts=True)
    if others and len(categories) >= FEWEST_CATEGORIES:
        small = categories[counts <= max(share * len(train), float(np.median(counts)))]  # not all of COCO (BOLD5000)
        chosen = _some(small, share, fold)
        return _Choice(np.isin(train.category, chosen), f"{len(chosen)} of {len(categories)} training categories")
    return _runs(train, shown, share, fold) or _stimuli(train, shown, share, fold) or _items(shown, share, fold)


def _runs(train: FmriSplit, shown: np.ndarray, share: float, fold: int) -> _Choice | None:
    """None where the rule does not apply."""
    if train.run is None or len(runs := np.unique(train.run)) < FEWEST_RUNS:
        return None
    held, n, wanted = np.zeros(len(train), dtype=bool), 0, _count(len(runs), share)
    for run in _order(runs, fold * wanted):
        more = held | (train.run == run)
        apart = not np.isin(shown[more], shown[~more]).any()
        if n < wanted and apart and np.isin(train.category, train.category[~more]).all():
            held, n = more, n + 1
    return _Choice(held, f"{n} of {len(runs)} runs of the training set") if n else None


def _stimuli(train: FmriSplit, shown: np.ndarray, share: float, fold: int) -> _Choice | None:
    """None where no category has two."""
    found = _of_each(
        [np.unique(shown[train.category == category]) for category in np.unique(train.category)], share, fold
    )
    told = f"{len(found)} of {len(np.unique(shown))} training stimuli, some of each category"
    return _Choice(np.isin(shown, found), told) if len(found) else None


def _items(shown: np.ndarray, share: float, fold: int) -> _Choice:
    found = _of_each([np.flatnonzero(shown == stimulus) for stimulus in np.unique(shown)], share, fold)
    told = f"{len(found)} of {len(shown)} training items, whose stimuli are trained on too, some of each"
    return _Choice(np.isin(np.arange(len(shown)), found), told, stimuli_apart=False)


def _of_each(groups: list[np.ndarray], share: float, fold: int) -> np.ndarray:
    """Some of each group that has two or more, none twice."""
    chosen = [_some(group, share, fold) for group in groups if len(group) > 1]
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))


def _some(units: np.ndarray, share: float, fold: int) -> np.ndarray:
    """A share of them; folds take other ones, as long as there are any."""
    n = _count(len(units), share)
    return _order(units, fold * n)[:n]


def _count(n: int, share: float) -> int:
    return min(max(1, round(share * n)), n - 1)


def _order(units: np.ndarray, start: int) -> np.ndarray:
    """In an order of chance that is always the same, turned so that it begins elsewhere."""
    return np.roll(np.random.default_rng(SEED).permutation(units), -start)
