"""The examples of the guides: commands are parsed, YAML is read as what it is, Python is compiled, keys are complete.

Those of ``cnd/README.md`` run in ``test_api.py``, parts of ``cnd/decoders/README.md`` in ``test_example_package.py``.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnd.__main__ import _parser as finished_runs
from cnd.data.tools.command import _parser as data_tools
from cnd.data.tools.nifti.recipe import read_recipe
from cnd.experiment import parse_assignments
from cnd.generators.__main__ import _parser as generators
from cnd.workflow.label_map import read_label_map
from sweeps.options import parse
from sweeps.run import main
from sweeps.space import CategoricalPart, FloatPart, IntPart, Search, is_search, load_search
from sweeps.spec import SCORE, Column, Control, Factor, Row, Sweep, load_sweep
from sweeps.start import EXPANDED

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    ".",
    "cnd",
    "cnd/data",
    "cnd/decoders",
    "cnd/generators",
    "cnd/metrics",
    "experiments",
    "reports",
    "sweeps",
    "sweeps/cluster",
)
GUIDES = [ROOT / folder / "README.md" for folder in FOLDERS]
SWEEP, DATA, GENERATORS, RUNS = "sweeps/run.py", "-m cnd.data ", "-m cnd.generators ", "-m cnd "
OWN_FILE = re.compile(r"\b(mine|mind_vis)\.yaml|\bFILE\b")  # stands for a file of the reader's


def blocks(guide: Path, language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.M | re.S)
    return found


def commands(guide: Path) -> list[str]:
    """Command lines of blocks, without comments, and those within lines of text."""
    lines = "\n".join(blocks(guide, "sh")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:\.venv/bin/)?(?:python )?sweeps/run\.py [^`]+)`", guide.read_text(encoding="utf-8"))
    lines += re.findall(r"`\.venv/bin/(python -m cnd(?:\.generators)? [^`|]+)`", guide.read_text(encoding="utf-8"))
    return [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]


def test_the_patterns_above_find_the_examples() -> None:
    told = {guide.parent.name: " ".join(commands(guide)) for guide in GUIDES}
    assert all("sweeps/run.py" in text for folder, text in told.items() if folder != "cnd" and folder != "decoders")
    assert told["sweeps"].count("sweeps/run.py") > 25 and told["data"].count("-m cnd.data") > 2
    assert "--set 'data.unlabelled=" in told["experiments"]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_commands_are_understood_and_name_what_there_is(guide: Path) -> None:
    for line in commands(guide):
        if SWEEP in line:
            words = shlex.split(line.partition(SWEEP)[2])
            options = parse([word for word in words if word != "..."])
            parse_assignments(options.set)
            named = options.sweep if options.command not in ("compare", "new", "schema") else ""
            if named and named != SCORE and not OWN_FILE.search(named):
                (load_search if is_search(named) else load_sweep)(named)
        elif DATA in line:
            data_tools().parse_args(shlex.split(line.partition(DATA)[2]))
        elif GENERATORS in line:
            generators().parse_args(shlex.split(line.partition(GENERATORS)[2]))
        elif RUNS in line:
            finished_runs().parse_args(shlex.split(line.partition(RUNS)[2]))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_yaml_is_read_as_what_it_is(guide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(blocks(guide, "yaml")):
        content, path = yaml.safe_load(text), tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        if "title" in content:  # a sweep or a search: it would run
            words = ["plan", str(path), "--experiment", "simulated", "--output", str(tmp_path / "runs")]
            code, told = main(words), capsys.readouterr().err
            published = all(line.startswith("missing: pretrains/") for line in told.splitlines())  # files not at hand
            assert code == 0 or published, told
        elif "estimate" in content:
            assert read_recipe(path, [])
        else:
            assert read_label_map(path)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.parent.name)
def test_python_and_toml_are_written_right(guide: Path) -> None:
    for text in blocks(guide, "python"):
        if not text.startswith(">>>"):
            compile(text, str(guide), "exec")
    for text in blocks(guide, "toml"):
        assert tomllib.loads(text)


def keys(content: Any) -> set[str]:
    """Of all mappings within."""
    if isinstance(content, dict):
        return set(content) | {key for value in content.values() for key in keys(value)}
    return {key for value in content for key in keys(value)} if isinstance(content, list) else set()


def test_the_guide_to_sweeps_shows_every_key() -> None:
    tables, searches = set[str](), set[str]()
    for text in blocks(ROOT / "sweeps" / "README.md", "yaml"):
        content = yaml.safe_load(text)
        (searches if "space" in content else tables).update(keys(content))
    models = (Sweep, Row, Control, Column, Factor)
    assert {name for model in models for name in model.model_fields} | {*EXPANDED} <= tables
    parts = {name for part in (FloatPart, IntPart, CategoricalPart) for name in part.model_fields}
    assert {*Search.model_fields} - {"storage"} | parts <= searches  # a database, which the example does not open
