"""The parts keep what the protocols promise, and run together. Run by ``tests/test_example_package.py``."""

from __future__ import annotations

from pathlib import Path

from decoder_suite import DecoderSuite  # of cnd's tests/conformance
from metric_suite import MetricSuite
from my_package.data import StripesData
from my_package.decoder import NeighboursDecoder
from my_package.metric import PixelError

from cnd.data import validation
from cnd.experiment import parse_experiment
from cnd.json_files import read_json
from cnd.workflow.cache import StageCache
from cnd.workflow.run import run


class TestNeighbours(DecoderSuite):
    decoder = NeighboursDecoder()


class TestPixelError(MetricSuite):
    metric = PixelError()


def test_the_source_has_a_validation_split_without_saying_so() -> None:
    source = StripesData()
    whole, made = source.load(0), validation.load(source, 0.1, 0)
    assert len(made.test) == 10 and not set(made.train.stimulus) & set(made.test.stimulus)
    assert {*made.train.stimulus, *made.test.stimulus} == set(whole.train.stimulus)


def test_they_run_together(tmp_path: Path) -> None:
    experiment = parse_experiment(
        {
            "name": "mine",
            "data": {"kind": "stripes"},
            "decoder": {"kind": "neighbours", "n_neighbours": 3},
            "sampling": {"steps": 2, "samples_per_item": 2},
            "evaluation": {"metrics": [{"kind": "pixel_error"}]},
        },
        "this test",
    )
    summary = read_json(run(experiment, StageCache(tmp_path)) / "summary.json")
    assert summary["n_items"] == 20 and 0 < summary["scores"]["pixel_error"] < 255
