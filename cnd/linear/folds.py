"""The folds that a penalty is chosen on."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import GroupKFold, KFold

from cnd.errors import UserError


def folds_of(n_items: int, n_splits: int, groups: np.ndarray | None) -> np.ndarray:
    """Fold of each item, int [n_items]: whole groups where there are enough of them, else shuffled items.

    Raises:
        UserError: fewer than two items.
    """
    if n_items < 2:
        raise UserError(f"a penalty is chosen by cross-validation: two training items are needed, there are {n_items}")
    items, fold = np.zeros((n_items, 1)), np.empty(n_items, dtype=int)
    if groups is not None and len(np.unique(groups)) >= n_splits:
        splits = GroupKFold(n_splits).split(items, groups=groups)
    else:
        splits = KFold(min(n_splits, n_items), shuffle=True, random_state=0).split(items)
    for index, (_, held) in enumerate(splits):
        fold[held] = index
    return fold
