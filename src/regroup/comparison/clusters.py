"""The trainings of a comparison on other machines: by Ray, or by Slurm through submitit.

Each training is a task: a text that says which, given to a function that gives a text back. Whatever it
trains it keeps in the comparison's directory, which all machines must see; so a task whose machine is lost is
begun again elsewhere and goes on from its last checkpoint, and the comparison then finds everything as if it
had trained it itself.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from regroup.errors import ConfigError, TrainingError, first_line, printable

Work = Callable[[str], str]

ENGINES = "ray, ray://HOST:PORT or submitit"
RETRIES = 10
"""How often a task is begun again whose machine was lost."""

CONNECTIONS = 3
"""How often a cluster's head is asked to begin a server for this client."""

_LOOK = 1.0  # seconds between looks at Slurm's jobs


def check_engine(on: str | None) -> None:
    """Require that an engine exists and is installed.

    Raises:
        ConfigError: it does not, or is not; it says what to install.
    """
    if on is None:
        return
    name = on.partition("://")[0]
    if name not in ("ray", "submitit") or (name == "submitit" and on != name) or on == "ray://":
        raise ConfigError("on", on, ENGINES)
    _module(name, on)


def files_of(code: tuple[Any, ...]) -> list[str]:
    """Return the files of plugins, which other machines must run too.

    Raises:
        ConfigError: there is something that is no module of a file.
    """
    files = [getattr(module, "__file__", None) for module in code]
    if None in files:
        raise ConfigError("code", code, "modules of files", "other machines cannot have anything else")
    return [str(Path(str(file)).absolute()) for file in files]


def results(
    on: str, work: Work, tasks: Sequence[str], *, cpus: int, gpus: float, folder: Path
) -> Iterator[tuple[int, str]]:
    """Yield the number and the result of each task, as they end.

    Args:
        on: which engine, see `ENGINES`.
        work: a function of a module that the machines have.
        tasks: what it is called with, one by one.
        cpus: processors of one task.
        gpus: GPUs of one task.
        folder: where submitit keeps its jobs.

    Raises:
        TrainingError: the engine cannot be reached, or a task's machine was lost again and again.
    """
    if on.startswith("ray"):
        yield from _on_ray(on, work, tasks, cpus, gpus)
    else:
        yield from _on_slurm(work, tasks, cpus, gpus, folder)


def _module(name: str, on: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = f"pip install 'torch-regroup[{name}]'"
        raise ConfigError("on", on, "an engine that is installed here", remedy) from error


def _on_ray(on: str, work: Work, tasks: Sequence[str], cpus: int, gpus: float) -> Iterator[tuple[int, str]]:
    ray = _module("ray", on)
    own = not ray.is_initialized()
    try:
        if own:
            _connect(ray, on)
    except Exception as error:
        raise TrainingError(f"Ray cannot be reached ({on}): {_why(error)}") from error
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(work)
        waiting = {remote.remote(task): number for number, task in enumerate(tasks)}
        try:
            while waiting:
                for done in ray.wait(list(waiting), num_returns=1)[0]:
                    yield waiting.pop(done), _of_ray(ray, done)
        finally:
            for each in waiting:
                with suppress(Exception):  # it may have ended by itself, or its machine
                    ray.cancel(each, force=True)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, on: str) -> None:
    """Begin Ray here, or reach a cluster's head; that forks a server for each client, which may die in it."""
    for left in reversed(range(CONNECTIONS)):
        try:
            ray.init(None if on == "ray" else on, log_to_driver=False, logging_level="error")
            return
        except ConnectionAbortedError:  # the head answered; one that is not there is another error
            if not left:
                raise


def _why(error: Exception) -> str:
    """Return the first line of a message, or, if that only announces a traceback, its last."""
    first = first_line(error)
    return printable(str(error).strip().splitlines()[-1]) if first.endswith(":") else first


def _of_ray(ray: Any, done: Any) -> str:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError:  # of the function itself: as it would be here
        raise
    except ray.exceptions.RayError as error:
        raise TrainingError(f"Ray has lost a training {RETRIES} times: {first_line(error)}") from error


def _on_slurm(
    work: Work, tasks: Sequence[str], cpus: int, gpus: float, folder: Path
) -> Iterator[tuple[int, str]]:
    executor = _module("submitit", "submitit").AutoExecutor(folder)  # without Slurm: processes here
    executor.update_parameters(cpus_per_task=cpus, gpus_per_node=int(gpus), timeout_min=60 * 24)
    jobs = {number: executor.submit(work, task) for number, task in enumerate(tasks)}
    begun = dict.fromkeys(jobs, 1)
    try:
        while jobs:
            for number, job in list(jobs.items()):
                if not job.done():
                    continue
                result = _of_slurm(job)
                if result is not None:
                    del jobs[number]
                    yield number, result
                elif begun[number] > RETRIES:
                    raise TrainingError(f"Slurm has lost a training {RETRIES} times: see {job.paths.stderr}")
                else:
                    begun[number] += 1
                    jobs[number] = executor.submit(work, tasks[number])
            time.sleep(_LOOK if jobs else 0)
    finally:
        for job in jobs.values():
            job.cancel(check=False)


def _of_slurm(job: Any) -> str | None:
    """Return what a job has given back; None if it was lost. What the function raised is raised here."""
    if not job.paths.result_pickle.exists():
        return None
    return job.result()
