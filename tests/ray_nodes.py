"""Ray nodes on loopback, each by its own ``ray start``, as a cluster of several machines has them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
ALIKE = ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats"]
ALIKE += ["--min-worker-port=0", "--max-worker-port=0"]  # of one machine, whose nodes would else want the same


def free_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Nodes:
    """A head and further nodes; use as a context manager.

    Attributes:
        environment: with which a command joins them.
    """

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short enough for sockets
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_enable_worker_prestart": "0"}
        self._environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | self.environment
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            for pid in [*descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, cpus: int, gpus: int) -> subprocess.Popen[bytes]:
        """Start a node, the first one as head, and wait for its raylet."""
        number = len(self._started)
        place = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        where = [f"--temp-dir={self.folder}"] + (place if number == 0 else [f"--address={self.address}"])
        with (self.folder / f"node{number}.txt").open("w") as out:
            process = subprocess.Popen(
                [*START, *ALIKE, *where, f"--num-cpus={cpus}", f"--num-gpus={gpus}"],
                env=self._environment, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        until = time.monotonic() + 120
        while "Ray runtime started" not in (self.folder / f"node{number}.txt").read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / f"node{number}.txt").read_text())
            time.sleep(0.1)
        return process


def raylet(node: subprocess.Popen[bytes]) -> int:
    """The process of a node that starts its workers."""
    (found,) = [pid for pid in descendants(node.pid) if _words(pid)[0].endswith("/raylet")]
    return found


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    children = [child for child, parent in _parents().items() if parent == pid]
    return [below for child in children for below in [*descendants(child), child]]


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return [""]
