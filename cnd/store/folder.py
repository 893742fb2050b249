"""What a sweep leaves in ``OUTPUT/sweeps/<sweep>-<experiment>/``: its definition, and a small JSON file a trial.

One process at a time writes here, the one that holds the folder's lock. The scores are not here but in the stage
cache; a trial's file says where.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.steps import FORMAT
from cnd.store.leftovers import remove_begun
from cnd.workflow.cache import StageCache

DEFINITION = "sweep.json"
SECONDS_TO_LOCK = 0.5  # who only asks whether a sweep runs holds its lock for a moment


class TrialLike(Protocol):
    """What is kept of a trial."""

    @property
    def name(self) -> str: ...
    @property
    def row(self) -> str: ...
    @property
    def subject(self) -> str | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def control(self) -> bool: ...
    @property
    def key(self) -> str: ...
    @property
    def stages(self) -> tuple[tuple[str, str], ...]: ...


class SweepFolder:
    """Folder of one sweep over one experiment.

    Args:
        output: the ``--output`` folder.
        name: ``<sweep>-<experiment>``.
    """

    def __init__(self, output: Path, name: str) -> None:
        if Path(name).name != name:
            raise UserError(f"{name}: cannot name a folder of results")
        self.output, self.name = output, name
        self._writing = threading.Lock()  # the run and its tracking thread both write trials
        self.path = output / "sweeps" / name
        self.reports = (output / "reports" / f"{name}.html", output / "reports" / f"{name}-cortex.html")
        self.tables = output / "reports" / f"{name}-tables"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while writing to it.

        Raises:
            UserError: another process holds it.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock)
        try:
            lock.acquire(timeout=SECONDS_TO_LOCK, poll_interval=0.05)
        except Timeout:
            raise UserError(
                f"{self.path}: another process is running this sweep; wait for it or choose --output"
            ) from None
        try:
            for folder in (self.path, self.path / "trials", self.reports[0].parent, self.tables):
                remove_begun(folder)
            yield
        finally:
            lock.release()

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def in_use(self) -> bool:
        """Whether a process is running this sweep now."""
        from filelock import FileLock, Timeout

        if not self._lock.exists():
            return False
        try:
            with FileLock(self._lock).acquire(timeout=0):
                return False
        except Timeout:
            return True

    # ---- the definition

    def define(self, content: dict[str, Any], trials: Sequence[TrialLike]) -> None:
        """Write what this sweep is now: the rows chosen by the last command, and every stage ever used.

        Args:
            content: of the definition, as JSON values, besides its trials and stages.
            trials: in the table's order.
        """
        used = set(self.stages())
        used |= {stage for trial in trials for stage in trial.stages}
        names = [{"name": t.name, "row": t.row, "subject": t.subject, "seed": t.seed} for t in trials]
        write_json(self.path / DEFINITION, {"format": FORMAT, **content, "trials": names, "stages": sorted(used)})

    def definition(self) -> dict[str, Any]:
        """The content of sweep.json.

        Raises:
            UserError: the sweep was never run here, or by another version only.
        """
        content = self._definition()
        if not content and not (self.path / DEFINITION).exists():
            raise UserError(f"{self.path}: there is no such sweep; run it first, or give its --experiment and --output")
        if is_damaged(content):
            raise UserError(f"{self.path / DEFINITION}: is damaged; `run` writes it anew and keeps what was finished")
        return readable(content, self.path / DEFINITION)

    def amend(self, **content: Any) -> None:
        """Change how the sweep that was run here is told, such as its margin.

        Raises:
            UserError: as :meth:`definition`.
        """
        write_json(self.path / DEFINITION, self.definition() | content)

    def experiment(self) -> str:
        """Name of the base experiment; "" before the sweep was run."""
        return str(self._definition().get("experiment", ""))

    def exists(self) -> bool:
        """Whether this sweep was run here, and what it is can be read.

        Raises:
            UserError: by another version.
        """
        return not is_damaged(self._definition()) and bool(self.definition())

    def seen(self) -> dict[str, Any]:
        """How many seeds and which subjects earlier commands ran, by the trials' files: for a lost definition."""
        found = [read_known(file) for file in sorted(self.path.glob("trials/*.json"))]
        seeds = {trial["seed"] for trial in found if isinstance(trial.get("seed"), int)}
        subjects = {trial["subject"] for trial in found if isinstance(trial.get("subject"), str)}
        return {"seeds": sorted(seeds), "subjects": sorted(subjects)}

    def _definition(self) -> dict[str, Any]:
        return read_known(self.path / DEFINITION)

    # ---- trials

    def trial_file(self, name: str) -> Path:
        if Path(name).name != name:
            raise UserError(f"{name}: cannot name a trial")
        return self.path / "trials" / f"{name}.json"

    def traceback_file(self, name: str) -> Path:
        return self.path / "trials" / f"{name}.traceback.txt"

    def read(self, name: str) -> dict[str, Any]:
        """What is known of a trial; empty when nothing is."""
        return read_known(self.trial_file(name))

    def write(self, trial: TrialLike, **changes: Any) -> None:
        """Change what is known of a trial. Of an earlier trial with another key nothing is kept."""
        content: dict[str, Any] = {
            "row": trial.row,
            "subject": trial.subject,
            "seed": trial.seed,
            "control": trial.control,
            "state": "pending",
            "record": None,
        }
        content |= {"key": trial.key, "run_id": None, "tracking_uri": None, "seconds": None, "error": None}
        with self._writing:
            before = self.read(trial.name)
            content |= before if before.get("key") == trial.key else {}
            write_json(self.trial_file(trial.name), content | changes)

    def record_name(self, record: Path) -> str:
        """How a trial's file names its record: relative to the output folder, where it lies inside."""
        return record.relative_to(self.output).as_posix() if record.is_relative_to(self.output) else str(record)

    def trials(self) -> list[dict[str, Any]]:
        """What is known of each trial of the last command, in the table's order.

        A trial that ran when its process was killed has the state ``interrupted``.
        """
        known, busy = self.definition()["trials"], self.in_use()
        found = []
        for entry in known:
            trial = {**entry, "state": "pending", "seconds": None, "error": None} | self.read(entry["name"])
            if trial["state"] == "running" and not busy:
                trial["state"] = "interrupted"
            found.append(trial)
        return found

    def is_complete(self, trial: TrialLike) -> bool:
        """Whether this very trial (row, seed and key) was finished by an earlier command."""
        known = self.read(trial.name)
        return known.get("key") == trial.key and known.get("state") == "complete"

    def durations(self) -> list[float]:
        """Seconds of each trial that was trained here to its end, whatever its settings."""
        found = [read_known(file) for file in sorted(self.path.glob("trials/*.json"))]
        return [float(t["seconds"]) for t in found if t.get("seconds") is not None and t.get("state") != "pruned"]

    # ---- stages

    def stages(self) -> list[tuple[str, str]]:
        """(name, key) of every stage that this sweep has used."""
        stages = self._definition().get("stages", [])
        listed = stages if isinstance(stages, list) else []
        return [(stage[0], stage[1]) for stage in listed if isinstance(stage, list) and len(stage) == 2]

    def own_stages(self) -> list[tuple[str, str]]:
        """Stages that no other sweep of the output folder uses."""
        others = [SweepFolder(self.output, p.name) for p in self.path.parent.iterdir() if p.is_dir() and p != self.path]
        shared = {stage for other in others for stage in other.stages()}
        return [stage for stage in self.stages() if stage not in shared]


def is_damaged(content: dict[str, Any]) -> bool:
    """Whether a definition lacks what every definition of this version has; one of another version is not judged."""
    if content.get("format", FORMAT) != FORMAT:
        return False
    kinds = {"trials": list, "stages": list, "rows": list, "name": str, "experiment": str}
    if not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        return True
    return not all(isinstance(stage, list) and list(map(type, stage)) == [str, str] for stage in content["stages"])


def readable(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A sweep's definition, if this version wrote it.

    Raises:
        UserError: an older or newer version did; its results stay where they are.
    """
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: written by another version of CnD, which keeps results differently; read it with that version, "
            "or choose another --output"
        )
    return content


def damaged(cache: StageCache, stages: list[tuple[str, str]]) -> dict[str, str]:
    """What is wrong with each damaged result, by ``stage/key``; results that are not there are left out."""
    problems = {f"{name}/{key}": cache.problem(name, key) for name, key in stages if cache.path(name, key).exists()}
    return {name: problem for name, problem in problems.items() if problem}


def read_known(path: Path) -> dict[str, Any]:
    """A JSON mapping; empty where it cannot be read, as after a crash of the machine."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
