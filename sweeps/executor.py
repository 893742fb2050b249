"""Trials in parallel by Ray Tune.

Ray is used for what it is good at: processes, CPUs and GPUs, on one machine or many. It is not trusted with resuming:
a trial does only what the stage cache lacks, so starting it again is harmless. Ray is imported inside the functions,
because ``--help`` and ``plan`` must answer without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

ENTRY = "cnd"  # our part of a Tune result; Tune adds keys of its own
SECONDS_BETWEEN_REPORTS = 1.0
OBJECT_STORE_BYTES = 100 * 2**20  # results travel by file, so Ray's shared memory stays small


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a trial.

    Attributes:
        experiment: as JSON values.
        traceback: where to write the traceback of a failure.
        extras: what follows the run: ``intervene``, ``analyse``.
    """

    name: str
    experiment: dict[str, Any]
    traceback: Path
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """How many trials run at once and what each may use.

    Attributes:
        concurrency: trials at once; None, for clusters, as many as fit.
        gpus: for each trial; fractions share a GPU.
        address: of a running Ray cluster; None starts Ray on this machine, closed to others.
    """

    concurrency: int | None
    gpus: float = 0.0
    address: str | None = None


class Watcher(Protocol):
    """Hears of every trial; called in the driver, from one thread."""

    def started(self, name: str) -> None: ...
    def progressed(self, name: str, progress: dict[str, Any]) -> None: ...
    def finished(self, name: str, record: Path, seconds: float) -> None: ...
    def failed(self, name: str, error: str) -> None: ...


def run_jobs(
    jobs: list[Job],
    cache: Path,
    folder: Path,
    resources: Resources,
    watcher: Watcher,
    pipeline: str = "cnd.workflow.run",
) -> None:
    """Run trials until each has finished or failed; a failure does not stop the others.

    Args:
        cache: root of the stage cache.
        folder: for Ray's own files; deleted before and after. Shared by all machines of a cluster.
        pipeline: module with ``warm_up``, ``prepare``, ``run``, ``intervene`` and ``analyse``.

    Raises:
        KeyboardInterrupt: Ctrl-C; the workers are stopped before it is passed on.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # Ray reports dead workers there
        try:
            _start_ray(resources)
            _tune(jobs, cache, folder, resources, watcher, pipeline)
        except KeyboardInterrupt:
            print("stopping the workers ...", file=sys.stderr, flush=True)
            raise
        finally:
            _stop_ray()
            shutil.rmtree(folder, ignore_errors=True)


def _start_ray(resources: Resources) -> None:
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",  # Tune starts workers of its own; those started ahead only cost time
        "RAY_prestart_worker_first_driver": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the newer output engine prints to stdout even when told to be quiet
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if resources.address is None else "1",  # 0: listen on 127.0.0.1 only
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning in the workers
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must reach us as KeyboardInterrupt
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    import ray

    # importing Tune takes seconds, and so does starting Ray
    threading.Thread(target=importlib.import_module, args=("ray.tune",), daemon=True).start()
    settings: dict[str, Any] = {"address": resources.address or "local"}
    if resources.address is None:
        settings |= {"num_cpus": resources.concurrency or 1, "object_store_memory": OBJECT_STORE_BYTES}
        settings |= {"include_dashboard": False}
    ray.init(
        **settings,
        runtime_env={"env_vars": _worker_environment(resources)},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told by the table, with their tracebacks


def _worker_environment(resources: Resources) -> dict[str, str]:
    threads = "1" if not resources.gpus else str(max(1, (os.cpu_count() or 1) // (resources.concurrency or 1)))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = dict.fromkeys(names, threads)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if not resources.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray no longer hides GPUs from tasks that asked for none
    return environment


def _stop_ray() -> None:
    """Shut Ray down, which ends this process if another thread frees one of Ray's references in that second.

    Such references wait in cycles for the garbage collector, which runs in whatever thread allocates next, such as the
    one that writes to MLflow. So they are collected before, and none is collected meanwhile.
    """
    if "ray" in sys.modules:
        import ray

        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()


def _tune(jobs: list[Job], cache: Path, folder: Path, resources: Resources, watcher: Watcher, pipeline: str) -> None:
    from ray import tune

    class Ears(tune.Callback):  # type: ignore[misc]
        """Passes Tune's events on."""

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune writes a copy for its own way of resuming, which is not used

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watcher.started(trial.config["trial"])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if "progress" in result[ENTRY]:
                watcher.progressed(trial.config["trial"], result[ENTRY]["progress"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            end = trial.last_result[ENTRY]
            watcher.finished(trial.config["trial"], Path(end["record"]), end["seconds"])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            told = (trial.last_result or {}).get(ENTRY, {}).get("error")
            watcher.failed(trial.config["trial"], told or "its process died (out of memory, or killed)")

    trainable = tune.with_parameters(
        _train, jobs={job.name: asdict(job) for job in jobs}, cache=str(cache), pipeline=pipeline
    )
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": resources.gpus}),
        param_space={"trial": tune.grid_search([job.name for job in jobs])},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=resources.concurrency),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[Ears()],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    ).fit()


# ---------------------------------------------------------------- in the worker


def _train(config: dict[str, Any], jobs: dict[str, dict[str, Any]], cache: str, pipeline: str) -> None:
    """One trial, in a worker process that serves one after another."""
    from ray import tune

    job = jobs[config["trial"]]
    try:
        record, seconds = _run(job, Path(cache), pipeline)
    except Exception as error:
        Path(job["traceback"]).write_text(traceback.format_exc(), encoding="utf-8")
        tune.report({ENTRY: {"error": one_line(error)}})
        raise  # Tune then starts a fresh process: after a CUDA error this one would be of no use
    tune.report({ENTRY: {"record": str(record), "seconds": seconds}})


def _run(job: dict[str, Any], cache_root: Path, pipeline: str) -> tuple[Path, float]:
    from filelock import FileLock
    from ray import tune

    from cnd.experiment import Experiment
    from cnd.workflow.cache import StageCache
    from cnd.workflow.progress import TIMES

    module = importlib.import_module(pipeline)
    experiment, cache = Experiment.model_validate(job["experiment"]), StageCache(cache_root)
    told_phase, told_at = "", 0.0
    whole, before = sum(TIMES[part] for part in ("run", *job["extras"])), 0.0
    at = "run"  # what is being done, of the run and its extras

    def report(progress: Any) -> None:
        nonlocal told_phase, told_at
        now = time.monotonic()
        if progress.phase != told_phase or now - told_at >= SECONDS_BETWEEN_REPORTS:
            told_phase, told_at = progress.phase, now
            fraction = (before + TIMES[at] * progress.fraction) / whole
            tune.report({ENTRY: {"progress": asdict(progress) | {"fraction": fraction}}})

    module.warm_up()
    cache_root.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_root / ".prepare.lock"):  # the first trial prepares with every core, the others wait
        module.prepare(experiment, cache, report)
    start = time.monotonic()
    record = module.run(experiment, cache, report)
    seconds = time.monotonic() - start
    for extra in job["extras"]:
        at, before = extra, before + TIMES[at]
        getattr(module, extra)(experiment, cache, report)
    _return_memory()
    return record, seconds


def _return_memory() -> None:
    """Give freed memory back to the system: glibc keeps it, and a worker serves trial after trial."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def one_line(error: BaseException) -> str:
    """The kind and the message of an error on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
