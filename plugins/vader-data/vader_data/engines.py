"""What carries the shards through their steps: this process, several, Daft, or Daft on Ray."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from vader_core.errors import MissingDependencyError, VaderError, unknown

from .work import Context, Step, execute, first_payload, run_shard

ENGINES = ("auto", "process", "daft", "ray")

#: Daft and Ray tell their makers that they are used, unless they are told not to.
_SILENT = {"DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true", "DAFT_ANALYTICS_ENABLED": "0"}
_SILENT |= {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}


def chosen_engine(name: str) -> str:
    """The engine that ``auto`` stands for: Daft where it is installed, else this process.

    Raises:
        VaderError: No such engine, or its package is missing.
    """
    from importlib.util import find_spec

    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == "auto":
        return "daft" if find_spec("daft") else "process"
    if name in ("daft", "ray") and not find_spec("daft"):
        raise MissingDependencyError("daft", f"engine {name!r}", "pip install 'vader-data[daft]'")
    if name == "ray" and not find_spec("ray"):
        raise MissingDependencyError("ray", "engine 'ray'", "pip install 'vader-data[ray]'")
    return name


def carry(
    engine: str,
    shards: Sequence[int],
    steps: Sequence[Step],
    context: Context,
    *,
    workers: int,
    address: str = "",
) -> Iterator[str]:
    """The payload of each shard when its last step is done, in whatever order they finish.

    Args:
        engine: ``process``, ``daft`` or ``ray``.
        shards: Which.
        steps: The chain.
        context: Of the run.
        workers: How many work at a time; with ``ray``, processes of a local cluster.
        address: Of a running Ray cluster; empty starts a local one.
    """
    if not shards:
        return iter(())
    if engine == "process":
        return _in_processes(shards, steps, context, workers)
    return _on_daft(shards, steps, context, workers, address if engine == "ray" else None)


def _in_processes(
    shards: Sequence[int], steps: Sequence[Step], context: Context, workers: int
) -> Iterator[str]:
    if workers == 1:
        for shard in shards:
            yield run_shard(shard, steps, context)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _die_with, (os.getpid(),)) as pool:
        waiting = [pool.submit(run_shard, shard, steps, context) for shard in shards]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _die_with(parent: int) -> None:
    """A worker whose run was killed must not go on writing beside the run that follows."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# -- Daft --------------------------------------------------------------------------------------------------


@contextmanager
def _silenced() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SILENT}
    os.environ.update({name: value for name, value in _SILENT.items() if name not in os.environ})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _on_daft(
    shards: Sequence[int], steps: Sequence[Step], context: Context, workers: int, address: str | None
) -> Iterator[str]:
    """One row per shard, one column that each step replaces: shards do not wait for each other."""
    with _silenced():
        import daft

        _choose_runner(daft, workers, address)
        frame = daft.from_pydict({"payload": [first_payload(shard) for shard in shards]})
        # one shard at a time through each step, or all would wait for each other between the steps
        frame = frame.into_batches(1) if address is None else frame.into_partitions(len(shards))
        for step in steps:
            frame = frame.with_column("payload", _operator(daft, step, context)(frame["payload"]))
        for row in frame.iter_rows(results_buffer_size=workers):
            yield row["payload"]


def _choose_runner(daft: Any, workers: int, address: str | None) -> None:
    if address is not None:
        import ray

        if not ray.is_initialized():
            options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers}
            ray.init(**options, log_to_driver=False, include_dashboard=False, configure_logging=False)
    wanted = "native" if address is None else "ray"
    try:
        if address is None:
            daft.set_runner_native(num_threads=workers)
        else:
            daft.set_runner_ray()
    except Exception as error:  # Daft chooses once per process and says so by different exceptions
        using = daft.get_or_infer_runner_type()
        if using != wanted:
            raise VaderError(
                f"Daft runs on its {using} runner in this process and cannot change to {wanted}: "
                "start another process"
            ) from error


def _operator(daft: Any, step: Step, context: Context) -> Any:
    """A step as a function of Daft's: a network on a GPU as an actor, all else wherever it fits."""

    def work(payload: str) -> str:
        return execute(step, payload, context)

    work.__name__ = work.__qualname__ = "_".join(("vader_data", step.name, *step.columns))
    if step.gpu and _has_gpu():

        class Network:
            def __call__(self, payload: str) -> str:
                return execute(step, payload, context)

        Network.__name__ = Network.__qualname__ = work.__name__
        return daft.cls(gpus=1, max_concurrency=1)(Network)()
    return daft.func(work)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
