"""SIGTERM (pre-emption) during training: the step under way is finished and saved, then the process ends."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class Preempted(SystemExit):
    """Training stopped on SIGTERM with its state saved; ends the process with EXIT_PREEMPTED."""

    def __init__(self, step: int):
        super().__init__(EXIT_PREEMPTED)
        self.step = step

    def __str__(self) -> str:
        return f"stopped by SIGTERM after step {self.step}, which is saved"


class Preemption:
    """Watches for SIGTERM while it is open; use as a context manager.

    Under `jax.distributed` JAX's own notifier does the watching: where one process is told, all agree on
    the step to stop after.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self, step: int) -> bool:
        """Whether to save and stop after this step; all processes must ask at every step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def _note(self, *_: Any) -> None:
        self._told = True
