"""What MLflow shows with the run of a whole sweep: its report, its table as JSON, and its scores as metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cnd.json_files import read_json
from cnd.keys import code_hash, content_hash, file_hash
from cnd.store.folder import SweepFolder

if TYPE_CHECKING:
    from sweeps.session import Scribe


class Headline(NamedTuple):
    """What is told of a sweep.

    Attributes:
        inputs: hash of what it is made of, so that nothing is told twice.
        metrics: accuracies as fractions of 1.
        tags: what the scores are worth.
        files: report, and the folder of its tables.
        text: the results as JSON.
        when: milliseconds, when the report was written.
    """

    inputs: str
    metrics: dict[str, float]
    tags: dict[str, str]
    files: list[Path]
    text: str
    when: int


def tell_table(scribe: Scribe, status: str) -> None:
    """Write to MLflow what it lacks of a table whose report is written."""
    from reports.build import made_from

    _tell(scribe, made_from(scribe.folder.path), of_table, status)


def tell_search(scribe: Scribe, status: str) -> None:
    """The same of a search whose page is written."""
    from reports.build import made_from

    folder = scribe.folder
    files = [folder.path / "search.json", folder.path / "trials.json"]
    final = made_from(SweepFolder(folder.output, read_json(files[0])["final"]).path)
    _tell(scribe, content_hash([code_hash("reports.search"), *map(file_hash, files), final]), of_search, status)


def _tell(scribe: Scribe, inputs: str, make: Callable[[SweepFolder, str], Headline | None], status: str) -> None:
    """Whoever runs the sweep meanwhile does it in our place."""
    if not scribe.lacks(inputs) or scribe.folder.in_use():
        return
    if (headline := make(scribe.folder, inputs)) is not None:
        with scribe.folder.locked():
            scribe.headline(headline, status)


def of_table(folder: SweepFolder, inputs: str) -> Headline | None:
    """``score.ROW``, ``difference.ROW``, and the reference's score by its name; None while no trial is complete."""
    from cnd.store.tracking import HEADLINE
    from reports.results import results

    found = results(folder.output, folder.path)
    name, rows = found["metric"], found["rows"]
    scores = {row["row"]: row["scores"][name]["score"] for row in rows if name in row["scores"]}
    differences = {row["row"]: row["difference"]["difference"] for row in rows if row["difference"]}
    if not scores:
        return None
    metrics = {HEADLINE + name: scores.get(found["reference"])}
    metrics |= {f"score.{row}": score for row, score in scores.items()}
    metrics |= {f"difference.{row}": difference for row, difference in differences.items()}
    files = [path for path in (*folder.reports, folder.tables) if path.exists()]
    return Headline(inputs, _known(metrics), _worth(found), files, _text(found), _written(files[0]))


def of_search(folder: SweepFolder, inputs: str) -> Headline | None:
    """The winner's scores on validation data, and on the test set beside the reference's; None as of a table."""
    from reports.results import results
    from sweeps.search import REFERENCE

    described, trials = read_json(folder.path / "search.json"), read_json(folder.path / "trials.json")
    first = described["objectives"][0]
    done = [trial for trial in trials if trial["state"] == "complete"]
    if not done:
        return None
    sign = 1 if first["higher_is_better"] else -1
    winner = max(done, key=lambda trial: sign * trial["values"][0])  # the first of equals, as export-best has it
    names = [objective["name"] for objective in described["objectives"]]
    metrics = {f"validation.{name}": value for name, value in zip(names, winner["values"], strict=True)}
    tags = {"winner": f"trial {winner['number']:04d}", "settings": json.dumps(winner["settings"])}
    final, found = SweepFolder(folder.output, described["final"]), None
    if final.exists():
        found = results(final.output, final.path)
        rows = {row["row"]: row["scores"].get(found["metric"], {}).get("score") for row in found["rows"]}
        own = f"t{winner['number']:04d}"  # not among them where it is the reference itself
        metrics |= {"test.winner": rows.get(own, rows.get(REFERENCE)), "test.reference": rows.get(REFERENCE)}
        tags |= _worth(found)
    text = _text({"objectives": names, "trials": trials, "final": found})
    page = folder.reports[0]
    return Headline(inputs, _known(metrics), tags, [page], text, _written(page))


def _worth(found: Mapping[str, Any]) -> dict[str, str]:
    """Seeds, and which rows had not converged."""
    rows = [row for row in found["rows"] if not row["control"]]
    seeds = sorted({len(row["seeds"]) for row in rows if row["seeds"]})
    late = [row["row"] for row in rows if row["converged"] == "no"]
    known = [row for row in rows if row["converged"] in ("yes", "no", "at chance")]
    converged = f"no: {', '.join(late)}" if late else "yes" if known else "not measured"
    several = [str(seed) for seed in dict.fromkeys([*seeds[:1], *seeds[-1:]])]
    return {"converged": converged, "seeds": " to ".join(several), "reference": found["reference"]}


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1) + "\n"


def _written(page: Path) -> int:
    return page.stat().st_mtime_ns // 10**6
