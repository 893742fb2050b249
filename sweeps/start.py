"""What a new sweep begins with: a file to edit (``new``); schemas by which an editor knows its keys (``schema``)."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from cnd.errors import UserError
from cnd.experiment import Experiment
from cnd.places import COMMAND, SWEEPS, names_in
from sweeps.space import Search
from sweeps.spec import SCORE, Sweep

SKETCH = """\
# Run it in seconds, only to see that it works, then on the simulated cortex (or --experiment NAME or FILE):
#   {command} {file} --experiment smoke
#   {command} {file} --seeds 3
# Every key with an example: "Write a sweep" in sweeps/README.md.
name: {name}  # of its folder, report and runs in MLflow
title: "{name}: how deep a concept learner, and how much of a pattern Phase 1 hides"
description: What a reader of the report must know.
reference: paper  # the row that differences are taken from
varies: [decoder.phase2.concept_depth, decoder.phase1.mask_ratio]  # a row that differs in more is refused
# seeds: 3        # training seeds where --seeds is not given; verdicts need two or more

columns:  # settings that the table shows
  - {{key: depth, title: concept layers, setting: decoder.phase2.concept_depth}}
  - {{key: mask, title: mask ratio, setting: decoder.phase1.mask_ratio}}

rows:  # each is the experiment (--experiment) with these settings changed; {command} plan {file} lists them
  - {{id: paper, label: as in the paper, set: {{decoder.phase2.concept_depth: 4, decoder.phase1.mask_ratio: 0.75}}}}
  - {{id: shallow, label: two concept layers, set: {{decoder.phase2.concept_depth: 2}}}}
  - {{id: half, label: half hidden, set: {{decoder.phase1.mask_ratio: 0.5}}}}

controls:  # what the scores mean: they share the settings of a row
  - {{id: ridge, label: ridge, base: paper, role: rival, set: {{decoder.kind: ridge}}}}
  - {{id: shuffled, label: shuffled pairs, base: paper, role: "null", set: {{split.shuffle_pairs: true}}}}
  - {{id: oracle, label: the true class, base: paper, role: ceiling, set: {{decoder.kind: oracle}}}}
"""

EXPANDED: dict[str, Any] = {
    "grid": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
    "leave_one_out": {"type": "object"},
    "set": {"type": "object"},
}
"""Keys of a sweep that are written out as rows before it is read (:mod:`sweeps.grids`)."""


def new(options: Namespace) -> int:
    """Write a sweep to begin with, and print its path.

    Raises:
        UserError: the file is there, its name is taken or cannot be one, or it cannot be written.
    """
    given = options.sweep
    path = Path(given if given.endswith((".yaml", ".yml")) else f"{given}.yaml").expanduser()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", path.stem):
        raise UserError(f"new {given}: use letters, digits, '_' and '.', because it becomes part of a file name")
    if path.stem in (SCORE, *names_in(SWEEPS)):
        raise UserError(f"new {given}: is a sweep that ships; choose another name")
    shown = str(path) if path.parent == Path() else path.as_posix()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(SKETCH.format(name=path.stem, file=shown, command=COMMAND))
    except FileExistsError:
        raise UserError(f"{path}: is there already; choose another name") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    print(path)
    return 0


def schema(options: Namespace) -> int:
    """Write a JSON schema of sweeps, searches and experiments, parts of installed packages included; print the paths.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(options.sweep).expanduser()
    for name, content in schemas().items():
        path = folder / f"{name}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        print(path)
    return 0


def schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas of what a user writes, by name; settings of rows are free in them, and checked by the command."""
    sweep, search, experiment = (model.model_json_schema() for model in (Sweep, Search, Experiment))
    sweep["properties"] |= EXPANDED
    written_out = ("reference", "rows")  # grid and leave_one_out bring them
    sweep["required"] = [key for key in sweep["required"] if key not in written_out]
    sweep["anyOf"] = [{"required": [*written_out]}, {"required": ["grid"]}, {"required": ["leave_one_out"]}]
    experiment["required"].remove("name")  # the file's
    target = experiment["$defs"]["TargetConfig"]  # of the decoder; one word does, too
    experiment["$defs"]["TargetConfig"] = {"anyOf": [target, {"enum": ["stimuli", "generated", "embedding"]}]}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {"sweep": draft | sweep, "search": draft | search, "experiment": draft | experiment}
