"""Every metric keeps what :class:`cnd.protocols.Metric` promises."""

from __future__ import annotations

import pandas as pd
import pytest
from decoder_suite import SMOKE
from metric_suite import MetricSuite

from cnd import registry
from cnd.data.simulated import SimulatedData
from cnd.experiment import override
from cnd.metrics.nway import NWay
from cnd.workflow.cache import StageCache
from cnd.workflow.run import run


class TestNWay(MetricSuite):
    settings = {"kind": "nway", "n": 10, "top_k": 2}


def test_every_metric_is_here() -> None:
    ours = {kind for kind, part in registry.classes("cnd.metrics").items() if part.__module__.startswith("cnd.")}
    assert ours == {suite.settings["kind"] for suite in MetricSuite.__subclasses__()}


def test_folds_are_scored_together(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric sees the items of all folds at once, as retrieval among them needs."""
    monkeypatch.setattr(SimulatedData, "folds", lambda self: [0, 1])
    asked, score = [], NWay.score
    monkeypatch.setattr(NWay, "score", lambda self, *given: asked.append(len(given[1])) or score(self, *given))
    edits = {"decoder.kind": "nearest_training_image", "evaluation.truth": "label"}
    record = run(override(SMOKE, edits, "test"), StageCache(tmp_path_factory.mktemp("folds")))
    items = pd.read_parquet(record / "items.parquet")
    assert asked == [100, 100] and list(items["item"]) == list(range(100))  # of 50 and of 100 ways
    assert list(items["fold"]) == [0] * 50 + [1] * 50 and (items["truth"] == items["category"]).all()
