"""The queue: one job at a time per device, each in that device's worker process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_studio.jobs import Job, new_job, read_jobs

#: Seconds that a worker is given to end by itself.
_PATIENCE = 10.0
#: Of a worker's log, what stands in the message of a job that it died of.
_TAIL = 600


class Queue:
    """Jobs in the order they came; what was running when the server ended runs again.

    Args:
        folder: Where the jobs lie.
        gpus: Numbers of the GPUs, one worker each; an empty one leaves the choice to the worker.
        command: Starts a worker.
    """

    def __init__(
        self, folder: Path, gpus: tuple[str, ...] = ("",), command: tuple[str, ...] | None = None
    ) -> None:
        self.folder = folder
        self.command = command or (sys.executable, "-m", "vader_studio.worker")
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {}
        self._revision = 0
        self._closing = False
        for job in read_jobs(folder):
            if job.state == "running":
                job.state = "queued"
                job.save()
            self._jobs[job.name] = job
        self._workers = [_Worker(self, gpu) for gpu in gpus]

    def start(self) -> None:
        """Begin to work through the queue."""
        for worker in self._workers:
            worker.thread.start()

    def warm(self) -> None:
        """Start the workers that are to be asked soon: they import while a person still writes the prompt."""
        for worker in self._workers:
            worker.warm()

    def close(self) -> None:
        """End the workers; what they were at is taken up again by the next server."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()

    # -- what a page asks --------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision

    def add(
        self,
        kind: str,
        title: str,
        request: Mapping[str, Any],
        out: Callable[[str], Path] | None = None,
    ) -> Job:
        """Queue a job; the arguments are those of :func:`~vader_studio.jobs.new_job`."""
        with self._changed:
            job = new_job(self.folder, kind, title, request, out)
            self._jobs[job.name] = job
            self._touch()
            return job

    def jobs(self, most: int = 50) -> list[Job]:
        """The newest ``most``, and every one that has not ended, the newest first."""
        with self._changed:
            found = sorted(self._jobs.values(), key=lambda job: job.name, reverse=True)
            return [job for index, job in enumerate(found) if index < most or not job.ended]

    def snapshot(self) -> tuple[int, list[dict[str, Any]]]:
        """The revision, and what a page is told of each of :meth:`jobs` at that moment."""
        with self._changed:
            return self._revision, [job.shown() for job in self.jobs()]

    def get(self, name: str) -> Job:
        """The job of that name.

        Raises:
            VaderError: There is none.
        """
        with self._changed:
            if name not in self._jobs:
                raise VaderError(f"there is no job {name!r}")
            return self._jobs[name]

    def running_on(self, run: Path) -> Job | None:
        """The job that trains ``run`` or is to."""
        with self._changed:
            for job in self._jobs.values():
                if job.kind == "train" and not job.ended and job.request.get("out") == str(run):
                    return job
        return None

    def ahead_of(self, job: Job) -> int:
        """How many wait before it."""
        with self._changed:
            return sum(1 for one in self._jobs.values() if one.state == "queued" and one.name < job.name)

    def cancel(self, name: str) -> None:
        """Take a job out of the queue, or end it where it runs."""
        job = self.get(name)
        with self._changed:
            if job.state == "queued":
                self._end(job, "cancelled", "")
                return
        for worker in self._workers:
            if worker.job is job:
                worker.kill(job)

    def stop(self, name: str) -> None:
        """Let a training end after this step, with its checkpoint written."""
        job = self.get(name)
        if job.kind != "train":
            raise VaderError("only a training can be stopped after a step: cancel this job")
        with self._changed:
            if job.state == "queued":
                self._end(job, "cancelled", "")
                return
        for worker in self._workers:
            if worker.job is job:
                worker.interrupt()

    # -- what a worker asks ------------------------------------------------------------------------------

    def take(self, worker: _Worker) -> Job | None:
        """Wait for the oldest queued job and give it to ``worker``; ``None`` when the server ends."""
        with self._changed:
            while not self._closing:
                waiting = [job for job in self._jobs.values() if job.state == "queued"]
                if waiting:
                    job = min(waiting, key=lambda one: one.name)
                    job.state, job.progress = "running", {"text": "starting …"}
                    worker.begin(job)  # from now on it can be cancelled there
                    job.save()
                    self._touch()
                    return job
                self._changed.wait()
        return None

    def hear(self, job: Job, event: Mapping[str, Any]) -> None:
        """Take in what a worker tells of its job."""
        with self._changed:
            if event["event"] == "progress":
                job.progress = {key: event[key] for key in ("text", "share", "left") if key in event}
                self._touch()
            else:
                job.result = dict(event.get("result") or job.result)
                self._end(job, str(event["event"]), str(event.get("message", "")))

    def died(self, job: Job, state: str, message: str = "") -> None:
        """A worker ended in the middle of a job, which becomes ``failed``, ``cancelled`` or ``stopped``."""
        with self._changed:
            if self._closing and state != "cancelled":
                return  # it stays as running, and the next server takes it up
            self._end(job, state, message)

    @property
    def closing(self) -> bool:
        """Whether the server ends."""
        return self._closing

    def _end(self, job: Job, state: str, message: str) -> None:
        job.state, job.message, job.progress = state, message, {}
        job.save()
        self._touch()

    def _touch(self) -> None:
        self._revision += 1
        self._changed.notify_all()


class _Worker:
    """One device's process, started when the first job comes and kept for its loaded model."""

    def __init__(self, queue: Queue, gpu: str) -> None:
        self.queue, self.gpu = queue, gpu
        self.job: Job | None = None
        self.process: subprocess.Popen[str] | None = None
        self.thread = threading.Thread(target=self._work, name=f"worker {gpu}", daemon=True)
        self._asked: str = ""
        self._starting = threading.Lock()

    def begin(self, job: Job) -> None:
        """From now on it is at that job."""
        self.job, self._asked = job, ""

    def warm(self) -> None:
        """Start the process, where it is not there."""
        if not self.queue.closing:
            with contextlib.suppress(OSError):  # the first job says why it cannot be started
                self._alive()

    def _work(self) -> None:
        while (job := self.queue.take(self)) is not None:
            try:
                self._run(job)
            except OSError as error:
                told = f"the worker cannot be started: {error}"
                self.queue.died(job, *((self._asked,) if self._asked else ("failed", told)))
            self.job = None

    def _run(self, job: Job) -> None:
        process = self._alive()
        if self._asked:  # while the process was started
            self.queue.died(job, self._asked)
            return
        if self.queue.closing:  # likewise: the next server takes the job up
            _end(process, signal.SIGTERM)
            return
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"job": job.name, "kind": job.kind, "request": job.request}
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except ValueError as error:  # closed, for the server ends
            raise BrokenPipeError(str(error)) from error
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self.queue.hear(job, event)
            if event["event"] != "progress":
                return
        code = process.wait()
        self.process = None
        asked = str(self._asked)  # by another thread, meanwhile
        if asked == "cancelled" or (asked and code == -signal.SIGINT):
            self.queue.died(job, asked)
        else:
            self.queue.died(job, "failed", self._why(code))

    def _alive(self) -> subprocess.Popen[str]:
        with self._starting:
            if self.process is None or self.process.poll() is not None:
                self.process = self._started()
            return self.process

    def _started(self) -> subprocess.Popen[str]:
        self.queue.folder.mkdir(parents=True, exist_ok=True)
        seen = {"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}
        with self._log.open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                list(self.queue.command),
                env={**os.environ, **seen},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C at the server is the server's to pass on
            )

    @property
    def _log(self) -> Path:
        return self.queue.folder / f"worker{f'-{self.gpu}' if self.gpu else ''}.log"

    def _why(self, code: int) -> str:
        try:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        except OSError:
            tail = ""
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = "; too little memory, perhaps" if code == -signal.SIGKILL else ""
        return f"the worker ended with {how}{hint}. {tail}"

    def interrupt(self) -> None:
        """Ask the worker's training to stop after this step; before it has begun, it ends there."""
        self._asked = "stopped"
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self, job: Job) -> None:
        """End the worker, if it is still at that job."""
        if self.job is not job:
            return
        self._asked = "cancelled"
        if self.process is not None:
            _end(self.process, signal.SIGTERM, 2.0)

    def end(self) -> None:
        """The server ends: the worker reads the end of its orders, and training writes its checkpoint."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        _end(process, signal.SIGINT if self.job is not None and self.job.kind == "train" else signal.SIGTERM)


def _end(process: subprocess.Popen[str], first: signal.Signals, patience: float = _PATIENCE) -> None:
    """Ask a process to end, wait, and end it."""
    if process.poll() is None:
        process.send_signal(first)
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
