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
import importlib.machinery
import itertools
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cnd.errors import UserError, in_one_line
from cnd.generators.shared import SharedRunError
from cnd.json_files import read_json, write_json, write_text
from sweeps import retry, signals
from sweeps.cluster import check_reachable, check_room, refused
from sweeps.home import writable_home
from sweeps.machines import Machines, cpus_of_a_trial, room
from sweeps.own_group import own_group
from sweeps.ray_folder import ray_folder

ENTRY = "cnd"  # our part of a Tune result; Tune adds keys of its own
SECONDS_BETWEEN_REPORTS = 1.0
PACKAGES = ("cnd", "reports", "sweeps")  # ours; a worker imports them from where the command did
DIED = "its process died (out of memory, or killed)"
OBJECT_STORE_BYTES = 100 * 2**20  # results travel by file, so Ray's shared memory stays small


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a trial.

    Attributes:
        experiment: as JSON values.
        traceback: where to write the traceback of a failure.
        key: of its record.
        extras: what follows the run: ``intervene``, ``analyse``.
        own: name and key of each step that no other trial needs.
        parts: 0: others may run beside it; 1: alone on its device; more: also its batches in so many parts.
    """

    name: str
    experiment: dict[str, Any]
    traceback: Path
    key: str
    extras: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    parts: int = 0


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
    """Gives the trials, and hears of each; called in the driver, from one thread."""

    def next_group(self) -> list[Job] | None:
        """Trials that a process runs together, with one frozen generator; those that the group itself fails are run
        once more, each alone. None: none now. It is asked again when a trial has ended, and for the last time when
        none is running.
        """
        ...

    def started(self, name: str) -> None: ...
    def progressed(self, name: str, progress: dict[str, Any]) -> bool:
        """Whether the trial is to be stopped here, which :meth:`stopped` then confirms."""
        ...

    def finished(self, name: str, record: Path, seconds: float) -> None: ...
    def stopped(self, name: str, seconds: float) -> None: ...
    def failed(self, name: str, error: str) -> None: ...
    def set_back(self, name: str, why: str) -> None:
        """The trial did not end by itself, and is started once more."""
        ...

    def interrupted(self) -> None:
        """The command was told to stop; the workers end next."""
        ...


def run_jobs(
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
        pipeline: module with ``warm_up``, ``prepare``, ``run``, ``run_together``, ``intervene`` and ``analyse``.

    Raises:
        KeyboardInterrupt: Ctrl-C; the workers are stopped before it is passed on.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),  # Ray reports dead workers there
        ray_folder() as own,
        writable_home(own),
    ):
        try:
            with own_group():
                _start_ray(resources, own)
            again = _tune(watcher.next_group, cache, folder / "first", resources, watcher, pipeline)
            if of_groups := [job for job in again if not job.parts]:
                again = [job for job in again if job.parts]
                again += _tune(retry.one_by_one(of_groups), cache, folder / "alone", resources, watcher, pipeline)
            whole, number = retry.whole_devices(resources), itertools.count()
            while again:  # there was not enough memory
                path = folder / f"memory{next(number)}"
                again = _tune(retry.one_by_one(again), cache, path, whole, watcher, pipeline)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("stopping the workers ...", file=sys.stderr, flush=True)
            watcher.interrupted()
            raise
        finally:
            _stop_ray()
            shutil.rmtree(folder, ignore_errors=True)


def _start_ray(resources: Resources, own: Path) -> None:
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",  # Tune starts workers of its own; those started ahead only cost time
        "RAY_prestart_worker_first_driver": "0",
        "RAY_AIR_NEW_OUTPUT": "0",  # the newer output engine prints to stdout even when told to be quiet
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if resources.address is None else "1",  # 0: listen on 127.0.0.1 only
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10" if resources.address is None else "60",  # ours never comes back
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
        settings |= {"include_dashboard": False, "_temp_dir": str(own)}
    check_reachable(resources.address)
    with tempfile.TemporaryDirectory() as empty:
        # Without a working directory of their own Ray puts the user's, and that of the script, before everything else
        # on the workers' path: a folder there named cnd, or a file torch.py, would be what they import.
        try:
            ray.init(
                **settings,
                runtime_env={"env_vars": _worker_environment(resources), "working_dir": empty},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise refused(resources.address, error) from error
    signals.take()
    check_room(ray.nodes(), resources.gpus)
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told by the table, with their tracebacks


def _worker_environment(resources: Resources) -> dict[str, str]:
    environment = {}
    if resources.address is None or not resources.gpus:  # else Ray sets them to the cores of the trial
        threads = "1" if not resources.gpus else str(max(1, (os.cpu_count() or 1) // (resources.concurrency or 1)))
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = dict.fromkeys(names, threads)
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    if not resources.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray no longer hides GPUs from tasks that asked for none
    return environment


def _import_path() -> list[str]:
    """Where this process imports from, so that a worker that searches there finds the same packages."""
    path = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or ".")]  # "": the working directory
    for name in PACKAGES:
        ours = importlib.import_module(name).__file__
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if ours and (found is None or found.origin != ours):  # an editable installation has finders of its own
            path.insert(0, str(Path(ours).parents[1]))
    return path


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


def _tune(
    next_group: Callable[[], list[Job] | None],
    cache: Path,
    folder: Path,
    resources: Resources,
    watcher: Watcher,
    pipeline: str,
) -> list[Job]:
    """Run groups of trials as they are given; those to be run once more are returned."""
    import ray
    from ray import tune

    from cnd.workflow.origin import origin

    waiting, again, elsewhere = dict[str, Job](), list[Job](), list[list[Job]]()
    machines, broken = Machines(ray.nodes), list[Exception]()
    cpus = cpus_of_a_trial(ray.nodes(), resources.gpus) if resources.address else 1
    jobs = folder / "jobs"
    jobs.mkdir(parents=True)

    class Feed(tune.search.Searcher):  # type: ignore[misc]
        """Gives Tune a group when it has room for one."""

        def __reduce__(self) -> Any:
            return tune.search.Searcher, ()  # as of Ears

        def suggest(self, trial_id: str) -> Any:
            with _kept(broken):
                group = elsewhere.pop(0) if elsewhere else next_group()
            if group is None:
                return None if waiting else self.FINISHED
            machines.given(trial_id)
            for job in group:
                waiting[job.name] = job
                write_json(_job_file(jobs, job.name), asdict(job) | {"traceback": str(job.traceback)})
            return {"trials": [job.name for job in group]}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            pass

    class Ears(tune.Callback):  # type: ignore[misc]
        """Passes Tune's events on."""

        def __reduce__(self) -> Any:
            return tune.Callback, ()  # Tune writes a copy for its own way of resuming, which is not used

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            for name in trial.config["trials"]:
                watcher.started(name)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if "machine" in result[ENTRY]:
                machines.began(trial.trial_id, result[ENTRY]["machine"])
            else:
                with _kept(broken):
                    _pass_on(result[ENTRY], watcher, waiting, again, jobs)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            names = [name for name in trial.config["trials"] if name in waiting]
            group = [waiting.pop(name) for name in names]
            if group and resources.address and machines.took(trial.trial_id, names):
                elsewhere.append(group)
                why = "" if room(ray.nodes(), cpus, resources.gpus) else ", and no other has room for a trial"
                for name in names:
                    watcher.set_back(name, f"its machine ended{why}")
            elif len(trial.config["trials"]) > 1:
                again.extend(group)
                for name in names:
                    watcher.set_back(name, "the process of its group died")
            else:
                for job in group:
                    _once_more(job, DIED, retry.MOST_AFTER_DEATH, watcher, again)

    trainable = tune.with_parameters(
        _train,
        jobs=str(jobs),
        cache=str(cache),
        pipeline=pipeline,
        began_in=os.getcwd(),
        driver=asdict(origin(pipeline)),
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=Feed(), num_samples=-1, reuse_actors=True, max_concurrent_trials=resources.concurrency
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            callbacks=[Ears()],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if broken:
            raise broken[0] from None  # Tune would tell of it by a traceback of its own
        raise
    return again


@contextlib.contextmanager
def _kept(broken: list[Exception]) -> Iterator[None]:
    """Notes what goes wrong in the driver itself, such as a full disk or a database that is gone."""
    try:
        yield
    except Exception as error:
        broken.append(error)
        raise


def _once_more(job: Job, error: str, most: int, watcher: Watcher, again: list[Job]) -> None:
    """A job that lacked memory goes to ``again``, or has failed where ``most`` parts are not enough."""
    if (following := retry.again(job, most)) is None:
        watcher.failed(job.name, error + retry.tried(job))
    else:
        again.append(following)
        watcher.set_back(job.name, retry.told(following, error))


def _pass_on(told: dict[str, Any], watcher: Watcher, waiting: dict[str, Job], again: list[Job], jobs: Path) -> None:
    """What a worker told of a trial; trials that are done no longer wait, those to be run once more go to ``again``."""
    name = told["trial"]
    if "progress" in told:
        if watcher.progressed(name, told["progress"]):
            _stop_file(jobs, name).touch()
        return
    job = waiting.pop(name)
    if "record" in told:
        watcher.finished(name, Path(told["record"]), told["seconds"])
    elif "stopped" in told:
        watcher.stopped(name, told["seconds"])
    elif told["alone"]:
        again.append(job)
        watcher.set_back(name, "its group failed")
    elif "most" in told:
        _once_more(job, told["error"], told["most"], watcher, again)
    else:
        watcher.failed(name, told["error"])


def _job_file(jobs: Path, name: str) -> Path:
    return jobs / f"{name}.json"


def _stop_file(jobs: Path, name: str) -> Path:
    """It is there when the trial is to stop."""
    return jobs / f"{name}.stop"


# ---------------------------------------------------------------- in the worker


class Stopped(Exception):
    """The driver wants no more of this trial."""


def _train(
    config: dict[str, Any],
    jobs: str,
    cache: str,
    pipeline: str,
    began_in: str,
    driver: dict[str, Any],
) -> None:
    """One group of trials, in a worker process that serves one after another.

    Args:
        began_in: the command's working directory, where relative paths begin.
        driver: the code of the command, :class:`cnd.workflow.origin.Origin`.
    """
    import ray
    from ray import tune

    tune.report({ENTRY: {"machine": ray.get_runtime_context().get_node_id()}})
    with contextlib.suppress(OSError):  # another machine of a cluster may not have it
        os.chdir(began_in)

    def tell(name: str, event: dict[str, Any]) -> None:
        tune.report({ENTRY: {"trial": name} | event})

    folder = Path(jobs)
    group = {
        name: Teller(read_json(_job_file(folder, name)), tell, _stop_file(folder, name)) for name in config["trials"]
    }
    errors = refuse_other_code(group, pipeline, driver) or _run(group, Path(cache), importlib.import_module(pipeline))
    _return_memory()
    if errors:
        raise errors[0]  # Tune then starts a fresh process: after a CUDA error this one would be of no use


class Teller:
    """Tells of one trial, of its progress not too often.

    Attributes:
        part: what is being done, of the run and what follows it.
    """

    def __init__(
        self, job: dict[str, Any], tell: Callable[[str, dict[str, Any]], None], stop: Path | None = None
    ) -> None:
        self.job, self.name, self._tell, self._stop = job, job["name"], tell, stop
        self.part, self._phase, self._at, self._began = "run", "", 0.0, time.monotonic()

    def progress(self, progress: Any) -> None:
        """Raises:
        Stopped: the driver has answered that the trial is to stop.
        """
        from cnd.workflow.progress import CHECKPOINT, TIMES

        now = time.monotonic()
        weighed = CHECKPOINT in progress.metrics  # the driver decides by it, so each is told
        if progress.phase == self._phase and now - self._at < SECONDS_BETWEEN_REPORTS and not weighed:
            return
        self._phase, self._at = progress.phase, now
        parts = ["run", *self.job["extras"]]
        before = sum(TIMES[part] for part in parts[: parts.index(self.part)])
        fraction = (before + TIMES[self.part] * progress.fraction) / sum(TIMES[part] for part in parts)
        self._tell(self.name, {"progress": asdict(progress) | {"fraction": fraction}})
        if weighed and self._stop is not None and self._stop.exists():  # Tune returns when the driver has heard it
            raise Stopped

    def failed(self, error: Exception, together: bool = False) -> None:
        """``together``: others ran in the same process, so it is run once more by itself if it was not its fault."""
        with contextlib.suppress(OSError):  # on a full disk the line below still tells
            write_text(Path(self.job["traceback"]), "".join(traceback.format_exception(error)))
        memory = retry.lacked_memory(error)
        event = {"error": in_one_line(error), "alone": together and (memory or isinstance(error, SharedRunError))}
        if memory:  # in how many parts it may be run at most; what follows a run has no batches
            event["most"] = retry.MOST_PARTS if self.part == "run" else retry.ALONE
        self._tell(self.name, event)

    def stopped(self) -> None:
        self._tell(self.name, {"stopped": True, "seconds": time.monotonic() - self._began})

    def finished(self, record: Path, seconds: float) -> None:
        self._tell(self.name, {"record": str(record), "seconds": seconds})


def refuse_other_code(group: dict[str, Teller], pipeline: str, driver: dict[str, Any]) -> list[Exception]:
    """What is wrong, told of every trial, where this process runs other code than the command that asked for them."""
    try:
        from cnd.workflow.origin import Origin, origin

        here, there = origin(pipeline), Origin(**driver)
        if here.code == there.code:
            return []
        told = f"the worker runs {here}, the command {there}"
    except (ImportError, TypeError) as error:  # so different that it cannot even be asked
        told = f"the worker's code is not the command's in {driver['folder']} ({in_one_line(error)})"
    problem = UserError(f"{told}; install the same version, for the same Python, on every machine")
    for teller in group.values():
        teller.failed(problem)
    return [problem]


def refuse_other_key(module: Any, experiment: Any, job: dict[str, Any]) -> None:
    """Refuse to put a result under the key of another.

    Raises:
        UserError: what this process would compute has another key than what the command planned.
    """
    *_, record = module.steps(experiment)
    if record.key != job["key"]:
        raise UserError(
            f"{job['name']}: code, data files or parts of your own differ from those that the command planned with "
            f"(key {job['key'][:12]}, here {record.key[:12]}); run the command again"
        )


def _run(group: dict[str, Teller], cache_root: Path, module: Any) -> list[Exception]:
    """Run trials, then what follows each; what went wrong is told, and returned."""
    from filelock import FileLock

    from cnd.experiment import Experiment
    from cnd.workflow.cache import StageCache

    cache, records, errors = StageCache(cache_root), dict[str, Path](), list[Exception]()
    experiments = {name: Experiment.model_validate(teller.job["experiment"]) for name, teller in group.items()}

    @contextlib.contextmanager
    def attempt(name: str) -> Iterator[None]:
        try:
            yield
        except Stopped:
            del experiments[name]
            group[name].stopped()
        except Exception as error:
            errors.append(error)
            del experiments[name]
            group[name].failed(error, together=len(group) > 1)

    for name, teller in group.items():
        with attempt(name):
            refuse_other_key(module, experiments[name], teller.job)
    module.warm_up()
    cache_root.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_root / ".prepare.lock"):  # the first trial prepares with every core, the others wait
        for name in list(experiments):
            with attempt(name):
                module.prepare(experiments[name], cache, group[name].progress)
    start = time.monotonic()
    for name, outcome in _outcomes(group, dict(experiments), cache, module):
        with attempt(name):
            if isinstance(outcome, Exception):
                raise outcome
            records[name] = outcome
    seconds = (time.monotonic() - start) / len(group)
    for name, record in records.items():
        with attempt(name):
            for part in group[name].job["extras"]:
                group[name].part = part
                getattr(module, part)(experiments[name], cache, group[name].progress)
            group[name].finished(record, seconds)
    return errors


def _outcomes(
    group: dict[str, Teller], experiments: dict[str, Any], cache: Any, module: Any
) -> Iterator[tuple[str, Path | Exception]]:
    """The record of each trial, or its error, as they come."""
    if len(experiments) == 1:
        for name, experiment in experiments.items():
            parts = group[name].job["parts"]
            divided = {"micro_batches": parts} if parts > retry.ALONE else {}
            try:
                yield name, module.run(experiment, cache, group[name].progress, **divided)
            except Exception as error:
                yield name, error
        return
    own = frozenset(tuple(step) for name in experiments for step in group[name].job["own"])
    for name, event in module.run_together(experiments, cache, own):
        if isinstance(event, Path | Exception):
            yield name, event
        else:
            group[name].progress(event)


def _return_memory() -> None:
    """Give freed memory back to the system: glibc keeps it, and a worker serves trial after trial."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
