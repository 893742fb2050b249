"""Several machines: two Ray nodes on loopback, one of which is killed; what must be known of machines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray_nodes import Nodes, free_port, raylet
from test_executor import Command, _names

from cnd.workflow.cache import StageCache
from sweeps import machines
from sweeps.options import parse
from sweeps.turns import Turns


def test_trials_of_a_node_that_is_killed_go_elsewhere_in_the_same_command(tmp_path: Path) -> None:
    wanted = ("--gpus-per-trial", "0.6", "--analysis", "none", "--interventions", "none")
    with Nodes() as nodes:
        nodes.add(cpus=2, gpus=1)
        second = nodes.add(cpus=2, gpus=1)
        command = Command(tmp_path, "8,10,ridge", "--ray-address", nodes.address, *wanted)
        command.environment |= nodes.environment
        del command.environment["OMP_NUM_THREADS"]  # the tests' own
        for depth in (2, 4):  # of both rows: they hold the two slots
            (command.cache / f"hang-{depth}").touch()
        process = command.start()
        command.wait_until(lambda: command.errors.read_text().count("running  record") == 2)
        os.kill(raylet(second), signal.SIGKILL)
        command.wait_until(lambda: "pending  its machine ended" in command.errors.read_text())
        for depth in (2, 4):
            (command.cache / f"hang-{depth}").unlink()
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, command.errors.read_text()
    trials = {trial["row"]: trial for trial in json.loads(out)["trials"]}
    assert {trial["state"] for trial in trials.values()} == {"complete"}
    assert set(command.built().values()) == {1} and command.tracked() == _names("8", "10", "ridge")
    told = command.errors.read_text()
    assert told.count("  pending  its machine ended\n") == 1 and "failed" not in told
    for trial in trials.values():  # the other half of a machine's cores is another trial's: here there is none
        worker = json.loads((tmp_path / trial["record"] / "summary.json").read_text())["worker"]
        assert (worker["OMP_NUM_THREADS"], worker["CUDA_VISIBLE_DEVICES"]) == ("2", "0")


# ---------------------------------------------------------------- what is known of machines


def node(name: str, alive: bool = True, port: int = 0, **resources: float) -> dict[str, Any]:
    at = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
    return {"NodeID": name, "Alive": alive, "Resources": resources, **at}


@pytest.fixture
def answering() -> Iterator[int]:
    """A port of this machine where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_only_what_ended_with_its_machine_is_run_again(answering: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "SECONDS_TO_TELL", 0.0)
    listed = [node("old", alive=False), node("here", port=answering), node("there", port=answering)]
    known = machines.Machines(lambda: listed)
    for group, place in {"a": "here", "b": "there", "c": None}.items():
        known.given(group)
        if place:
            known.began(group, place)
    assert not known.took("a", ["a"])  # its process died, as for want of memory; its machine answers
    listed[2] = node("there", port=free_port())  # where nothing listens, though the cluster has not seen it yet
    assert known.took("b", ["b"])
    assert known.took("c", ["c"])  # it had not told where it ran
    for _ in range(machines.MOST - 1):
        known.began("b", "there")
        assert known.took("b", ["b"])
    known.began("b", "there")
    assert not known.took("b", ["b"])  # one machine after the other ends under it


def test_trials_that_share_a_machine_share_its_cores(answering: int) -> None:
    cluster = [node("head", CPU=64.0), node("a", CPU=32.0, GPU=4.0), node("b", CPU=48.0, GPU=8.0, port=answering)]
    assert machines.cpus_of_a_trial(cluster, 1) == 6
    assert machines.cpus_of_a_trial(cluster, 0.25) == 1
    assert machines.cpus_of_a_trial(cluster, 0.5) == 3
    assert machines.cpus_of_a_trial(cluster, 0) == 1
    assert machines.room(cluster, 6, 8) and not machines.room(cluster[:2], 6, 1)  # those do not answer


# ---------------------------------------------------------------- whose turn it is


def trial(name: str, phase1: str, *folds: str) -> Any:
    stages = tuple(("phase1", key) for key in (phase1, *folds) if key)
    return SimpleNamespace(name=name, keys=lambda stage: tuple(key for found, key in stages if found == stage))


def test_a_trial_that_would_wait_for_a_phase_1_lets_others_go_first(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    a, b, c, d = (trial(*of) for of in (("a", "x", "x1"), ("b", "x", "x1"), ("c", ""), ("d", "x", "x1")))
    turns = Turns([[a], [b], [c], [d]], cache)
    assert turns.next() == [a] and turns.next() == [c]
    assert turns.next() is None  # both would wait for a's first fold
    turns.ended("a")  # it failed: the next one makes it
    assert turns.next() == [b] and turns.next() is None
    cache.build("phase1", "x", {}, lambda folder: None)  # of the first fold; they take turns at the others
    assert turns.next() == [d] and turns.next() is None


# ---------------------------------------------------------------- what ships for Slurm and Kubernetes

SHIPPED = Path(__file__).resolve().parents[1] / "sweeps" / "cluster"


@pytest.mark.parametrize("script", sorted(path.name for path in SHIPPED.iterdir() if path.suffix in (".sbatch", ".sh")))
def test_scripts_are_shells(script: str) -> None:
    subprocess.run(["bash", "-n", SHIPPED / script], check=True)
    if shellcheck := shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
        subprocess.run([shellcheck, SHIPPED / script], check=True)


def test_the_manifest_for_kuberay_has_what_it_needs() -> None:
    volume, job = yaml.safe_load_all((SHIPPED / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and volume["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,), (shared,) = pod["containers"], pod["volumes"]
        assert shared["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": shared["name"], "mountPath": "/shared"}]
    options = parse(job["spec"]["entrypoint"].split()[1:])
    assert options.ray_address == "auto" and options.output.is_relative_to("/shared")
    assert options.gpus_per_trial <= container["resources"]["limits"]["nvidia.com/gpu"]
