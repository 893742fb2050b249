"""The command under kills: ``python tests/chaos.py --points 200``.

A sweep over a pipeline that computes nothing is run again and again. Each time a signal is sent at one of the command's
own writes: a file opened to be written, renamed, deleted; a statement or a commit of MLflow's store. They are caught
at the call by Python's audit events (PEP 578) and by SQLAlchemy's dialect, so nothing in the command knows of it. When
the sweep is complete, it must look as if nothing had happened (:meth:`Sweep.problems`); then the next one begins, until
all points were hit. Most commands run their trials in their own process; the last points are with Ray.

Prints what was hit and what was wrong; exit code 1 where anything was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path[:2]), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

NAME = "ablation_table1-smoke"
WORDS = ["ablation_table1", "--experiment", "smoke", "--rows", "10,oracle", "--max-concurrent", "2"]
TRIALS = ["10-seed0", "oracle-seed0"]
WAITING = "hang-4"  # in the cache: no trial ends (tests/fake_pipeline.py)
STARTED = f"rename sweeps/{NAME}/trials/TRIAL.json"
A_SWEEP = 8  # kills that one sweep gets, at most
MOST_MISSES = 8  # of a point
HUNG = 300  # seconds after which a command counts as hung, on a machine that has much else to do
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGHUP)
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
WITH_RAY = (
    ("worker", signal.SIGKILL), ("group", signal.SIGTERM), ("raylet", signal.SIGKILL), ("group", signal.SIGKILL),
    ("gcs_server", signal.SIGKILL), ("driver", signal.SIGTERM), ("worker", signal.SIGTERM), ("group", signal.SIGINT),
    ("driver", signal.SIGKILL), ("group", signal.SIGHUP),
)  # fmt: skip
PROCESSES = {"worker": r"ray::ImplicitFunc", "raylet": r"\S*/raylet ", "gcs_server": r"\S*/gcs_server "}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")
ALIKE = (
    (r"[0-9a-f]{32}", "KEY"),
    (r"(uploading\.|\.tmp-|\.new)\w+", r"\1"),
    (r"(\.json|\.html|\.csv|\.tex)\.\d+$", r"\1"),
    ("|".join(TRIALS), "TRIAL"),
    (r"(cache|mlartifacts/KEY/artifacts)/[\w-]+(?=/)", r"\1/STAGE"),
    (r"/[.]?[\w.-]+(?=\.(parquet|png|csv|tex|safetensors)$)", "/FILE"),
)
"""Parts of paths that do not make it another call."""


@dataclass
class Point:
    """One kill.

    Attributes:
        call: what the command is about to do.
        nth: of such calls since the sweep began; with Ray, of the command.
        number: of the signal.
        target: what it is sent to: driver, group, worker, raylet or gcs_server.
    """

    call: str
    nth: int
    number: signal.Signals
    target: str = "driver"
    with_ray: bool = False
    misses: int = 0  # commands that did not come to it

    def __str__(self) -> str:
        return f"{self.number.name} to {self.target}{' of Ray' if self.with_ray else ''} at {self.call} ({self.nth})"


# ---------------------------------------------------------------- in the command's process


def watch(output: Path, note: Callable[[str], None]) -> None:
    """Name each write below a folder before it is done; for the rest of the process."""
    from sqlalchemy.engine.default import DefaultDialect

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in CHANGES:
            path = args[event == "os.rename"]
        else:
            return
        if isinstance(path, int) or not (name := str(path)).startswith(f"{output}/") or os.path.isdir(name):
            return
        if name.endswith((".lock", "built.txt")) or (event == "os.mkdir" and ".tmp-" not in name):
            return
        name = name[len(str(output)) + 1 :]
        for pattern, put in ALIKE:
            name = re.sub(pattern, put, name)
        note(f"{event.rpartition('.')[2]} {name}")

    def noting(method: str, name: Callable[[Any], str]) -> None:
        original = getattr(DefaultDialect, method)

        def wrapped(self: Any, *args: Any, **more: Any) -> Any:
            if called := name(args):
                note(f"sql {called}")
            return original(self, *args, **more)

        setattr(DefaultDialect, method, wrapped)

    written = ""

    def statement(args: Any) -> str:
        nonlocal written
        found = re.match(r"(INSERT INTO|UPDATE|DELETE FROM) (\w+)", args[1])
        written = found[0] if found else written
        return found[0] if found else ""

    sys.addaudithook(hook)
    noting("do_execute", statement)
    noting("do_executemany", statement)
    noting("do_commit", lambda _: f"COMMIT {written}")


def ray_processes(driver: int, kind: str) -> list[int]:
    """Those that a command started, of one kind; "": all."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parts = line + (folder / "environ").read_bytes().decode(errors="replace")
            if f"cnd-ray-{driver}-" in parts and re.match(PROCESSES.get(kind, ""), line):
                found.append(int(folder.name))
    return [process for process in found if process != driver]


def send(point: Point) -> None:
    if point.target == "group":
        os.killpg(0, point.number)
    elif point.target == "driver":
        os.kill(os.getpid(), point.number)
    for process in ray_processes(os.getpid(), point.target) if point.target in PROCESSES else []:
        os.kill(process, point.number)


def in_the_child(output: Path, point: Point | None, arm: int, with_ray: bool) -> None:
    """The command, in a process group of its own, with its signals as a shell leaves them.

    Args:
        arm: at the how manieth call of this command the signal is sent.
    """
    os.setsid()
    for number in EXIT_CODES:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    told = os.open(output.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    calls = os.open(output.with_suffix(".calls"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    code, seen = 70, Counter[str]()
    try:
        import serial_executor

        from sweeps import run, session

        if not with_ray:
            session.__dict__["run_jobs"] = serial_executor.run_jobs

        def note(call: str) -> None:
            seen[call] += 1
            os.write(calls, f"{call}\n".encode())
            if point and call == point.call and seen[call] == arm:
                os.write(calls, b"HIT\n")
                if point.target == "worker":  # what it does not run is to end
                    (output / "cache" / WAITING).unlink()
                send(point)

        watch(output, note)
        code = run.main([*WORDS, "--output", str(output)], "fake_pipeline")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# ---------------------------------------------------------------- a sweep, and what must be true of it


@dataclass
class Sweep:
    """An output folder.

    Attributes:
        calls: that its commands have come to.
        complete: results that were whole after the last command, with what would change if they were made again.
        drivers: processes of its commands.
        left: runs in MLflow that were RUNNING before the last command, as those that are killed outright leave them.
    """

    output: Path
    calls: Counter[str] = field(default_factory=Counter)
    complete: dict[str, tuple[int, int]] = field(default_factory=dict)
    drivers: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def command(self, point: Point | None = None, with_ray: bool = False) -> tuple[int, bool]:
        """Run the command once: its exit code, or minus the signal that ended it; and whether the point was hit."""
        arm = 0 if point is None else point.nth if with_ray else max(1, point.nth - self.calls[point.call])
        self.left = self._running()
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            in_the_child(self.output, point, arm, with_ray)
        self.drivers.append(child)
        code = _wait(child)
        told = self.output.with_suffix(".calls").read_text().splitlines()
        self.calls.update(call for call in told if call != "HIT")
        return code, "HIT" in told

    def results(self) -> dict[str, tuple[int, int]]:
        manifests = [path for path in self.output.glob("cache/*/*/manifest.json") if path.parent.name.isalnum()]
        stats = {path.parent.relative_to(self.output).as_posix(): path.stat() for path in manifests}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

    def runs(self) -> list[tuple[str, str, str]]:
        """(experiment, name, status) of every run in MLflow."""
        if not (self.output / "mlflow.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self.output / "mlflow.db")) as store:
            query = "select e.name, r.name, r.status from runs r join experiments e using (experiment_id)"
            return sorted(store.execute(query).fetchall())

    def _running(self) -> list[str]:
        return [name for _, name, status in self.runs() if status == "RUNNING"]

    def shown(self) -> list[str]:
        """The lines of the report without what two undisturbed runs differ in: folder, times and MLflow's ids.

        How long a trial took is not known where the command was killed between its result and its file.
        """
        path = self.output / "reports" / f"{NAME}.html"
        html = path.read_text() if path.exists() else ""
        varying = re.escape(str(self.output)), r"[0-9a-f]{32}", r"\d+ s\b|–(?=</td>)", r"\d{4}-\d\d-\d\d \d\d:\d\d"
        return re.sub("|".join(varying), "", html).splitlines()

    def _made_again(self) -> Iterator[str]:
        now = self.results()
        again = [name for name, was in self.complete.items() if now.get(name) != was]
        yield from (f"{name} was complete and was made again" for name in again)
        self.complete = now

    def after_a_kill(self, point: Point, code: int) -> Iterator[str]:
        """What is wrong already."""
        yield from self._made_again()
        if code == 124:
            yield f"hung for {HUNG} s"
        if point.target in ("driver", "group"):
            if code != (wanted := EXIT_CODES.get(point.number, -point.number)):
                yield f"exit code {code} instead of {wanted}"
            if point.number in EXIT_CODES and (own := set(self._running()) - set(self.left)):
                yield f"RUNNING in MLflow: {own}"
        elif code not in (0, 1):
            yield f"exit code {code} instead of 0 or 1"

    def problems(self, undisturbed: Sweep) -> Iterator[str]:
        """What is wrong when the last command ended by itself."""
        folder = self.output / "sweeps" / NAME
        trials = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("trials/*.json"))}
        states = {name: (t["state"], t["error"], bool(t["run_id"])) for name, t in trials.items()}
        if states != dict.fromkeys(TRIALS, ("complete", None, True)):
            yield f"trial files: {states}"
        if sorted({trial["record"] for trial in trials.values()} - set(self.results())):
            yield "a trial's record is not there"
        yield from self._made_again()
        if sorted(self.results()) != sorted(undisturbed.results()):
            yield f"other results: {set(self.results()) ^ set(undisturbed.results())}"
        if self.runs() != undisturbed.runs():
            yield f"MLflow: {self.runs()}"
        if self.shown() != undisturbed.shown():
            yield "another report"
        if left := [str(path.relative_to(self.output)) for path in self.output.rglob("*") if _is_left(path)]:
            yield f"left over: {left}"
        for place in {tempfile.gettempdir(), "/tmp"}:
            if folders := [p for driver in self.drivers for p in Path(place).glob(f"cnd-ray-{driver}-*")]:
                yield f"left over: {folders}"
        if processes := [p for driver in self.drivers for p in ray_processes(driver, "")]:
            yield f"processes of Ray: {processes}"
        for word in ("verify", "doctor"):
            told = self.output.with_suffix(f".{word}")
            with told.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                from sweeps import run

                code = run.main([word, *WORDS[:3], "--output", str(self.output)], "fake_pipeline")
            if code:
                yield f"{word}: {told.read_text()}"


def _is_left(path: Path) -> bool:
    """Whether a file is of a write that was never finished."""
    hidden = path.is_file() and path.name.startswith(".") and not path.name.endswith(".lock")
    return hidden or "damaged-" in path.name or ".tmp-" in path.name


def _wait(child: int) -> int:
    """The exit code of a child; one that hangs is killed with its group."""
    until = time.monotonic() + HUNG
    while time.monotonic() < until:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


# ---------------------------------------------------------------- all of them


def plan(calls: list[str], points: int, seed: int) -> list[Point]:
    """Each call of an undisturbed run once, at one of its places, then each once more; one of ten with Ray."""
    draw, counts, found = random.Random(seed), Counter(calls), list[Point]()
    with_ray = [WITH_RAY[n % len(WITH_RAY)] for n in range(points // 10)]
    while len(found) < points - len(with_ray):
        names = draw.sample(sorted(counts), len(counts))
        found += [Point(call, draw.randint(1, counts[call]), SIGNALS[n % len(SIGNALS)]) for n, call in enumerate(names)]
    del found[points - len(with_ray) :]
    return found + [Point(STARTED, 3, number, target, with_ray=True) for target, number in with_ray]


class Chaos:
    """Kills, sweep after sweep, in an empty folder."""

    def __init__(self, place: Path) -> None:
        self.place, self.hit, self.wrong = place, list[Point](), list[str]()
        self.sweeps, self.commands = 0, 0
        self.undisturbed = Sweep(place / "undisturbed")
        code, _ = self.undisturbed.command()
        if code:
            raise SystemExit(f"the undisturbed run ended with {code}:\n{_told(self.undisturbed)}")
        self.calls = self.undisturbed.output.with_suffix(".calls").read_text().splitlines()

    def run(self, points: list[Point]) -> None:
        """Kills of one sweep come in the order of its calls; one that a resumed sweep does not come to is put off."""
        at = {(call, n): index for index, (call, n) in enumerate(_counted(self.calls))}
        for with_ray in (False, True):
            left = [point for point in points if point.with_ray == with_ray]
            while left:
                batch = left[:A_SWEEP] if with_ray else sorted(left[:A_SWEEP], key=lambda p: at[p.call, p.nth])
                left = self.sweep(batch, with_ray) + left[A_SWEEP:]
                self.wrong += [f"never came to {point}" for point in left if point.misses > MOST_MISSES]
                left = [point for point in left if point.misses <= MOST_MISSES]

    def sweep(self, points: list[Point], with_ray: bool) -> list[Point]:
        """One sweep until it is complete; the points that were not hit are returned."""
        self.sweeps += 1
        sweep, missed, done = Sweep(self.place / f"sweep{self.sweeps}"), list[Point](), False
        (sweep.output / "cache").mkdir(parents=True)
        waits = sweep.output / "cache" / WAITING
        for point in points:
            if done:
                missed.append(point)  # for the next sweep
                continue
            if with_ray:
                waits.touch()
            code, hit = sweep.command(point, with_ray)
            done = not hit and code == 0
            if hit:
                self.hit.append(point)
                self._note(sweep, str(point), sweep.after_a_kill(point, code))
            else:  # how often something is written depends a little on time
                earlier = point.nth if with_ray else (point.nth + 1) // 2
                missed.append(replace(point, nth=earlier, misses=point.misses + 1))
                self._note(sweep, f"without {point}", [f"exit code {code}"] if code else [])
        waits.unlink(missing_ok=True)
        if not done and (code := sweep.command()[0]):
            self._note(sweep, "the last command", [f"exit code {code}\n{_told(sweep)}"])
        self._note(sweep, "in the end", sweep.problems(self.undisturbed))
        self.commands += len(sweep.drivers)
        if not any(line.startswith(f"{sweep.output.name}:") for line in self.wrong):
            for path in self.place.glob(f"{sweep.output.name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return missed

    def _note(self, sweep: Sweep, what: str, wrong: Any) -> None:
        for problem in wrong:
            self.wrong.append(f"{sweep.output.name}: {what}: {problem}")
            print(self.wrong[-1], flush=True)


def _counted(calls: list[str]) -> Iterator[tuple[str, int]]:
    seen = Counter[str]()
    for call in calls:
        seen[call] += 1
        yield call, seen[call]


def _told(sweep: Sweep) -> str:
    return sweep.output.with_suffix(".out").read_text()[-2000:]


def _load(store: Path) -> None:
    """Import beforehand what the commands import, and make an empty store for them to copy: each takes seconds."""
    import fake_pipeline  # noqa: F401
    import matplotlib  # noqa: F401
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import serial_executor  # noqa: F401

    import reports.build
    import reports.looks
    import reports.noops
    import reports.results
    import reports.verify  # noqa: F401
    import sweeps.run  # noqa: F401
    from cnd.store import database, tracking

    database.make(store, tracking._create_tables)
    tracking._create_tables = lambda path: shutil.copyfile(store, path)  # type: ignore[assignment]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200, help="kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of their places")
    parser.add_argument("--only", default="", help="points whose line has this in it, e.g. raylet")
    options = parser.parse_args()
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    _load(place / "empty.db")
    chaos = Chaos(place)
    chaos.run([p for p in plan(chaos.calls, options.points, options.seed) if options.only in str(p)])
    if not chaos.wrong:
        shutil.rmtree(place)
    calls = {point.call for point in chaos.hit}
    signals = Counter(f"{point.number.name} to {point.target}" for point in chaos.hit)
    print(f"{len(chaos.hit)} kills at {len(calls)} of {len(set(chaos.calls))} calls: {dict(sorted(signals.items()))}")
    print(f"{chaos.commands} commands, {chaos.sweeps} sweeps, {time.monotonic() - began:.0f} s of wall time")
    print(f"{len(chaos.wrong)} problems" + (f"; see {place}" if chaos.wrong else ""))
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
