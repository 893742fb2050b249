"""What is to be known of a data set as a step: looked for once, told by every record, plan and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnd.data.findings import Findings, findings, one_of_a_kind, twins_told
from cnd.json_files import read_json, write_json
from cnd.protocols import Bench, FmriDataset
from cnd.steps import Step

FILE = "findings.json"


def make_findings(bench: Bench, folder: Path, data: Step) -> None:
    """Look at one fold."""
    dataset: FmriDataset = bench.value(data)
    write_json(folder / FILE, findings(dataset)._asdict())


def load_findings(bench: Bench, folder: Path, data: Step) -> Findings:
    """Read what :func:`make_findings` wrote."""
    return read_findings(folder)


def read_findings(folder: Path) -> Findings:
    """As :func:`load_findings`, for those who only read."""
    content: dict[str, Any] = read_json(folder / FILE)
    return Findings.of(**content)


def told(folds: list[Findings]) -> tuple[list[str], list[str]]:
    """Warnings and remarks on all folds of a data set together, a sentence each."""
    shared = twins_told([fold.stimulus for fold in folds], [fold.twins for fold in folds])
    return [shared] if shared else [], one_of_a_kind(remark for fold in folds for remark in fold.remarks)
