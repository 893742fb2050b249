"""Bad settings give one line that names the file and line or the option, the key, and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.data.simulated import SimulatedData
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override, parse_assignments, parse_experiment

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture
def base() -> Experiment:
    return Experiment(name="x", data=SimulatedData())


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_experiments_load(path: Path):
    assert load_experiment(path).name == path.stem


def test_defaults_are_the_papers(base: Experiment):
    encoder, phase1, phase2 = base.decoder.encoder, base.decoder.phase1, base.decoder.phase2
    assert (encoder.depth, encoder.width, encoder.patch_size) == (24, 1024, 16)
    assert (phase1.alpha_s, phase1.alpha_c, phase1.mask_ratio) == (1.0, 0.5, 0.75)
    assert (phase2.concept_depth, phase2.lr, phase2.batch_size) == (4, 5.3e-5, 8)
    assert base.sampling.steps == 250 and base.evaluation.n_way == (50, 100)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ({"phase1.mask_rato": 0.5}, "unknown key 'decoder.phase1.mask_rato'; did you mean 'mask_ratio'?"),
        ({"phse1.mask_ratio": 0.5}, "unknown key 'phse1.mask_ratio'; did you mean 'phase1'?"),
        ({"phase1.mask_ratio": 1.5}, "phase1.mask_ratio = 1.5: must be less than 1"),
        ({"phase1.alpha_s": 0, "phase1.alpha_c": 0}, "nothing to train"),
        ({"data.kind": "nothing"}, "valid: bold5000, digits69"),
        ({"evaluation.n_way": [300]}, "exceeds the 200 classes"),
        ({"phase2.timestep_range": [600, 400]}, "0 <= low < high <= 1000"),
        ({"data.noise_correlation": 0.9, "data.drift": 0.3}, "must not exceed 1"),
        ({"seed": -1}, "seed = -1: must be greater than or equal to 0"),
    ],
)
def test_override_explains(base: Experiment, edits: dict, expected: str):
    with pytest.raises(UserError) as caught:
        override(base, edits, "--set")
    message = str(caught.value)
    assert message.startswith("--set: ") and expected in message and "\n" not in message


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_numbers_that_are_not_finite_are_refused(base: Experiment, value: str):
    with pytest.raises(UserError, match=r"--set: data\.snr = .*must be a finite number"):
        override(base, parse_assignments([f"data.snr={value}"]), "--set")


def test_home_in_paths(base: Experiment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    changed = override(base, {"data.kind": "digits69", "data.path": "~/a.mat", "label_map": "~/map.yaml"}, "--set")
    assert changed.data.path == Path("/home/somebody/a.mat") and changed.label_map == Path("/home/somebody/map.yaml")
    with pytest.raises(UserError, match=r"--set: data\.path = '~no-such-user/a'"):
        override(base, {"data.kind": "digits69", "data.path": "~no-such-user/a"}, "--set")


def test_settings_may_stand_before_their_kind(base: Experiment):
    edits = {"data.n_folds": 5, "data.path": "a.mat", "data.kind": "digits69", "seed": 3, "phase1.mask_ratio": 0.5}
    changed = override(base, edits, "--set")
    assert changed.data.kind == "digits69" and (changed.data.n_folds, changed.data.path) == (5, Path("a.mat"))
    assert changed == override(base, dict(sorted(edits.items(), key=lambda edit: edit[0] != "data.kind")), "--set")
    ridge = override(base, {"decoder": {"kind": "oracle"}, "decoder.kind": "ridge"}, "--set")
    assert ridge.decoder.kind == "ridge"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_of_another_encoding_is_told(encoding: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("description: für mich\ndata: {kind: simulated}\n".encode(encoding))
    with pytest.raises(UserError, match=r"mine\.yaml: is not UTF-8 text \(byte \d+\); save it as UTF-8"):
        load_experiment(path)


def test_override_of_kind_drops_the_old_settings(base: Experiment):
    changed = override(base, {"data.kind": "digits69", "data.path": "a.mat"}, "--set")
    assert changed.data.kind == "digits69"
    ridge = override(base, {"decoder.kind": "ridge"}, "--set")
    assert override(ridge, {"decoder.kind": "cnd", "phase1.mask_ratio": 0.5}, "--set").decoder.phase1.mask_ratio == 0.5


def test_another_decoder_starts_from_what_the_experiment_has_for_it(base: Experiment):
    chosen = {"decoder.phase2.max_steps": 7, "rivals": {"dc_ldm": {"phase2": {"lr": 0.25, "context_tokens": 3}}}}
    changed = override(base, chosen, "--set")
    assert changed.decoder == override(base, {"decoder.phase2.max_steps": 7}, "--set").decoder
    rival = override(changed, {"decoder.kind": "dc_ldm", "decoder.phase2.context_tokens": 4}, "--set").decoder
    assert (rival.phase2.lr, rival.phase2.max_steps, rival.phase2.context_tokens) == (0.25, 7, 4)
    assert override(changed, {"decoder.kind": "ridge"}, "--set").decoder.kind == "ridge"
    edited = override(base, {"rivals.dc_ldm.phase1.lr": 0.5, "decoder.kind": "dc_ldm"}, "--set")
    assert edited.decoder.phase1.lr == 0.5


@pytest.mark.parametrize(
    ("rivals", "expected"),
    [
        ("{dc_ldn: {}}", "there is no decoder 'dc_ldn'; did you mean 'dc_ldm'?"),
        ("{dc_ldm: {phase2: {lrr: 1}}}", "dc_ldm: unknown key 'phase2.lrr'; did you mean 'lr'?"),
        ("{ridge: {n_splits: 0}}", "ridge: n_splits = 0"),
    ],
)
def test_settings_of_a_rival_are_checked_when_the_file_is_read(tmp_path: Path, rivals: str, expected: str):
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{kind: simulated}}\nrivals: {rivals}\n")
    with pytest.raises(UserError) as caught:
        load_experiment(file)
    assert str(caught.value).startswith(f"{file}:2: rivals") and expected in str(caught.value)


def test_override_leaves_the_base_alone(base: Experiment):
    assert override(base, {"phase1.mask_ratio": 0.5}, "--set").decoder.phase1.mask_ratio == 0.5
    assert base.decoder.phase1.mask_ratio == 0.75
    given = {"decoder": {"kind": "cnd"}, "phase1.mask_ratio": 0.5}
    assert override(base, given, "--set").decoder.phase1.mask_ratio == 0.5
    assert given["decoder"] == {"kind": "cnd"}


def test_old_spellings_go_on_working(base: Experiment, tmp_path: Path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "data: {kind: simulated}\nshuffle_pairs: true\nencoder: {depth: 2}\nphase1: {mask_ratio: 0.5}\n"
        "phase2: {validation_fraction: 0.2, concept_depth: 3}\n"
    )
    edits = {"shuffle_pairs": True, "encoder.depth": 2, "phase1.mask_ratio": 0.5}
    edits |= {"phase2.validation_fraction": 0.2, "phase2.concept_depth": 3, "name": "old"}
    assert load_experiment(path) == override(base, edits, "--set")
    record = base.model_dump(mode="json") | {"decoder": {"kind": "ridge"}, "phase1": {"mask_ratio": 0.5}}
    assert parse_experiment(record, "record").decoder.kind == "ridge"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:\n  kind: simulated\n  snrr: 3\n", ":3: unknown key 'data.snrr'; did you mean 'snr'?"),
        (
            "data:\n  kind: simulated\nphase1:\n  mask_ratio: 2\n",
            ":4: decoder.phase1.mask_ratio = 2: must be less than 1",
        ),
        ("data:\n  kind: simulated\n  kind: digits69\n", ":3: key 'data.kind' appears twice"),
        ("data: {snr: 1}\n", "'data.kind' is missing"),
        ("seed: 1\n", "key 'data' is missing"),
        ("- 1\n", ":1: expected a mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_file_errors_name_file_and_line(tmp_path: Path, text: str, expected: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_experiment(path)
    assert str(path) in str(caught.value) and expected in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / "none.yaml")


def test_assignments_are_yaml():
    assert parse_assignments(["a.b=0.5", "c=[1, 2]", "d=x=y"]) == {"a.b": 0.5, "c": [1, 2], "d": "x=y"}
    with pytest.raises(UserError, match="expected key=value"):
        parse_assignments(["a.b"])
