"""A lab's servers, as sweeps/cluster/mlflow_server.sh starts them: killed in mid-sweep with their database."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_nodes import descendants, free_port
from test_executor import Command, _names

pytest.importorskip("psycopg2")
pytestmark = pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")), reason="PostgreSQL is not installed"
)

SCRIPT = Path(__file__).resolve().parents[1] / "sweeps" / "cluster" / "mlflow_server.sh"
SERIAL = """
import sys
import serial_executor
from sweeps import session
from sweeps.run import main
session.run_jobs = serial_executor.run_jobs
sys.exit(main(sys.argv[1:], "fake_pipeline"))
"""
OTHERS = ("--analysis", "none", "--interventions", "none")


class Servers:
    """MLflow and PostgreSQL over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.database = folder, free_port(), free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.searches = f"postgresql+psycopg2://cnd@127.0.0.1:{self.database}/searches"
        self.environment = {"PGPASSFILE": str(folder / "pgpass")}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until MLflow answers."""
        ports = {"PORT": str(self.port), "PGPORT": str(self.database), "WORKERS": "1", "PYTHON": sys.executable}
        with (self.folder / "told.txt").open("a") as told:
            self._process = subprocess.Popen([SCRIPT, self.folder], env=os.environ | ports, stdout=told, stderr=told)
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health").close()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self.folder / "told.txt").read_text())

    def kill(self) -> None:
        """Both at once, as where the power is cut."""
        assert self._process is not None
        postmaster = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])
        for pid in (self._process.pid, *descendants(self._process.pid), postmaster, *descendants(postmaster)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)


@pytest.fixture
def servers() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))  # where the user postgres may look
    folder.chmod(0o755)
    found = Servers(folder)
    found.start()
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder)


class Serial(Command):
    """Without Ray."""

    def __init__(self, output: Path, servers: Servers, driver: str) -> None:
        output.mkdir()
        super().__init__(output, "")
        self.driver = driver
        self.environment |= servers.environment
        self.environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")

    def asks(self, *words: str) -> subprocess.Popen[str]:
        always = ("--experiment", "smoke", "--output", str(self.output), "--json")
        self.words = [sys.executable, "-P", "-c", self.driver, *words, *always]
        return self.start()


NO_FINAL = """
from sweeps import search_run
def write_report(request):
    page = request.folder.reports[0]
    page.parent.mkdir(exist_ok=True)
    page.write_text("<p>none")
    return page
search_run.run_final, search_run.write_report = lambda request, found: 0, write_report
"""


def test_servers_and_database_are_killed_in_mid_sweep_and_in_mid_search_and_lose_nothing(
    tmp_path: Path, servers: Servers, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Serial(tmp_path / "sweep", servers, SERIAL)
    search = Serial(tmp_path / "search", servers, SERIAL.replace("sys.exit(", NO_FINAL + "sys.exit("))
    (sweep.cache / "hang-2").touch()  # row 8, after row 10
    (search.cache / "hang-4").touch()  # every trial
    shutil.copy(empty_store, search.output / "mlflow.db")
    space: dict[str, Any] = {"decoder.phase1.mask_ratio": {"kind": "float", "low": 0.1, "high": 0.9}}
    content = {"name": "mine", "title": "Mine", "space": space, "sampler": {"kind": "random"}, "trials": 4}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    of_search = ("run", str(tmp_path / "mine.yaml"), "--max-concurrent", "1", "--storage", servers.searches)

    def searching() -> subprocess.Popen[str]:
        process = search.asks(*of_search)
        search.wait_until(lambda: "0000-seed0  running  record" in search.errors.read_text())
        return process

    killed = searching()
    killed.kill()
    killed.wait()
    process = sweep.asks("ablation_table1", "--rows", "8,10,oracle", "--tracking-uri", servers.uri, *OTHERS)
    searcher = searching()
    sweep.wait_until(lambda: sweep.state("10").get("tracking_uri") and sweep.state("8")["run_id"])
    servers.kill()
    (sweep.cache / "hang-2").unlink()
    (search.cache / "hang-4").unlink()

    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, sweep.errors.read_text()  # MLflow lacks something
    assert {trial["state"] for trial in json.loads(out)["trials"]} == {"complete"}
    assert "sync, or the same command again, writes what it lacks" in sweep.errors.read_text()
    assert searcher.wait(300) == 2
    told = search.errors.read_text()
    assert "Traceback" not in told and "no longer answers" in told.splitlines()[-1]

    servers.start()
    process = sweep.asks("sync", "ablation_table1", "--tracking-uri", servers.uri)
    told = json.loads(process.communicate(timeout=300)[0])
    assert (told["finished"], told["lacking"], told["error"]) == (3, 2, None)  # row 8 and the oracle
    assert in_mlflow(servers, "ablation_table1-smoke") == dict(_names("8", "10", "oracle"))
    assert search.asks(*of_search).wait(300) == 0, search.errors.read_text()
    import optuna

    monkeypatch.setenv("PGPASSFILE", servers.environment["PGPASSFILE"])
    study = optuna.load_study(study_name="mine-smoke", storage=servers.searches)
    assert [(t.number, t.state.name) for t in study.trials] == [(number, "COMPLETE") for number in range(4)]
    assert {*sweep.built().values(), *search.built().values()} == {1}
    assert sum(stage.startswith("record") for stage in search.built()) == 4


def in_mlflow(servers: Servers, sweep: str) -> dict[str, str]:
    """Status by name; a name that is there twice fails."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=servers.uri)
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id])
    names = [run.data.tags["cnd.name"] for run in runs]
    assert len(set(names)) == len(names)
    for name, run in zip(names, runs, strict=True):  # the server keeps the files
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert name.startswith("sweep") or "summary.json" in files
    return {name: run.info.status for name, run in zip(names, runs, strict=True)}
