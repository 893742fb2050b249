"""``python -m cnd.metrics weights``: which files the published scores need, where they go, and whether they are right.

What is said goes to stdout. Exit code 0: no file that is there is a wrong one; 1: one is; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cnd.keys import file_hash
from cnd.metrics.published import CONVENTIONS, FOLDER, TITLES, Weights


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cnd.metrics", description="Published networks behind the metrics.")
    commands = parser.add_subparsers(dest="command", required=True)
    text = "What to get for the published scores, where to put it, and whether what is there is right."
    weights = commands.add_parser("weights", help="what to get, and checks of what is there", description=text)
    weights.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help=f"where it lies ({FOLDER})")
    options = parser.parse_args(argv)
    wrong = False
    for file, users in needed().items():
        state, right = _state(file, options.folder / file.file)
        wrong |= not right
        print(f"{options.folder / file.file}: {state}\n  for {', '.join(users)}\n  get {file.url}")
        known = f"starts with {file.sha256}, by {file.hash_from}" if file.sha256 else "unknown: none is published"
        print(f"  SHA-256 {known}")
    return 1 if wrong else 0


def needed() -> dict[Weights, list[str]]:
    """Which networks, and conventions where they differ, need each file."""
    found: dict[Weights, list[str]] = {}
    for convention in CONVENTIONS.values():
        for network, file in convention.weights.items():
            shared = all(other.weights[network] == file for other in CONVENTIONS.values())
            title = TITLES[network] if shared else f"{TITLES[network]} ({convention.title})"
            users = found.setdefault(file, [])
            if title not in users:
                users.append(title)
    return found


def _state(file: Weights, path: Path) -> tuple[str, bool]:
    """What is there, in words; and whether it may be used."""
    if not path.is_file():
        return "missing; scores by it are not computed", True
    if file.problem(path):
        return f"another file (SHA-256 {file_hash(path)}); get it again", False
    return ("there" if file.sha256 else f"there; not checked (SHA-256 {file_hash(path)})"), True


if __name__ == "__main__":
    sys.exit(main())
