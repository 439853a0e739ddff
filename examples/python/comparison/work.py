# SPDX-License-Identifier: Apache-2.0
"""Runs tasks in worker processes, keeps every result, and shows how far it is."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Optional

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A task that a worker could not do; the text says why."""


class Worker:
    """One process, started at its first task."""

    def __init__(self, module: str, python: pathlib.Path, model: pathlib.Path, threads: int, log: pathlib.Path) -> None:
        """python: the interpreter; another one than this does not see this one's PYTHONPATH."""
        self.command = [
            str(python),
            "-m",
            f"comparison.workers.{module}",
            "--model",
            str(model),
            "--threads",
            str(threads),
        ]
        self.threads, self.log = threads, log
        inherited = os.environ.get("PYTHONPATH") if python == pathlib.Path(sys.executable) else None
        self.path = os.pathsep.join(filter(None, [str(ROOT), inherited]))
        self.process: Optional[subprocess.Popen] = None
        self._ready: dict[str, Any] = {}

    def ready(self) -> dict[str, Any]:
        """What it says of itself: versions, policies."""
        if self.process is None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            environment = {
                **os.environ,
                "PYTHONPATH": self.path,
                "OMP_NUM_THREADS": str(self.threads),
                "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
            with open(self.log, "w", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                    cwd=self.log.parent,
                )
            self._ready = self._answer()["ready"]
        return self._ready

    def do(self, task: dict[str, Any], progress=lambda share: None) -> dict[str, Any]:
        self.ready()
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        while True:
            answer = self._answer()
            if "progress" in answer:
                progress(answer["progress"])
            elif "failed" in answer:
                raise Failed(answer["failed"])
            else:
                return answer["done"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            self.process = None
            raise Failed(f"the worker ended: {said[-1] if said else 'it said nothing'} ({self.log})")
        return json.loads(line)

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None


@dataclass
class Job:
    """One task of one row of the table."""

    row: str
    worker: Worker
    task: dict[str, Any]
    about: str
    weight: float
    """Expected seconds, up to a factor that is the same for all."""
    identity: dict[str, Any] = field(default_factory=dict)
    """What the result depends on; a result that is there already is taken."""


class Results:
    """A file for each result."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, job: Job) -> pathlib.Path:
        key = json.dumps(job.identity, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"

    def find(self, job: Job) -> Optional[dict[str, Any]]:
        path = self._path(job)
        return json.loads(path.read_text())["result"] if path.exists() else None

    def keep(self, job: Job, result: dict[str, Any]) -> None:
        path = self._path(job)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"identity": job.identity, "result": result}, indent=1))
        part.rename(path)


class Progress:
    """One line on standard error: share done, time left, what runs."""

    def __init__(self, total: float) -> None:
        self.total, self.done, self.begin, self.shown = total, 0.0, time.monotonic(), 0.0
        self.terminal = sys.stderr.isatty()

    def show(self, within: float, what: str) -> None:
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 15):
            return
        self.shown = now
        done = self.done + within
        left = f"{_clock((now - self.begin) * (self.total - done) / done)} left" if done > 0.01 * self.total else ""
        print(
            f"{100 * done / self.total:5.1f} %  {left:<14}{what:<60.60}",
            end="\r" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def say(self, text: str) -> None:
        print(f"{text:<80}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def run(jobs: list[Job], results: Results) -> list[tuple[Job, Optional[dict[str, Any]]]]:
    """Each job with its result, or None where it failed; the failure is said."""
    pending = [job for job in jobs if results.find(job) is None]
    progress = Progress(sum(job.weight for job in pending) or 1.0)
    if len(pending) < len(jobs):
        progress.say(f"{len(jobs) - len(pending)} of {len(jobs)} measurements are there already")
    for job in pending:
        what = f"{job.row}: {job.about}"
        progress.show(0.0, what)
        try:
            results.keep(job, job.worker.do(job.task, lambda share: progress.show(share * job.weight, what)))
        except Failed as error:
            progress.say(f"{what}: {error}")
        progress.done += job.weight
    return [(job, results.find(job)) for job in jobs]
