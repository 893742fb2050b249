"""Sweeps: Table 1 is the paper's, edits are validated, trials come in an order in which none waits for another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest

from cnd.data.simulated import SimulatedData
from cnd.errors import UserError
from cnd.experiment import Experiment, override
from cnd.places import EXPERIMENTS, SWEEPS, find_file, names_in
from cnd.workflow.plan import steps as real_steps
from sweeps.spec import load_base, load_sweep
from sweeps.trials import count_stages, in_table_order, resolve

# id, alpha_S, alpha_C, mask ratio, CL depth, duplicate self-contrast, score: the paper's Table 1
TABLE1 = """
0  -   -   -    4 - 4.9
1  1   0   0.75 4 - 6.28
2  0   1   0.75 4 - 6.68
3  0.5 1   0.75 4 Y 5.96
4  1   1   0.75 4 Y 6.24
5  1   0.5 0.75 4 Y 7.12
6  1   0.5 0.5  4 Y 4.84
7  1   0.5 0.25 4 Y 7.44
8  1   0.5 0.25 2 Y 7.92
9  1   0.5 0.25 6 Y 8.92
10 1   0.5 0.75 4 N 10.5
11 1   0.5 0.5  4 N 6.8
12 1   0.5 0.25 4 N 8.12
13 1   0.5 0.25 2 N 7.92
14 1   0.5 0.25 6 N 8.08
15 1   0.5 0.75 4 - 8.04
"""
BASE = Experiment(name="base", data=SimulatedData())


def _trials(
    rows: list[str] | None = None,
    seeds: int = 1,
    edits: dict[str, Any] | None = None,
    base: Experiment = BASE,
    subjects: Sequence[str] = (),
):
    sweep = load_sweep("ablation_table1")
    return resolve(sweep, base, fake_pipeline.steps, rows, seeds, edits or {}, subjects=subjects)


def test_table1_shows_what_the_paper_prints() -> None:
    sweep = load_sweep("ablation_table1")
    papers = {row.id: row.paper for row in sweep.rows}
    shown = [
        " ".join([trial.row, *(str(value) for value in trial.settings.values()), f"{papers[trial.row]:g}"])
        for trial in in_table_order(sweep, _trials())
        if not trial.control
    ]
    assert shown == [" ".join(line.split()) for line in TABLE1.strip().splitlines()]


def test_table1_rows_run_with_the_settings_they_show() -> None:
    views = {"Y": "both", "N": "first"}
    for trial in _trials():
        if trial.control or trial.row == "0":
            continue
        phase1, shown = trial.experiment.decoder.phase1, trial.settings
        assert phase1.enabled and trial.experiment.decoder.phase2.concept_depth == shown["cl_depth"]
        assert (phase1.alpha_s, phase1.alpha_c, phase1.mask_ratio) == tuple(list(shown.values())[:3])
        assert phase1.self_contrast_view == views.get(shown["dup_self_contrast"], phase1.self_contrast_view)
    views_of = {
        trial.row: trial.experiment.decoder.phase1.self_contrast_view for trial in _trials() if not trial.control
    }
    assert (views_of["1"], views_of["2"], views_of["15"]) == ("first", "first", "independent")
    assert not next(t for t in _trials() if t.row == "0").experiment.decoder.phase1.enabled


def test_sixteen_rows_share_eleven_phase_1_trainings() -> None:
    trials = _trials()
    assert len([t for t in trials if not t.control]) == 16 and count_stages(trials)["phase1"] == 11
    three = _trials(seeds=3)
    assert len(three) == 3 * len(trials) and count_stages(three)["phase1"] == 33
    assert {t.seed for t in three} == {0, 1, 2}


def test_controls_are_the_reference_row_with_one_thing_changed() -> None:
    trials = {t.row: t for t in _trials()}
    reference = trials["10"].experiment.model_dump(exclude={"split", "decoder"})
    for name in ["ridge", "shuffled", "oracle"]:
        assert trials[name].control
        assert trials[name].experiment.model_dump(exclude={"split", "decoder"}) == reference
    kinds = [trials[name].experiment.decoder.kind for name in ["ridge", "shuffled", "oracle"]]
    assert kinds == ["ridge", "cnd", "oracle"] and trials["shuffled"].experiment.split.shuffle_pairs
    assert set(trials["ridge"].settings.values()) == {"-"} and trials["shuffled"].settings == trials["10"].settings


@pytest.mark.parametrize("name", ["ablation_table1", "floors"])
@pytest.mark.parametrize("target", ["stimuli", "generated"])
def test_every_decoder_that_uses_labels_has_its_own_null(name: str, target: str) -> None:
    """Which classes occur is told by labels alone, so that the null of a decoder without labels says nothing of it."""
    base = override(BASE, {"decoder.phase2.target": target}, "test")
    trials = resolve(load_sweep(name), base, real_steps, None, 1, {})
    nulls = {t.experiment.decoder.kind for t in trials if t.role == "null"}
    compared = [t for t in trials if t.role in (None, "rival")]
    assert {t.experiment.decoder.kind for t in compared if t.experiment.decoder.learns_from_labels()} <= nulls
    assert all(t.experiment.split.shuffle_pairs for t in trials if t.role == "null")


def test_the_loss_without_fmri_is_that_of_the_experiment() -> None:
    base = override(BASE, {"decoder.phase2.target": "generated", "decoder.phase2.timestep_range": [7, 9]}, "test")
    for name in ("ablation_table1", "ceilings"):
        (trial,) = (t for t in resolve(load_sweep(name), base, real_steps, ["loss_ceiling"], 1, {}))
        decoder = trial.experiment.decoder
        assert decoder.target == base.decoder.phase2.target and decoder.timestep_range == (7, 9)
        assert decoder.context_tokens == base.decoder.phase2.context_tokens


def test_no_trial_runs_before_each_distinct_phase_1_was_begun() -> None:
    for seed in (0, 1):
        trials = [t for t in _trials(seeds=2) if t.seed == seed and t.keys("phase1")]
        keys = [t.keys("phase1") for t in trials]
        assert trials[0].row == "10" and len(set(keys[:11])) == len(set(keys)) == 11
    last = ["ridge", "ridge_shuffled", "oracle", "stimuli", "autoencoded"]
    assert [t.row for t in _trials()][-5:] == last  # they train nothing, so they fill the end
    assert [t.seed for t in _trials(seeds=2) if not t.control][:16] == [0] * 16


def test_rows_are_chosen_by_id_and_controls_come_along() -> None:
    assert {t.row for t in _trials(["0", "10"])} == {"0", "10", *(c.id for c in load_sweep("ablation_table1").controls)}
    assert {t.row for t in _trials(["10", "ridge"])} == {"10", "ridge"}
    assert {t.row for t in _trials(["oracle"])} == {"oracle"}


def test_the_base_experiments_seed_is_the_first() -> None:
    assert {t.seed for t in _trials(seeds=2, base=BASE.model_copy(update={"seed": 5}))} == {5, 6}


@pytest.mark.parametrize(
    ("rows", "edits", "message"),
    [
        (["99"], {}, "--rows: there is no row '99'"),
        (None, {"phase2.concept_depth": 3}, "--set phase2.concept_depth: has no effect"),
    ],
)
def test_choices_without_effect_are_refused(rows: list[str] | None, edits: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _trials(rows, edits=edits)


def test_a_setting_that_only_some_rows_state_may_be_set() -> None:
    assert _trials(["0"], edits={"phase1.mask_ratio": 0.6})
    with pytest.raises(UserError, match="has no effect"):
        _trials(["10"], edits={"phase1.mask_ratio": 0.6})


def test_a_row_may_begin_later_in_the_stream_of_seeds(tmp_path: Path) -> None:
    """Its place there is what rows are paired by; a control has the seeds of its base."""
    late = GOOD.replace("id: a,", "id: a, first_seed: 4,").replace("title: A table", "title: A table\nseeds: 2")
    (tmp_path / "mine.yaml").write_text(late)
    sweep = load_sweep(str(tmp_path / "mine.yaml"))
    trials = resolve(sweep, BASE.model_copy(update={"seed": 1}), fake_pipeline.steps, None, sweep.seeds, {})
    assert {t.name: t.experiment.seed for t in trials} == {
        "a-seed1": 5, "a-seed2": 6, "b-seed1": 1, "b-seed2": 2, "c-seed1": 5, "c-seed2": 6
    }  # fmt: skip


GOOD = """\
name: mine
title: A table
reference: a
columns:
  - {key: depth, title: depth, setting: phase2.concept_depth}
rows:
  - {id: a, set: {phase2.concept_depth: 2}}
  - id: b
    set: {phase2.concept_depth: 6}
controls:
  - {id: c, label: control, base: a}
"""


def test_a_table_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    sweep = load_sweep(str(tmp_path / "mine.yaml"))
    trials = resolve(sweep, BASE, fake_pipeline.steps, None, 1, {})
    assert {t.name: t.settings["depth"] for t in trials} == {"a-seed0": 2, "b-seed0": 6, "c-seed0": 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id: b", "id: a", "row 'a' appears twice"),
        ("id: b", "published: SS-AF\n    id: b", "nothing is known of a method 'SS-AF'; did you mean 'SS-AE'"),
        ("reference: a", "reference: z", "no row 'z'"),
        ("base: a", "base: z", "no row 'z'"),
        ("label: control", "lable: x", r"mine.yaml:11: unknown key 'controls.0.lable'; did you mean 'label'"),
        ("id: b", "id: b/c", r"mine.yaml:8: rows.1.id = 'b/c': use letters"),
        (
            "depth: 6",
            "dept: 6",
            r"mine.yaml:9, row b: unknown key 'decoder.phase2.concept_dept'; did you mean 'concept_depth'",
        ),
        (
            "depth: 6",
            "depth: 6, seed: 5",
            r"mine.yaml:9: rows.1.set: a row cannot set 'seed': .*first_seed, beside set",
        ),
        (
            "depth: 6",
            "depth: 6, rivals.ridge.alpha: 3",
            r"a row cannot set 'rivals.ridge.alpha': they are",
        ),
        ("id: b", f"id: {'b' * 81}", r"mine.yaml:8: rows.1.id = .*: use letters, digits, '_' and '.', at most 80"),
        ("depth: 6", "depth: 6, name: x", r"mine.yaml:9: rows.1.set: a row cannot set 'name'"),
        ("id: b", "first_seed: -1\n    id: b", "rows.1.first_seed = -1: must be greater than or equal to 0"),
        ("base: a", "base: a, first_seed: 3", "unknown key 'controls.0.first_seed'"),
        ("depth: 6", "depth: -1", r"mine.yaml:9, row b: decoder.phase2.concept_depth = -1: must be greater than or"),
        ("setting: phase2.concept_depth", "setting: phase2.depth", "column 'depth': unknown key 'phase2.depth'"),
    ],
)
def test_mistakes_in_a_table_are_told_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    (tmp_path / "mine.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        resolve(load_sweep(str(tmp_path / "mine.yaml")), BASE, fake_pipeline.steps, None, 1, {})
    assert "\n" not in str(caught.value)


def test_every_shipped_sweep_and_experiment_fits(tmp_path: Path) -> None:
    from sweeps.space import is_search

    assert {"simulated", "digits69", "smoke"} <= set(names_in(EXPERIMENTS))
    for sweep in names_in(SWEEPS):
        for experiment in names_in(EXPERIMENTS):
            base = load_base(experiment, {})
            if (sweep, experiment) in (("figure3a", "bold5000"), ("figure3a", "digits69"), ("figure4", "digits69")):
                continue  # fewer subjects
            if base.decoder.kind != "cnd" and sweep != "pixels":
                continue  # rows change parts of CnD
            if is_search(sweep) or (sweep == "data_size" and base.data.kind != "simulated"):
                continue
            assert resolve(load_sweep(sweep), base, fake_pipeline.steps, None, 1, {})


def test_published_scores_are_averaged_over_the_subjects_that_run() -> None:
    from sweeps.run import _paper

    sweep = load_sweep("figure3a")
    row = next(row for row in sweep.rows if row.id == "ss_ae")
    assert _paper(sweep, row, ["1", "3"]) == pytest.approx((2.8 + 7.8) / 2)
    assert _paper(sweep, row, ["1", "6"]) is None and _paper(sweep, sweep.controls[0], ["1"]) is None


def test_names_and_paths_that_are_not_there() -> None:
    with pytest.raises(UserError, match="unknown sweep 'ablation_table'; did you mean 'ablation_table1'"):
        load_sweep("ablation_table")
    with pytest.raises(UserError, match="there is no such file"):
        find_file("no/where.yaml", Path("."), "sweep")


def test_subjects_multiply_the_trials(tmp_path: Path) -> None:
    trials = _trials(["0", "10"], subjects=["1", "3"])
    assert len(trials) == 2 * 9 and {t.subject for t in trials} == {"1", "3"}
    assert {t.experiment.data.subject for t in trials if t.subject == "3"} == {3}
    assert all("-subject" in t.name for t in trials) and len({t.key for t in trials}) == 18
    with pytest.raises(UserError, match=r"--subjects: data.subject = '?9"):
        _trials(["10"], subjects=["9"])
