"""The end of a search: reference and best trials, retrained with fresh seeds, on the test set."""

from __future__ import annotations

import argparse

from cnd.errors import UserError
from cnd.experiment import Experiment, override
from cnd.json_files import write_json
from cnd.store.folder import read_known
from reports.scale import titles
from sweeps import run as table
from sweeps.confounds import differing
from sweeps.request import Request
from sweeps.search import REFERENCE, Outcome, best
from sweeps.search_request import FINAL_FILE, SearchRequest
from sweeps.spec import Column, Row, Sweep


class FinalRequest(Request):
    """The table of reference and best trials: on train and validation data, with fresh seeds, scored on test."""

    def __init__(self, request: SearchRequest, chosen: list[Outcome]) -> None:
        self.of, self.winners = request, chosen
        options = argparse.Namespace(**vars(request.options))
        options.seeds, options.analysis, options.interventions = request.search.final.seeds, "none", "none"
        options.trials = options.hours = options.storage = options.max_seeds = None
        super().__init__(options, request.pipeline)

    def _asked_for(self) -> tuple[Sweep, Experiment, list[str]]:
        fresh = {"seed": self.of.base.seed + self.of.search.seeds}
        return final_sweep(self.of, self.winners), override(self.of.base, fresh, "--seeds"), []

    def words(self) -> list[str]:
        return [self.of.search.name, "--experiment", self.of.base.name]


def final_sweep(request: SearchRequest, chosen: list[Outcome]) -> Sweep:
    """A row for the reference and for each of the chosen."""
    search = request.search
    scaled = dict.fromkeys(key for part in search.space.values() for key in part.scaling())
    varied = [*search.space, *scaled]
    rows = [Row(id=REFERENCE, label="as the experiment is")]
    rows += [Row(id=f"t{o.number:04d}", label=f"trial {o.number:04d}", set=o.settings) for o in chosen]
    return Sweep(
        name=f"{search.name}_final",
        title=f"{search.title}: the best on test data",
        description="The best trials of the search and the reference, trained on train and validation data with seeds "
        "that the search did not use, and scored on the test set.",
        reference=REFERENCE,
        columns=tuple(
            Column(key=title.replace(" ", "_"), title=title, setting=key) for key, title in titles(varied).items()
        ),
        rows=tuple(rows),
    )


def run_final(request: SearchRequest, found: list[Outcome]) -> int:
    """Run the final comparison, and note which trials were looked at; returns its exit code."""
    same = {o.number for o in found if not _differs(request, o)}
    chosen = best([o for o in found if o.number not in same], request.up, request.search.final.best)
    path = request.folder.path / FINAL_FILE
    looks = read_known(path).get("looks") if path.is_file() else []
    if looks is None:
        raise UserError(f"{path}: is damaged; it counts the looks at the test set: delete it to count anew")
    numbers = [o.number for o in chosen]
    if numbers not in looks:
        looks.append(numbers)
    write_json(path, {"chosen": numbers, "looks": looks})
    return table.run(FinalRequest(request, chosen))


def _differs(request: SearchRequest, outcome: Outcome) -> bool:
    """From the reference."""
    return bool(differing(request.base, override(request.base, outcome.settings, request.search.where())))
