"""NLE environments in worker processes: what breaks costs the one episode that broke it.

Slot s lives in worker s modulo N. Every worker is a fresh interpreter (spawn), so engines never
share a process with the accelerator runtime. A worker writes finished percepts, texts included,
into a block of memory that it shares with this process: text takes as long as the game itself, so
it is made where the cores are. In the same block it notes which slot it is stepping.

A worker that dies or hangs is replaced. The slot that it was stepping ends with a percept that says
failed, done and "environment crashed: ..."; every other running episode of that worker is played
again from its seed and actions, checked against the last percept by hash, and goes on as if nothing
had happened. `incidents` lists what broke. An exception costs its own episode alone.

NLE keeps about 2 KiB of every reset for good, so a worker is replaced after `resets_per_worker` of
them, in the same way and without any trace in an episode.

As with all of Python's spawned processes, a script that builds a pool needs the
`if __name__ == "__main__":` guard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs.base import Percept, TextEnv
from automem_jax.envs.branching import BranchError, ReplaySnapshot, digest

MakeEnv = Callable[[EnvConfig], TextEnv]
_log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
RESETS_PER_WORKER = 2_000
_TRIES = 3  # workers lost in a row, with no slot to blame, before the waiting episodes are given up
_HEADER_BYTES = 16  # two int64: operations begun so far, and the slot in operation or _NO_SLOT
_NO_SLOT = -1
_BYTES_PER_SLOT = 32 * 1024  # a NetHack percept takes 8 to 14 KiB
_PARTS = tuple(f.name for f in dataclasses.fields(Percept))
_ACTIONS = _PARTS.index("actions")


class WorkerCrash(RuntimeError):
    """A worker process died or hung; the message says which."""


@dataclasses.dataclass(frozen=True)
class Incident:
    """A worker that broke. `lost` is the slot that was blamed, None where no episode was lost."""

    worker: int
    reason: str
    lost: int | None
    replayed: tuple[int, ...]


@dataclasses.dataclass
class _Episode:
    """What it takes to play an episode again; `actions` as the agent named them."""

    seed: int
    actions: list[str]
    percept: Percept

    def snapshot(self) -> ReplaySnapshot:
        return ReplaySnapshot(self.seed, tuple(self.actions), digest(self.percept))


class _Worker:
    """One process, its pipe and its block of shared memory."""

    def __init__(self, config: EnvConfig, number: int, block: Any, make: MakeEnv) -> None:
        self.number = number
        self.block = block
        self.resets = 0
        self.timeout_s = config.step_timeout_s
        self._header = np.frombuffer(block, np.int64, 2)
        self._header[:] = 0, _NO_SLOT
        self._payload = memoryview(block).cast("B")[_HEADER_BYTES:]
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, block, config, make),
            daemon=True,
            name=f"nle-worker-{number}",
        )
        with _interrupts_held():
            self.process.start()
        theirs.close()

    def ask(self, request: tuple[Any, ...]) -> None:
        """Sends a request; WorkerCrash when nobody listens."""
        try:
            self.connection.send(request)
        except (ConnectionError, OSError) as error:
            raise WorkerCrash(self._death()) from error

    def answer(self, timeout_s: float | None = None) -> Any:
        """Waits for the answer to the last request; each slot has `timeout_s` for its own part."""
        timeout_s = timeout_s or self.timeout_s
        beat, since = int(self._header[0]), time.monotonic()
        try:
            while not self.connection.poll(min(1.0, timeout_s / 4)):
                now = time.monotonic()
                if beat != self._header[0]:
                    beat, since = int(self._header[0]), now
                elif now - since > timeout_s:
                    raise WorkerCrash(f"no answer in {timeout_s:g} s")
            size, inline = self.connection.recv()
        except (EOFError, ConnectionError, OSError) as error:
            raise WorkerCrash(self._death()) from error
        return pickle.loads(self._payload[:size] if inline is None else inline)

    @property
    def slot_in_operation(self) -> int | None:
        """The local slot that the worker is, or was when it died, stepping or resetting."""
        slot = int(self._header[1])
        return None if slot == _NO_SLOT else slot

    def _death(self) -> str:
        self.process.join(timeout=5)
        code = self.process.exitcode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"process killed by {signal.Signals(-code).name}"
        return f"process ended with exit code {code}"

    def stop(self, wait_s: float = 2.0) -> None:
        """Ends the process, by force if it does not listen."""
        self.connection.close()
        self.process.join(timeout=wait_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=5)
        self._payload.release()


class WorkerPool:
    """TextEnv over `config.workers` processes.

    Args:
      config: `step_timeout_s` bounds one step or reset of one slot.
      make: builds the environment in a worker; a function that a fresh process can import.
      resets_per_worker: a worker is replaced after so many.

    Raises:
      ValueError: what the environment itself raises for a bad config (unknown task, ...).
      WorkerCrash: a worker could not be started.
    """

    def __init__(
        self,
        config: EnvConfig,
        *,
        make: MakeEnv = envs.make,
        resets_per_worker: int = RESETS_PER_WORKER,
    ) -> None:
        self._make = make
        self.num_slots = config.slots
        self.incidents: list[Incident] = []
        self._count = max(1, min(config.workers, config.slots))
        share = -(-config.slots // self._count)
        self._config = dataclasses.replace(config, workers=0, slots=share)
        self._resets_per_worker = resets_per_worker
        self._percepts: dict[int, Percept] = {}
        self._episodes: dict[int, _Episode] = {}  # all but the failed ones
        self._lost: dict[int, str] = {}  # broke while nobody was stepping them; told at their step
        self._no_engine: dict[int, str] = {}  # nothing there to draw a frame from
        self._workers: list[_Worker] = []
        self._stop = weakref.finalize(self, _stop_all, self._workers)
        context = multiprocessing.get_context("spawn")
        try:
            for number in range(self._count):
                block = context.RawArray("B", _HEADER_BYTES + share * _BYTES_PER_SLOT)
                self._workers.append(_Worker(self._config, number, block, make))
            about = [self._greet(worker) for worker in self._workers][0]
        except BaseException:
            self.close()
            raise
        self.actions, self.fallback_action, self.max_steps, self.instructions = about

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> dict[int, Percept]:
        """Starts a new episode in each slot; where an engine breaks twice over it, a failed one."""
        if len(slots) != len(seeds):
            raise ValueError(f"reset: {len(slots)} slots but {len(seeds)} seeds")
        wanted = {slot: int(seed) for slot, seed in zip(slots, seeds, strict=True)}

        def begin(slot: int, percept: Percept) -> None:
            self._percepts[slot] = percept
            if not percept.failed:
                self._episodes[slot] = _Episode(wanted[slot], [], percept)

        with self._closing_on_interrupt():
            self._make_room(wanted)
            percepts, broken = self._run("reset", wanted, begin)
            if broken:
                again = {slot: wanted[slot] for slot in broken}
                for slot in again:
                    self._no_engine.pop(slot, None)
                second, broken = self._run("reset", again, begin)
                percepts |= second
        for slot, reason in broken.items():
            percepts[slot] = self._failed(None, None, reason)
            self._percepts[slot] = percepts[slot]
        return {slot: percepts[slot] for slot in wanted}

    def step(self, actions: Mapping[int, str]) -> dict[int, Percept]:
        """One step in each named slot; ValueError for a slot with no running episode."""
        for slot in actions:
            percept = self._running(slot)
            if percept.done:
                raise ValueError(
                    f"slot {slot}: its episode is over ({percept.end_reason}); reset it"
                )
        broken = {slot: self._lost.pop(slot) for slot in actions if slot in self._lost}
        wanted = {slot: action for slot, action in actions.items() if slot not in broken}

        def go_on(slot: int, percept: Percept) -> None:
            self._percepts[slot] = percept
            if percept.failed:
                del self._episodes[slot]
            else:
                self._episodes[slot].actions.append(actions[slot])
                self._episodes[slot].percept = percept

        with self._closing_on_interrupt():
            percepts, broke_now = self._run("step", wanted, go_on)
        for slot, reason in (broken | broke_now).items():
            self._episodes.pop(slot, None)
            percepts[slot] = self._failed(self._percepts[slot], actions[slot], reason)
            self._percepts[slot] = percepts[slot]
        return {slot: percepts[slot] for slot in actions}

    def snapshot(self, slot: int) -> ReplaySnapshot:
        """The slot's episode as it stands, to go on with later, here or in another slot.

        Raises:
          ValueError: the slot was never reset, or its episode has failed.
        """
        percept = self._running(slot)
        if slot not in self._episodes:
            raise ValueError(f"slot {slot}: its episode has failed ({percept.end_reason})")
        return self._episodes[slot].snapshot()

    def restore(self, slot: int, snapshot: ReplaySnapshot) -> Percept:
        """Plays a snapshot's episode again in a slot, up to where it was taken.

        Raises:
          ValueError: no such slot.
          BranchError: the game shows something else there; the slot then needs a reset.
        """

        def begin(slot: int, percept: Percept) -> None:
            self._percepts[slot] = percept
            self._episodes[slot] = _Episode(snapshot.seed, list(snapshot.actions), percept)

        with self._closing_on_interrupt():
            self._make_room((slot,))
            percepts, broken = self._run("replay", {slot: snapshot}, begin)
        if broken:
            raise BranchError(f"slot {slot} cannot be restored: {broken[slot]}")
        return percepts[slot]

    def progression(self, slot: int) -> float:
        """Highest progression of the slot's episode so far."""
        return self._running(slot).progression

    def frame(self, slot: int) -> np.ndarray:
        """The game as an RGB picture.

        Raises:
          ValueError: the slot was never reset, or its engine broke.
        """
        self._running(slot)
        if slot in self._no_engine:
            raise ValueError(
                f"slot {slot}: its engine is gone ({self._no_engine[slot]}), there is no frame; "
                "reset it"
            )
        with self._closing_on_interrupt():
            pictures, broken = self._run("frame", {slot: None}, lambda slot, picture: None)
        if slot in broken:
            raise ValueError(f"slot {slot}: {broken[slot]}; there is no frame")
        return pictures[slot]

    def close(self) -> None:
        """Ends the worker processes."""
        self._stop()
        self._workers = []

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids, in worker order."""
        return tuple(worker.process.pid for worker in self._workers)

    def _running(self, slot: int) -> Percept:
        if not self._workers:
            raise ValueError("the pool is closed; make a new one")
        if slot not in self._percepts:
            raise ValueError(f"slot {slot} was never reset; call reset([{slot}], [seed]) first")
        return self._percepts[slot]

    def _make_room(self, slots: Collection[int]) -> None:
        """Forgets what was in the slots; renews workers that have had their share of resets."""
        for slot in slots:
            if not 0 <= slot < self.num_slots:
                raise ValueError(f"slot {slot} is outside 0..{self.num_slots - 1}")
        for slot in slots:
            for record in (self._percepts, self._episodes, self._lost, self._no_engine):
                record.pop(slot, None)
        if not self._workers:
            raise ValueError("the pool is closed; make a new one")
        for number, job in self._divide(dict.fromkeys(slots)).items():
            if self._workers[number].resets + len(job) > self._resets_per_worker:
                self._recycle(number)
            self._workers[number].resets += len(job)

    def _divide(self, by_slot: Mapping[int, Any]) -> dict[int, dict[int, Any]]:
        """{slot: what} -> {worker: {local slot: what}}."""
        jobs: dict[int, dict[int, Any]] = {}
        for slot, what in by_slot.items():
            jobs.setdefault(slot % self._count, {})[slot // self._count] = what
        return jobs

    def _run(
        self, what: str, by_slot: Mapping[int, Any], accept: Callable[[int, Any], None]
    ) -> tuple[dict[int, Any], dict[int, str]]:
        """All workers at once -> (answers by slot, reasons by slot that broke).

        `accept` is told each answer before anything else can break.
        """
        if not self._workers:
            raise ValueError("the pool is closed; make a new one")
        answers: dict[int, Any] = {}
        broken: dict[int, str] = {}
        waiting = self._divide(by_slot)
        blameless = dict.fromkeys(waiting, 0)
        while waiting:
            crashes: dict[int, WorkerCrash] = {}
            for number, job in waiting.items():
                try:
                    self._workers[number].ask((what, job))
                except WorkerCrash as crash:
                    crashes[number] = crash
            left: dict[int, dict[int, Any]] = {}
            for number, job in waiting.items():
                try:
                    if number in crashes:
                        raise crashes[number]
                    answered = self._workers[number].answer()
                except WorkerCrash as crash:
                    blamed = self._replace(number, str(crash))
                    blameless[number] += blamed is None
                    spent = blameless[number] >= _TRIES
                    rest = {}
                    for local, item in job.items():
                        slot = local * self._count + number
                        if spent or slot in self._no_engine:
                            broken[slot] = self._no_engine.setdefault(slot, str(crash))
                            if what != "frame":
                                self._lost.pop(slot, None)  # told right now
                        else:
                            rest[local] = item
                    if rest:
                        left[number] = rest
                    continue
                for local, (ok, value) in answered.items():
                    slot = local * self._count + number
                    if not ok:
                        broken[slot] = value
                        if what != "frame":
                            self._no_engine[slot] = value
                    else:
                        answers[slot] = value if what == "frame" else self._percept(value)
                        accept(slot, answers[slot])
            waiting = left
        return answers, broken

    def _percept(self, parts: tuple[Any, ...]) -> Percept:
        if parts[_ACTIONS] is None:
            parts = (*parts[:_ACTIONS], self.actions, *parts[_ACTIONS + 1 :])
        return Percept(*parts)

    def _replace(self, number: int, reason: str) -> int | None:
        """A new worker for a broken one, with its episodes; the slot that is to blame, if one is."""
        local = self._workers[number].slot_in_operation
        blamed = None if local is None else local * self._count + number
        if blamed is not None:
            self._lose(blamed, reason)
        for slot, percept in self._percepts.items():
            if slot % self._count == number and percept.done:
                self._no_engine.setdefault(slot, reason)
        self._incident(number, reason, blamed, tuple(self._replayable(number)))
        self._restart(number)
        return blamed

    def _incident(
        self, number: int, reason: str, lost: int | None, replayed: tuple[int, ...]
    ) -> None:
        self.incidents.append(Incident(number, reason, lost, replayed))
        _log.warning(
            "environment worker %d: %s; %s, episodes played again from their seeds: %d",
            number,
            reason,
            "no episode lost" if lost is None else f"the episode in slot {lost} has failed",
            len(replayed),
        )

    def _lose(self, slot: int, reason: str) -> None:
        self._no_engine[slot] = reason
        if slot in self._episodes and not self._percepts[slot].done:
            del self._episodes[slot]
            self._lost[slot] = reason

    def _recycle(self, number: int) -> None:
        """A new worker for one that has grown; its finished games can no longer be drawn."""
        for slot, percept in self._percepts.items():
            if slot % self._count == number and percept.done:
                self._no_engine.setdefault(slot, "its worker was replaced after the game ended")
        self._restart(number)

    def _replayable(self, number: int) -> dict[int, _Episode]:
        """A worker's running episodes."""
        return {
            slot: episode
            for slot, episode in sorted(self._episodes.items())
            if slot % self._count == number and not episode.percept.done
        }

    def _restart(self, number: int) -> None:
        """Starts a worker anew and plays its running episodes again, until all that can have been."""
        blameless = 0
        while True:
            old = self._workers[number]
            if old.process.is_alive() and old.slot_in_operation is not None:
                old.process.kill()
            old.stop()
            worker = self._workers[number] = _Worker(self._config, number, old.block, self._make)
            self._greet(worker)
            episodes = self._replayable(number)
            job = {slot // self._count: e.snapshot() for slot, e in episodes.items()}
            worker.resets = len(job)
            try:
                worker.ask(("replay", job))
                answered = worker.answer()
            except WorkerCrash as crash:
                local = worker.slot_in_operation
                slot = None if local is None else local * self._count + number
                if slot is not None:
                    self._lose(slot, f"{crash} on replay")
                blameless += slot is None
                if blameless >= _TRIES:
                    for slot in episodes:
                        self._lose(slot, f"{crash} on replay")
                self._incident(number, f"{crash} on replay", slot, tuple(self._replayable(number)))
                continue
            for local, (ok, value) in answered.items():
                if not ok:
                    slot = local * self._count + number
                    self._lose(slot, value)
                    self._incident(number, value, slot, ())
            return

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

    @contextlib.contextmanager
    def _closing_on_interrupt(self) -> Iterator[None]:
        """An interrupt leaves answers in flight that belong to no one: the pool ends with it."""
        try:
            yield
        except (WorkerCrash, KeyboardInterrupt, SystemExit):
            self.close()
            raise


def _stop_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        if worker.slot_in_operation is not None:
            worker.process.kill()  # it may never come back from there
    for worker in workers:
        worker.stop()
    workers.clear()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Children started inside inherit a blocked SIGINT: the parent decides what Ctrl-C means."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, block: Any, config: EnvConfig, make: MakeEnv) -> None:
    """A worker's loop: makes the environment, then answers until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    header = np.frombuffer(block, np.int64, 2)
    payload = memoryview(block).cast("B")[_HEADER_BYTES:]

    def send(answer: Any) -> None:
        data = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        if len(data) <= len(payload):
            payload[: len(data)] = data
            connection.send((len(data), None))
        else:
            connection.send((len(data), data))

    try:
        env = make(config)
    except ValueError as error:
        send(("refused", str(error)))
        return
    send(("ready", (env.actions, env.fallback_action, env.max_steps, env.instructions)))

    def parts(percept: Percept) -> tuple[Any, ...]:
        return tuple(
            None if name == "actions" and percept.actions == env.actions else getattr(percept, name)
            for name in _PARTS
        )

    def operate(what: str, slot: int, item: Any) -> Any:
        if what == "step":
            return parts(env.step({slot: item})[slot])
        if what == "reset":
            return parts(env.reset([slot], [item])[slot])
        if what == "frame":
            return env.frame(slot)
        percept = env.reset([slot], [item.seed])[slot]
        for action in item.actions:
            header[0] += 1
            if percept.done:
                break
            percept = env.step({slot: action})[slot]
        if digest(percept) != item.digest:
            raise BranchError(
                f"replay of seed {item.seed} and {len(item.actions)} actions parted from the "
                f"episode (step {percept.step}, {percept.end_reason or 'running'})"
            )
        return parts(percept)

    def operate_safely(what: str, slot: int, item: Any) -> tuple[bool, Any]:
        header[0] += 1
        header[1] = slot
        try:
            return True, operate(what, slot, item)
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"
        finally:
            header[1] = _NO_SLOT

    try:
        while True:
            what, job = connection.recv()
            send({slot: operate_safely(what, slot, item) for slot, item in job.items()})
    except (EOFError, ConnectionError, OSError):
        pass
    finally:
        env.close()
