"""The one thread that owns the engine: it takes requests from an event loop and sends events back.

The engine is single-threaded. So everything that touches it is done here, in order: submissions and
cancellations that came in since the last step, then a step, then its events go to the loop in one call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import traceback
from collections.abc import Callable, Hashable
from typing import Any

from automem_jax.sampling.engine import Engine
from automem_jax.sampling.requests import Event, GenerationRequest

Listener = Callable[[Event | BaseException], None]


class EngineFailed(RuntimeError):
    """The engine raised while it computed; nothing more is answered."""


class Driver:
    """Runs an engine for an event loop.

    Listeners are called in the loop's thread with each event of their request, in order, the last one
    with `finished`; or with the exception that ended them.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._listeners: dict[Hashable, Listener] = {}  # touched by the thread alone
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()  # between a call that comes in and the end of the thread
        self.failure: EngineFailed | None = None  # why nothing more is answered
        self.broken = False  # ... because the engine raised
        self.on_broken: Callable[[], None] = lambda: None  # called in the loop's thread

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the thread."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the step it is in; what still runs is cancelled."""
        if self._thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def submit(self, request: GenerationRequest, listener: Listener) -> None:
        """Hands a request to the engine.

        Where the caller is cancelled meanwhile, it must `cancel` the id all the same.

        Raises:
          QueueFull, ValueError: as Engine.submit. EngineFailed: the engine broke down.
        """

        def register() -> None:
            self._engine.submit(request)
            self._listeners[request.id] = listener

        await self.call(register)

    def cancel(self, id: Hashable) -> None:
        """Ends a request without another event. Returns at once; unknown ids do no harm."""

        def forget() -> None:
            if self._listeners.pop(id, None) is not None:
                self._engine.cancel(id)

        with self._lock:
            if self.failure is None:
                self._inbox.put(_Call(forget))

    async def call(self, function: Callable[[], Any]) -> Any:
        """Runs a function between two steps; what it returns or raises."""
        answer: asyncio.Future[Any] = self._loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if answer.cancelled():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def tell(value: Any, error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(settle, value, error)

        with self._lock:
            if self.failure is not None:
                raise self.failure
            self._inbox.put(_Call(function, tell))
        return await answer

    def _run(self) -> None:
        try:
            while self._take():
                if not self._engine.idle():
                    self._tell(self._engine.step())
            failure = EngineFailed("the server is shutting down")
            for id in self._listeners:
                self._engine.cancel(id)
        except BaseException as error:  # the thread ends; everybody who waits hears why
            traceback.print_exc()
            failure = EngineFailed(f"the engine failed: {type(error).__name__}: {error}")
            self.broken = True
            self._loop.call_soon_threadsafe(self.on_broken)
        with self._lock:
            self.failure = failure
        told = [(listener, failure) for listener in self._listeners.values()]
        self._listeners.clear()
        self._loop.call_soon_threadsafe(_deliver, told)
        while not self._inbox.empty():  # nothing more comes in once `failure` is set
            command = self._inbox.get()
            if command is not None:
                command.refuse(failure)

    def _take(self) -> bool:
        """Runs what came in; waits where there is nothing else to do. False: it is time to end."""
        wait = self._engine.idle()
        while wait or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command.run()
            wait = False
        return True

    def _tell(self, events: list[Event]) -> None:
        told = []
        for event in events:
            listener = self._listeners.get(event.id)
            if listener is None:
                continue
            told.append((listener, event))
            if event.finished is not None:
                del self._listeners[event.id]
        if told:
            self._loop.call_soon_threadsafe(_deliver, told)


class _Call:
    """A function to run in the engine's thread, and whom to tell what became of it."""

    def __init__(
        self,
        function: Callable[[], Any],
        tell: Callable[[Any, BaseException | None], None] | None = None,
    ):
        self._function, self._tell = function, tell or (lambda value, error: None)

    def run(self) -> None:
        try:
            value = self._function()
        except Exception as error:  # the caller's to handle
            self._tell(None, error)
        else:
            self._tell(value, None)

    def refuse(self, error: BaseException) -> None:
        self._tell(None, error)


def _deliver(told: list[tuple[Listener, Event | BaseException]]) -> None:
    for listener, event in told:
        listener(event)
