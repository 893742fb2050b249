"""Metrics that choose among more stimuli, items or classes than there are: refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from data_writers import write_miyawaki
from test_pools import SMOKE, own_data

from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.workflow.cache import StageCache
from cnd.workflow.examine import examine
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[1]
IDENTIFICATION = {"kind": "identification", "n": 7}
RETRIEVAL = {"kind": "retrieval", "pool": 7}


def scored_by(experiment: Experiment, metric: dict[str, Any], **edits: Any) -> Experiment:
    return override(experiment, {"evaluation.n_way": [2], "evaluation.metrics": [metric], **edits}, "test")


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (
            IDENTIFICATION,
            "among 7 stimuli, and the test items show 6 different ones; set its n to 6 or less",
        ),
        (RETRIEVAL, "draws pools of 7, and there are 6 items; set its pool to 6 or less"),
        ({"kind": "nway", "n": 4, "candidates": "dataset"}, "n_way = 4 exceeds the 3 classes of the data set"),
    ],
)
def test_more_than_the_test_set_offers(metric: dict[str, Any], told: str, tmp_path: Path) -> None:
    experiment, cache = own_data(tmp_path, SMOKE.generator.class_names()[:3]), StageCache(tmp_path / "cache")
    fits = {"n": 6} if "n" in metric and metric["kind"] != "nway" else {"pool": 6} if "pool" in metric else {"n": 3}
    examine(scored_by(experiment, metric | fits), cache)
    with pytest.raises(UserError, match=told):
        examine(scored_by(experiment, metric), cache)


def test_what_is_held_out_counts_where_it_is_scored(tmp_path: Path) -> None:
    experiment, cache = own_data(tmp_path, SMOKE.generator.class_names()[:3]), StageCache(tmp_path / "cache")
    with pytest.raises(UserError, match=r"show 3 different ones; set its n to 3 or less \(.*split.validation\)"):
        examine(scored_by(experiment, IDENTIFICATION, **{"split.validation": 0.5}), cache)


def test_the_simulated_cortex_tells_its_test_stimuli_beforehand(smoke_record: Path, tmp_path: Path) -> None:
    known = SMOKE.data.test_stimuli()
    assert known is not None and known.names == pd.read_parquet(smoke_record / "items.parquet")["stimulus"].tolist()
    with pytest.raises(UserError, match="draws pools of 51, and there are 50 items"):
        examine(scored_by(SMOKE, RETRIEVAL | {"pool": 51}), StageCache(tmp_path / "cache"))


def test_the_plan_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_miyawaki(file := tmp_path / "miyawaki.mat")
    words = ["--experiment", "miyawaki", "--output", str(tmp_path), "--set", f"data.path={file}"]
    assert main(["plan", "pixels", *words, "--set", "evaluation.metrics=[{kind: identification, n: 21}]"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "the test items show 20 different ones; set its n to 20 or less" in told


def test_a_training_whose_held_out_items_are_too_few_has_no_curve(tmp_path: Path) -> None:
    from cnd.workflow.bench import Workbench
    from cnd.workflow.plan import given_of

    write_miyawaki(file := tmp_path / "miyawaki.mat")
    for n, has_one in ((20, False), (2, True)):
        edits = {"data.path": file, "evaluation.metrics": [{"kind": "identification", "n": n}]}
        experiment = override(load_experiment(ROOT / "experiments" / "miyawaki.yaml"), edits, "test")
        scorer = given_of(experiment, experiment.data, 0).validation_score
        score = Workbench(StageCache(tmp_path / "cache")).value(scorer)
        assert (score is not None) == has_one
