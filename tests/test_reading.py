"""YAML and settings as people write them: read rightly, or refused in one line with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnd.errors import UserError
from cnd.experiment import load_experiment, override, parse_assignments
from cnd.reading import parse_yaml
from sweeps.space import load_search
from sweeps.spec import load_sweep

EXPERIMENT = "data: {kind: simulated}\n"
SWEEP = "name: mine\ntitle: Mine\nreference: 'no'\nrows: [{id: no}, {id: 010}, {id: on, set: {KEY: VALUE}}]\n"
SEARCH = "name: mine\ntitle: Mine\nspace: {decoder.phase1.mask_ratio: {kind: float, low: 0.1, high: 0.9}}\n"
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "experiment": (EXPERIMENT, load_experiment),
    "sweep": (SWEEP, lambda path: load_sweep(str(path))),
    "search": (SEARCH, lambda path: load_search(str(path))),
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("true", True),
        ("010", "010"),
        ("0o10", 8),
        ("-12_000", -12_000),
        ("0x1f", 31),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2024-01-31", "2024-01-31"),
        (".5", 0.5),
        ("1.0e-4", 1e-4),
        (".inf", float("inf")),
        ("~", None),
    ],
)
def test_plain_words(text: str, value: Any) -> None:
    assert (found := parse_yaml(text, "text")[1]) == value and type(found) is type(value)


def test_ids_are_the_words_that_stand_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SWEEP.replace("KEY: VALUE", "decoder.phase1.enabled: no"))
    sweep = load_sweep(str(path))
    assert [row.id for row in sweep.rows] == ["no", "010", "on"] and sweep.reference == "no"
    (tmp_path / "base.yaml").write_text(EXPERIMENT)
    base = load_experiment(tmp_path / "base.yaml")
    assert override(base, sweep.rows[2].set, "row").decoder.phase1.enabled is False
    assert override(base, parse_assignments(["decoder.phase1.enabled=off"]), "--set").decoder.phase1.enabled is False
    path.write_text(SWEEP.replace("id: 010", "id: true"))
    with pytest.raises(UserError, match=r"mine.yaml:4: rows.1.id = True: must be text: put it in quotes, 'true'"):
        load_sweep(str(path))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_other_encodings_are_refused_alike(tmp_path: Path, reader: str, encoding: str) -> None:
    text, read = READERS[reader]
    path = tmp_path / "mine.yaml"
    path.write_bytes(f"description: é\n{text}".encode(encoding))
    with pytest.raises(UserError, match=r"mine\.yaml: is not UTF-8 text \(byte \d+\); save it as UTF-8"):
        read(path)
    path.write_bytes(text.encode("utf-8-sig"))  # as Windows editors save it
    assert read(path).name == "mine"


@pytest.mark.parametrize(
    ("reader", "before", "after", "told"),
    [
        ("experiment", "data:", "minutes_per_trial: .inf\ndata:", "minutes_per_trial = inf: must be a finite number"),
        ("experiment", "data:", "minutes_per_trial: 1:30\ndata:", "minutes_per_trial = '1:30': must be a valid number"),
        ("search", "0.9", ".inf", "high = inf: must be a finite number"),
        ("search", "low: 0.1", "low: 1:30", "low = '1:30': must be a valid number"),
        ("search", "float, low: 0.1, high: 0.9", "categorical, choices: [no, yes]", "'no' is text here; write true or"),
        ("search", "float, low: 0.1, high: 0.9", "categorical, choices: [010, 020]", "'010' is text here; write true"),
        ("search", "high: 0.9", "high: 0.9, when: {decoder.kind: no}", "'no' is text here"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, reader: str, before: str, after: str, told: str) -> None:
    text, read = READERS[reader]
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(UserError) as error:
        read(path)
    assert told in str(error.value) and str(error.value).startswith(f"{path}:") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("evaluation.n_way=50", "evaluation.n_way = 50: must be a list, e.g. [50]"),
        ("evaluation.metrics=ssim", "evaluation.metrics = 'ssim': must be a list, e.g. [ssim]"),
        (
            "evaluation.metrics=[ssim]",
            "evaluation.metrics.0 = 'ssim': must be a mapping of settings, e.g. {kind: ssim}",
        ),
        ("evaluation.classifiers={kind: timm}", "evaluation.classifiers: must be a list, e.g. [{kind: timm}]"),
        ("evaluation.headline=3", "evaluation.headline = 3: must be text: put it in quotes, '3'"),
        ("decoder=ridge", "decoder = 'ridge': must be a mapping of settings, e.g. {kind: ridge}"),
        (
            "data.kind=gott",
            "data.kind = 'gott': there is no such kind; did you mean 'god'? There are: simulated, digit",
        ),
        (
            "data.kind=xyz",
            "data.kind = 'xyz': there is no such kind; valid: bold5000, digits69, folder, god, simulated",
        ),
        ("sampling.steps=.inf", "sampling.steps = inf: must be a finite number"),
        ("label_map=true", "label_map = True: must be a path"),
    ],
)
def test_settings_of_the_wrong_type_say_what_belongs_there(tmp_path: Path, assignment: str, told: str) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(EXPERIMENT)
    with pytest.raises(UserError) as error:
        override(load_experiment(path), parse_assignments([assignment]), "--set")
    assert str(error.value).startswith(f"--set: {told}") and "\n" not in str(error.value)
