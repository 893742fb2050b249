"""Nearest neighbours: the mean class embedding of the training items whose patterns are most like the item's."""

from __future__ import annotations

from typing import ClassVar, Literal

from cnd.decoders.conditioned import ByEmbedding
from cnd.protocols import Decoder, Fitted, Lab, TrainingSet
from cnd.settings import Positive


class NeighboursDecoder(Decoder):
    """k nearest neighbours from voxels into the concept bank, then the frozen generator."""

    uses_labels: ClassVar[bool] = True  # of training items
    has_condition: ClassVar[bool] = True  # it can be analysed
    kind: Literal["neighbours"] = "neighbours"
    n_neighbours: Positive = 5

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Remember the training items, and the embedding of the class of each."""
        from sklearn.neighbors import KNeighborsRegressor  # here, since the plan imports this module

        embeddings = lab.generator.concept_bank.cpu().numpy()[lab.classes]
        model = KNeighborsRegressor(min(self.n_neighbours, len(embeddings)), metric="correlation")
        model.fit(train.items.fmri, embeddings)
        return ByEmbedding(model.predict, lab)
