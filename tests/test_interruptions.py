"""Signals that end the command in order, and places that do not answer: told in one line, soon."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cnd.errors import UserError
from cnd.store.reachable import silent
from sweeps import cluster, run, signals


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of this machine where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_as_ctrl_c_does(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(options: Any) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:  # while it ends, a second one does not stop it
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(run, "compare", command)
    monkeypatch.setattr(signals, "_leave_the_terminal", lambda: None)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest itself may run with these ignored
    hup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = [signal.getsignal(n) for n in signals.ENDING]
    try:
        assert run.main(["compare", "a", "b"]) == code
    finally:
        after = [signal.getsignal(n) for n in signals.ENDING]
        signal.signal(signal.SIGINT, old)
        signal.signal(signal.SIGHUP, hup)
    assert capsys.readouterr().err.endswith("; the same command goes on from here\n")
    assert after == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_ray_address_is_told_at_once(closed: int) -> None:
    for address in (f"127.0.0.1:{closed}", f"ray://127.0.0.1:{closed}"):
        with pytest.raises(UserError, match=f"--ray-address {address}: does not answer"):
            cluster.check_reachable(address)
    cluster.check_reachable("auto")
    cluster.check_reachable(None)


def test_a_machine_without_loopback_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> None:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket, "create_server", down)
    with pytest.raises(UserError, match=r"cannot connect to itself at 127.0.0.1 .*; bring the loopback interface up"):
        cluster.check_reachable(None)


def test_gpus_that_no_machine_has_are_told() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}, {"Alive": False, "Resources": {"GPU": 8.0}}]
    cluster.check_room(nodes, 4)
    with pytest.raises(UserError, match="--gpus-per-trial 8: no machine of the cluster has more than 4"):
        cluster.check_room(nodes, 8)


def test_a_cluster_that_wants_a_token_says_how() -> None:
    told = str(cluster.refused("head:6379", RuntimeError("AuthenticationError: token is missing\nin line 3")))
    assert "RAY_AUTH_MODE=token" in told and "\n" not in told
    assert "RAY_AUTH" not in str(cluster.refused(None, RuntimeError("no room")))


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_tracking_server_that_does_not_answer_is_known_before(scheme: str, closed: int) -> None:
    assert "does not answer" in (silent(f"{scheme}://127.0.0.1:{closed}/mlflow") or "")
    assert silent("sqlite:////somewhere/mlflow.db") is None
