"""A toy environment that breaks on command, for worker processes: module level, so they can find it."""

import os
import signal
import time
from collections.abc import Mapping

from automem_jax.config import EnvConfig
from automem_jax.testing import ToyEnv

# seed -> how its episode breaks, on its second step
BREAKS = {101: "kill", 102: "raise", 103: "hang", 104: "exit"}
KILLED_AT_RESET = 105


class BreakingEnv(ToyEnv):
    """ToyEnv whose episodes with a seed of BREAKS break."""

    def reset(self, slots, seeds):
        if KILLED_AT_RESET in seeds:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().reset(slots, seeds)

    def step(self, actions: Mapping[int, str]):
        for slot in actions:
            if self._percepts[slot].step == 1:
                how = BREAKS.get(self._seeds[slot])
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGSEGV)
                elif how == "raise":
                    raise RuntimeError("boom")
                elif how == "hang":
                    time.sleep(1_000)
                elif how == "exit":
                    os._exit(3)
        return super().step(actions)


class ForgetfulEnv(ToyEnv):
    """ToyEnv whose cue is another one in every process: no replay can equal its episode."""

    @staticmethod
    def _cue(seed: int) -> str:
        return f"sign {os.getpid()}"


def make(config: EnvConfig) -> BreakingEnv:
    return BreakingEnv(config.slots, length=5)


def make_forgetful(config: EnvConfig) -> ForgetfulEnv:
    return ForgetfulEnv(config.slots, length=5)
