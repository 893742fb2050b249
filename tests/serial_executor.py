"""Trials one after the other in this process, told as Ray's are: for tests of what proposes and watches trials."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeps.executor import Job, Resources, Teller, Watcher, _pass_on, _run, _stop_file


def run_jobs(cache: Path, folder: Path, resources: Resources, watcher: Watcher, pipeline: str) -> None:
    """As :func:`sweeps.executor.run_jobs`."""
    module = importlib.import_module(pipeline)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    waiting: dict[str, Job] = {}

    def tell(name: str, event: dict[str, Any]) -> None:
        _pass_on({"trial": name} | event, watcher, waiting, [], folder)

    while (group := watcher.next_group()) is not None:
        tellers = {job.name: Teller(asdict(job), tell, _stop_file(folder, job.name)) for job in group}
        waiting |= {job.name: job for job in group}
        for job in group:
            watcher.started(job.name)
        _run(tellers, cache, module)
    shutil.rmtree(folder)
