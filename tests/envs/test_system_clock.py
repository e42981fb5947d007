"""The system clock plays no part in an episode: neither the date (moon, Friday 13th) nor the hour."""

import os
import shutil
import subprocess
import sys

import pytest

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("CLOCK_SHIFT_S"));
  return result;
}
time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""
_PLAY = """
import time
from automem_jax import envs
from automem_jax.config import EnvConfig
from automem_jax.envs import selftest
seen = []
for name, task in (("nethack", "NetHackChallenge"), ("minihack", "MiniHack-Quest-Medium-v0")):
    env = envs.make(EnvConfig(name=name, task=task, slots=4, max_steps=0))
    seen.append(selftest.play(env, range(4), 40))
    env.close()
print(int(time.time()), selftest.value_digest(seen))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("shifting the clock of a process takes Linux and a C compiler")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(_SHIM)
    library = folder / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "clock.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def play(shim, shift_s: int) -> tuple[int, str]:
    settings = {"LD_PRELOAD": str(shim), "CLOCK_SHIFT_S": str(shift_s)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PLAY],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    now, digest = result.stdout.split()
    return int(now), digest


def test_another_date_and_another_hour_change_nothing(shim):
    now, digest = play(shim, 0)
    shift_s = 170 * 86_400 + 11 * 3_600  # another phase of the moon, day for night
    then, same = play(shim, shift_s)
    assert abs(then - now - shift_s) < 600
    assert same == digest
