"""Which trials are run again, and how.

Within a command: one that ran out of memory, or whose process died, which is how the system ends what takes too much.
First alone on its device, then with its batches in two, four and eight parts, which changes no result but for rounding
(:mod:`cnd.workflow.splitting`). In a later command: all that failed, but for those whose failure will recur.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.executor import Job, Resources

ALONE = 1
MOST_PARTS = 8
MOST_AFTER_DEATH = 2  # a process may have died of something else, so less is tried
WORDS = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")  # of PyTorch, CUDA and cuBLAS
RECURS = FloatingPointError.__name__


def lacked_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that there was not enough memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS):  # torch.OutOfMemoryError is one
        return True
    return error.__cause__ is not None and lacked_memory(error.__cause__)


def next_parts(parts: int, most: int) -> int | None:
    """In how many parts a trial's batches are next, ``ALONE`` for whole ones; None: it has failed."""
    following = 2 * parts or ALONE
    return following if following <= most else None


def again(job: Job, most: int) -> Job | None:
    """The job as it is run next, None when all was tried."""
    parts = next_parts(job.parts, most)
    return None if parts is None else replace(job, parts=parts)


def told(job: Job, why: str) -> str:
    """What is said of a job that waits to be run again."""
    how = "when the others have ended" if job.parts == ALONE else f"with its batches in {job.parts} parts"
    return f"{why}; once more, alone, {how}"


def tried(job: Job) -> str:
    """What is added to the error of one that failed all the same."""
    return {0: "", ALONE: " (alone, too)"}.get(job.parts, f" (alone and with its batches in {job.parts} parts, too)")


def whole_devices(resources: Resources) -> Resources:
    """The same machines, with nothing beside a trial on its device."""
    gpus = math.ceil(resources.gpus)
    if not gpus:
        return replace(resources, concurrency=1)
    at_once = resources.concurrency and max(1, int(resources.concurrency * resources.gpus / gpus))
    return replace(resources, gpus=float(gpus), concurrency=at_once)


def one_by_one(jobs: Iterable[Job]) -> Callable[[], list[Job] | None]:
    """Gives the jobs as groups of one."""
    left = iter([[job] for job in jobs])
    return lambda: next(left, None)


def recurs(known: dict[str, Any], key: str) -> bool:
    """Whether a trial has failed in a way that it will fail again, by its file.

    A loss that was not finite follows from what its key names: settings, data, code and seed. Everything else may have
    come from outside.
    """
    failed = known.get("state") == "failed" and known.get("key") == key
    return failed and str(known.get("error")).startswith(f"{RECURS}:")
