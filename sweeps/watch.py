"""``status``, and ``status --watch``: again and again, until no process runs the sweep."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from cnd.store.folder import SweepFolder
from sweeps.live import ORDER, clock
from sweeps.text import columns

SECONDS = 2.0  # between two looks
Content = dict[str, Any]  # what ``status --json`` prints: among others ``trials`` with ``name`` and ``state``
Look = Callable[[], Content]
Lines = Callable[[Content], list[list[str]]]  # a head, and a line for each trial


def show(folder: SweepFolder, look: Look, lines: Lines, watching: bool, as_json: bool) -> int:
    """Print the states of a sweep's trials.

    Args:
        watching: look again until the sweep has ended. A terminal shows the table as it is then; elsewhere each change
            is a line, of JSON the whole content.

    Returns:
        0; of one that was watched 1 where some trials are not complete.

    Raises:
        UserError: the sweep was never run here.
    """
    if watching:
        return _watch(folder, look, lines, as_json)
    content = look()
    print(json.dumps(content, indent=1) if as_json else columns(lines(content)))
    return 0


def _watch(folder: SweepFolder, look: Look, lines: Lines, as_json: bool) -> int:
    began, before, busy = time.monotonic(), dict[str, str](), True
    with _Screen(sys.stdout.isatty() and not as_json) as screen:
        while busy:
            busy = folder.in_use()  # asked first: when it is not, the states are those of the end
            content = look()
            states = {trial["name"]: trial["state"] for trial in content["trials"]}
            changed = {name: state for name, state in states.items() if before.get(name) != state}
            if screen.live is not None:
                screen.draw(list(states.values()), lines(content) if changed else None, time.monotonic() - began)
            elif as_json and changed:
                print(json.dumps(content), flush=True)
            elif changed:
                print("\n".join(f"{name}  {state}" for name, state in changed.items()), flush=True)
            before = states
            if busy:
                time.sleep(SECONDS)
    return 0 if set(before.values()) <= {"complete", "pruned"} else 1


class _Screen:
    """A table that is drawn over the earlier one, on a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self._lines = terminal, list[list[str]]()
        self.live: Any = None

    def __enter__(self) -> _Screen:
        if self.terminal:
            from rich.live import Live

            self.live = Live(auto_refresh=False, redirect_stderr=False)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def draw(self, states: list[str], lines: list[list[str]] | None, seconds: float) -> None:
        """Args:
        lines: a head, and one for each state; None: as before.
        """
        from rich.text import Text

        self._lines = lines or self._lines
        head, *rest = self._lines
        room = max(3, self.live.console.size.height - 3)
        first = sorted(range(len(rest)), key=lambda n: ORDER.get(states[n], ORDER["failed"]))[:room]
        told = ", ".join(f"{count} {state}" for state, count in Counter(states).items())
        text = f"{columns([head, *(rest[n] for n in sorted(first))])}\n{told}, watched for {clock(seconds)}"
        self.live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
