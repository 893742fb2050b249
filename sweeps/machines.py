"""Machines of a cluster that end while trials run there: it is not the trials' fault, so these go elsewhere."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

MOST = 3
"""Machines that may end under one trial: it may be the reason, as where its memory brings a whole machine down."""

SECONDS_TO_TELL = 3.0  # a machine that is shut down in order ends its processes first
SECONDS_TO_ANSWER = 2.0
Node = dict[str, Any]


class Machines:
    """Where groups of trials run, and whether that machine has ended.

    Args:
        nodes: lists all machines that the cluster ever had, as ``ray.nodes`` does.
    """

    def __init__(self, nodes: Callable[[], list[Node]]) -> None:
        self._nodes = nodes
        self._places: dict[str, str] = {}
        self._ended_before: dict[str, set[str]] = {}
        self._losses: Counter[str] = Counter()

    def given(self, group: str) -> None:
        """A group waits for a machine."""
        self._ended_before[group] = {node["NodeID"] for node in self._nodes() if not node["Alive"]}

    def began(self, group: str, machine: str) -> None:
        """It runs on one."""
        self._places[group] = machine

    def took(self, group: str, trials: Sequence[str]) -> bool:
        """Whether a group's process ended because its machine did, and its trials may be run elsewhere.

        Where it had not told its machine yet, one that ended since the group was given is taken for it.
        """
        place, before = self._places.pop(group, None), self._ended_before.pop(group, set())
        until = time.monotonic() + SECONDS_TO_TELL
        while not any(
            has_ended(node)
            for node in self._nodes()
            if (node["NodeID"] not in before if place is None else node["NodeID"] == place)
        ):
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
        self._losses.update(trials)
        return all(self._losses[trial] <= MOST for trial in trials)


def has_ended(node: Node) -> bool:
    """Whether the cluster knows it, or nothing answers there: Ray itself needs some fifteen seconds to be sure."""
    if not node["Alive"]:
        return True
    try:
        at = node["NodeManagerAddress"], node["NodeManagerPort"]
        socket.create_connection(at, SECONDS_TO_ANSWER).close()
    except OSError:
        return True
    return False


def cpus_of_a_trial(nodes: Sequence[Node], gpus: float) -> int:
    """CPU cores for each trial, so that those which share a machine by its GPUs do not want more than it has."""
    alive = [node["Resources"] for node in nodes if node["Alive"] and gpus]
    shares = [has.get("CPU", 0.0) // (has["GPU"] // gpus) for has in alive if has.get("GPU", 0.0) >= gpus]
    return max(1, int(min(shares, default=1)))


def room(nodes: Sequence[Node], cpus: int, gpus: float) -> bool:
    """Whether some machine can take a trial when it is free."""
    return any(
        not has_ended(node) and node["Resources"].get("CPU", 0.0) >= cpus and node["Resources"].get("GPU", 0.0) >= gpus
        for node in nodes
    )
