"""A command on a search: its file, its base experiment, and where its results lie."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from typing import Any

from cnd.errors import UserError
from cnd.experiment import override, parse_assignments, today
from cnd.store.folder import SweepFolder, read_known
from cnd.workflow.cache import StageCache
from sweeps.options import AUTO, OF_SEARCH
from sweeps.request import concurrency
from sweeps.search import REFERENCE, OptunaSearch, Outcome, Start, higher_is_better, objective_names, start_of
from sweeps.space import Search, folds_note, load_search, on_test, validation
from sweeps.spec import load_base, load_sweep
from sweeps.storage import database, journal, without_password

STUDY_FILE, SEARCH_FILE, TRIALS_FILE, FINAL_FILE = "study.jsonl", "search.json", "trials.json", "final.json"
FOREIGN = ("rows", "subjects", "stimuli", "reconstructions", "judge")


class SearchRequest:
    """A command's search and base experiment; and the places where their results lie.

    Attributes:
        base: of the reference; the trials are the same on validation data (``blind``).
    """

    def __init__(self, options: argparse.Namespace, pipeline: str) -> None:
        self.options, self.pipeline = options, pipeline
        for name in FOREIGN:
            if getattr(options, name):
                raise UserError(f"--{name}: belongs to tables, and '{options.sweep}' is a search; leave it out")
        if options.repair and options.command != "doctor":
            raise UserError("--repair: belongs to tables; a search does not make finished trials again; leave it out")
        if options.fuse > 1 or options.until_converged:
            name = "fuse" if options.fuse > 1 else "until-converged"
            raise UserError(f"--{name}: trials of a search run each by itself, as long as its file says; leave it out")
        if options.seeds == AUTO:
            raise UserError(f"--seeds {AUTO}: belongs to tables; a search takes a number of training seeds a trial")
        self.search = self._asked_for()
        self.edits = parse_assignments(options.set)
        for key in self.edits:
            if today(key) in self.search.space:
                raise UserError(f"--set {key}: has no effect, because {self.search.name} varies it")
        bare = load_base(options.experiment, self.edits)
        edited = override(bare, self.search.set, self.search.where()) if self.search.set else bare
        self.search = self.search.of(edited)
        self.base, self.blind = (make(edited, self.search.where()) for make in (on_test, validation))
        self.search.tried(self.blind)
        self.names = objective_names(self.search, self.blind)
        self.up = higher_is_better(self.search, self.blind)
        self.folder = SweepFolder(options.output, f"{self.search.name}-{self.base.name}")
        self.cache = StageCache(options.cache)

    def _asked_for(self) -> Search:
        search, options = load_search(self.options.sweep), self.options
        changes = {name: getattr(options, name) for name in OF_SEARCH if getattr(options, name) is not None}
        if options.seeds is not None:
            changes["seeds"] = options.seeds
        return search.model_copy(update=changes)  # the options were checked already

    def starts(self) -> tuple[list[Start], list[str]]:
        """The points to begin with: the reference, where the space has it, then those enqueued; and what to say.

        Raises:
            UserError: a row is not in the space.
        """
        starts, notes = [], []
        try:
            starts.append(start_of(self.search, self.base, self.base, REFERENCE))
        except UserError as error:
            notes.append(f"the reference is no trial of the search, because it lies outside of its space: {error}")
        if (wanted := self.search.enqueue) is not None:
            listed = load_sweep(wanted.sweep)
            known = {row.id: row for row in listed.rows}
            for row in wanted.rows or known:
                if row not in known:
                    raise UserError(f"{self.search.where()}: enqueue: there is no row '{row}' in {listed.name}")
                edited = override(self.base, known[row].set, listed.where(row))
                starts.append(start_of(self.search, self.base, edited, f"row {row} of {listed.name}"))
        return starts, notes

    def steps(self) -> Callable[..., Any]:
        found: Callable[..., Any] = importlib.import_module(self.pipeline).steps
        return found

    def proposer(self, mend: bool = False) -> OptunaSearch:
        """Args:
        mend: this process holds the folder, and goes on with the search.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        starts, url = self.starts()[0] if mend else (), self.search.storage
        if url is None:
            storage = journal(self.folder.path / STUDY_FILE, mend)
            return OptunaSearch(self.search, self.blind, self.steps(), storage, starts)
        return OptunaSearch(self.search, self.blind, self.steps(), database(url), starts, self.folder.name)

    def known(self) -> list[Outcome]:
        """Of every proposal so far.

        Raises:
            UserError: the search was never run here.
        """
        self.folder.definition()
        return self.proposer().outcomes()

    def concurrency(self) -> int:
        """Trials at once (:func:`sweeps.request.concurrency`)."""
        return concurrency(self.options)

    def missing(self) -> list[str]:
        """Files that are not there."""
        found: list[str] = importlib.import_module(self.pipeline).missing(self.base)
        return found

    def examined(self) -> list[str]:
        """What must be known of the data.

        Raises:
            UserError: data, generator and judges do not go together, or a data file is malformed.
        """
        found: list[str] = importlib.import_module(self.pipeline).examine(self.base, self.cache)
        return [*found, *(line for line in self.notes() if line not in found)]

    def notes(self) -> list[str]:
        """What is scored in place of the test set, as far as it is known already, and what that means.

        Raises:
            UserError: nothing can be held out.
        """
        found: list[str] = importlib.import_module(self.pipeline).examine(self.blind, self.cache)
        return [line for line in [*found, folds_note(self.base)] if line]

    # ---- what a search is, for going on with it

    def identity(self) -> dict[str, Any]:
        """What must stay the same, as JSON values."""
        space = self.search.model_dump(mode="json")["space"]
        bounds = {"low", "high", "step"}  # these may change
        skipped = {"name", "description", "rivals", "minutes_per_trial"}
        return {
            "space": {key: {k: v for k, v in part.items() if k not in bounds} for key, part in space.items()},
            "objectives": self.names,
            "seeds": self.search.seeds,
            "storage": None if self.search.storage is None else without_password(self.search.storage),
            "experiment": self.blind.model_dump(mode="json", exclude=skipped),
        }

    def check_same(self) -> None:
        """Raises:
        UserError: what lies in the folder is another search.
        """
        path = self.folder.path / SEARCH_FILE
        if not path.is_file():
            return
        before, now = read_known(path).get("identity"), json.loads(json.dumps(self.identity()))
        if before is None:  # it is damaged, and written anew
            return
        if changed := _first_difference(before, now):
            raise UserError(
                f"{self.folder.path}: holds a search with another {changed}, whose trials do not compare; change it "
                "back, give this search another name, or choose another --output"
            )


def _first_difference(before: Any, now: Any, at: str = "") -> str:
    """Dotted key of the first difference of JSON values; "" where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = (_first_difference(before.get(k), now.get(k), f"{at}.{k}" if at else k) for k in keys)
        return next((difference for difference in found if difference), "")
    return "" if before == now else at
