"""Kills at the command's own writes, a part of what ``python tests/chaos.py --points 200`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import chaos
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("which", "kills"), [("to driver at", 63), ("of Ray", 7)])
def test_kills_at_seventy_points_lose_nothing_and_repeat_nothing(tmp_path: Path, which: str, kills: int) -> None:
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--points", "70", "--only", which]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{kills} kills"), done.stdout + done.stderr


def test_every_call_is_hit_before_any_is_hit_twice() -> None:
    calls = ["a", "b", "a", "c"]
    points = chaos.plan(calls, 10, seed=0)
    assert points == chaos.plan(calls, 10, seed=0) != chaos.plan(calls, 10, seed=1)
    assert Counter(point.call for point in points[:3]) == Counter("abc")
    assert {point.nth for point in points if point.call != "a"} <= {1, 3}  # 3: with Ray
    assert [point.with_ray for point in points] == [False] * 9 + [True]
