"""NLE environments in worker processes: a native crash costs that worker's running episodes only.

Slot s lives in worker s modulo N. Every worker is a fresh interpreter (spawn), so engines never
share a process with the accelerator runtime. A worker that dies, hangs or raises is replaced; each
episode it was running ends with a percept that says failed, done and "environment crashed: ...".

As with all of Python's spawned processes, a script that builds a pool needs the
`if __name__ == "__main__":` guard.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 120.0


class WorkerCrash(RuntimeError):
    """A worker process died, hung or raised; the message says which."""


class _Worker:
    """One process and its pipe."""

    def __init__(self, config: EnvConfig, number: int) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, config), daemon=True, name=f"nle-worker-{number}"
        )
        self.process.start()
        theirs.close()

    def ask(self, request: tuple[Any, ...]) -> None:
        """Sends a request; WorkerCrash when nobody listens."""
        try:
            self.connection.send(request)
        except (BrokenPipeError, ConnectionError, OSError) as error:
            raise WorkerCrash(self._death()) from error

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Waits for the answer to the last request."""
        try:
            if not self.connection.poll(timeout_s):
                raise WorkerCrash(f"worker {self.number} gave no answer in {timeout_s:g} s")
            kind, value = self.connection.recv()
        except (EOFError, ConnectionError, OSError) as error:
            raise WorkerCrash(self._death()) from error
        if kind == "error":
            raise WorkerCrash(f"worker {self.number} raised {value}")
        return value

    def _death(self) -> str:
        self.process.join(timeout=5)
        return f"worker {self.number} died (exit code {self.process.exitcode})"

    def stop(self) -> None:
        """Ends the process, by force if it does not listen."""
        self.connection.close()
        self.process.join(timeout=2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=5)


class WorkerPool:
    """TextEnv over `config.workers` processes.

    Raises:
      ValueError: what the environment itself raises for a bad config (unknown task, ...).
      WorkerCrash: a worker could not be started.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.num_slots = config.slots
        count = max(1, min(config.workers, config.slots))
        share = -(-config.slots // count)
        self._config = dataclasses.replace(config, workers=0, slots=share)
        self._workers = [_Worker(self._config, number) for number in range(count)]
        self._percepts: dict[int, Percept] = {}
        self._lost: dict[int, str] = {}  # running episodes whose worker died meanwhile
        try:
            about = [self._greet(worker) for worker in self._workers][0]
        except Exception:
            self.close()
            raise
        self.actions, self.fallback_action, self.max_steps, self.instructions = about

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot; where workers die twice over it, a failed one."""
        if len(slots) != len(seeds):
            raise ValueError(f"reset: {len(slots)} slots but {len(seeds)} seeds")
        for slot in slots:
            if not 0 <= slot < self.num_slots:
                raise ValueError(f"slot {slot} is outside 0..{self.num_slots - 1}")
            self._percepts.pop(slot, None)
            self._lost.pop(slot, None)
        jobs = self._divide(dict(zip(slots, (int(s) for s in seeds), strict=True)))
        percepts, crashed = self._run("reset", jobs)
        if crashed:
            # A worker that had died while idle, or by another slot's doing, deserves a second try.
            again, still = self._run("reset", {number: jobs[number] for number in crashed})
            percepts |= again
            for number, reason in still.items():
                for local in jobs[number]:
                    percepts[self._global(number, local)] = self._failed(None, None, reason)
        self._percepts |= percepts
        return {slot: self._percepts[slot] for slot in slots}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """One step in each named slot; ValueError for a slot with no running episode."""
        for slot in actions:
            percept = self._running(slot)
            if percept.done:
                raise ValueError(
                    f"slot {slot}: its episode is over ({percept.end_reason}); reset it"
                )
        percepts = {}
        for slot in actions:
            if slot in self._lost:
                percepts[slot] = self._failed(
                    self._percepts[slot], actions[slot], self._lost.pop(slot)
                )
        jobs = self._divide({s: a for s, a in actions.items() if s not in percepts})
        answered, crashed = self._run("step", jobs)
        percepts |= answered
        for number, reason in crashed.items():
            for local, action in jobs[number].items():
                slot = self._global(number, local)
                self._lost.pop(slot, None)
                percepts[slot] = self._failed(self._percepts[slot], action, reason)
        self._percepts |= percepts
        return {slot: percepts[slot] for slot in actions}

    def progression(self, slot: int) -> float:
        """Highest progression of the slot's episode so far."""
        return self._running(slot).progression

    def frame(self, slot: int) -> np.ndarray:
        """The terminal as an RGB picture.

        Raises:
          ValueError: the slot was never reset, or its episode was lost in a crash.
        """
        percept = self._running(slot)
        if percept.failed or slot in self._lost:
            raise ValueError(f"slot {slot}: its engine is gone, there is no frame; reset it")
        number, local = slot % len(self._workers), slot // len(self._workers)
        try:
            self._workers[number].ask(("frame", local))
            return self._workers[number].answer()
        except WorkerCrash as crash:
            self._replace(number, str(crash))
            raise ValueError(f"slot {slot}: {crash}; there is no frame") from crash

    def close(self) -> None:
        """Ends the worker processes."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids, in worker order."""
        return tuple(worker.process.pid for worker in self._workers)

    def _running(self, slot: int) -> Percept:
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset([{slot}], [seed]) first")
        return self._percepts[slot]

    def _global(self, number: int, local: int) -> int:
        return local * len(self._workers) + number

    def _divide(self, by_slot: Mapping[int, Any]) -> dict[int, dict[int, Any]]:
        """{slot: what} -> {worker: {local slot: what}}."""
        count = len(self._workers)
        jobs: dict[int, dict[int, Any]] = {}
        for slot, what in by_slot.items():
            jobs.setdefault(slot % count, {})[slot // count] = what
        return jobs

    def _run(
        self, what: str, jobs: Mapping[int, Mapping[int, Any]]
    ) -> tuple[dict[int, Percept], dict[int, str]]:
        """All workers at once -> (percepts by slot, reasons by number of replaced workers)."""
        crashed: dict[int, str] = {}
        percepts: dict[int, Percept] = {}
        for number, job in jobs.items():
            try:
                self._workers[number].ask((what, dict(job)))
            except WorkerCrash as crash:
                crashed[number] = str(crash)
        for number in jobs:
            if number in crashed:
                continue
            try:
                for local, percept in self._workers[number].answer().items():
                    percepts[self._global(number, local)] = percept
            except WorkerCrash as crash:
                crashed[number] = str(crash)
        for number, reason in crashed.items():
            self._replace(number, reason)
        return percepts, crashed

    def _replace(self, number: int, reason: str) -> None:
        """A new worker for a broken one; its running episodes are noted as lost."""
        broken = self._workers[number]
        if broken.process.is_alive():
            broken.process.kill()
        broken.stop()
        for slot, percept in self._percepts.items():
            if slot % len(self._workers) == number and not percept.done:
                self._lost.setdefault(slot, reason)
        self._workers[number] = _Worker(self._config, number)
        self._greet(self._workers[number])

    def _greet(self, worker: _Worker) -> Any:
        kind, value = worker.answer(START_TIMEOUT_S)
        if kind == "refused":
            raise ValueError(value)
        return value

    def _failed(self, last: Percept | None, action: str | None, reason: str) -> Percept:
        reason = f"environment crashed: {reason}"
        if last is None:
            return Percept(
                "", "", {}, self.actions, step=0, done=True, end_reason=reason, failed=True
            )
        legal = action in self.actions
        return dataclasses.replace(
            last,
            step=last.step + 1,
            reward=0.0,
            done=True,
            end_reason=reason,
            action=action if legal else self.fallback_action,
            unknown_action=None if legal else action,
            failed=True,
        )


def _serve(connection: Connection, config: EnvConfig) -> None:
    """A worker's life: greet, then answer requests until the pipe closes."""
    from automem_jax import envs

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    try:
        env = envs.make(config)
    except ValueError as error:
        connection.send(("ok", ("refused", str(error))))
        return
    about = (env.actions, env.fallback_action, env.max_steps, env.instructions)
    connection.send(("ok", ("ready", about)))
    try:
        while True:
            what, job = connection.recv()
            try:
                if what == "reset":
                    answer = env.reset(list(job), list(job.values()))
                elif what == "step":
                    answer = env.step(job)
                else:
                    answer = env.frame(job)
            except Exception as error:
                connection.send(("error", f"{type(error).__name__}: {error}"))
            else:
                connection.send(("ok", answer))
    except (EOFError, ConnectionError, OSError):
        pass
    finally:
        env.close()
