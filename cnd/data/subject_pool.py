"""The training fMRI of another subject of the same data source, for pre-training in Phase 1."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import SerializeAsAny

from cnd.errors import UserError
from cnd.protocols import DataSource, Pool
from cnd.settings import Positive


class SubjectPool(Pool):
    """The training fMRI of another subject of the same data source."""

    kind: Literal["subject"] = "subject"
    subject: Positive | str

    def of(self, source: DataSource) -> Pool:
        """Bound to the source.

        Raises:
            UserError: the source has no such subject, or it is the target itself.
        """
        other = source.of_subject(self.subject)
        if other == source:
            raise UserError(f"data.unlabelled: subject {self.subject} is the target itself; name another subject")
        return _Bound(source=other.model_copy(update={"unlabelled": ()}))


class _Bound(Pool):
    """A pool whose source is known."""

    kind: Literal["bound"] = "bound"
    source: SerializeAsAny[DataSource]

    def identity(self) -> Any:
        return self.source.pool_identity()

    def missing(self) -> list[str]:
        return [told.splitlines()[0] for told in self.source.missing()]  # the target tells where to get it

    def check(self) -> None:
        self.source.check()

    def patterns(self) -> np.ndarray:
        return self.source.load(self.source.folds()[0]).train.fmri
