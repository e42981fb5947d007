"""Environment benchmark: steps/s with text and without, resets, start-up and compilation.

Actions are scripted (seeded random over all the environment's actions); finished games are reset at
once and resets are timed apart. Run as a module it is the probe that `compile_times` starts in a
fresh process: how long until a first step, and where the time went.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

from automem_jax.config import EnvConfig

FIRST_SEED = 1_000
_WARM_UP_STEPS = 3
_PACKAGES = ("jax", "jaxlib", "numpy", "nle", "minihack", "craftax", "balrog")
_CACHED_FROM_S = "0.3"  # compilations shorter than this are not kept, as in `automem`'s own stages
_BALROG_TASKS = {
    "nethack": ("nle", "NetHackChallenge-v0"),
    "minihack": ("minihack", "MiniHack-Quest-Easy-v0"),
    "craftax_classic": ("crafter", "default"),
}


@dataclasses.dataclass(frozen=True)
class Speed:
    """One measured combination.

    Attributes:
      start_s: making the environment and its first reset of all slots, compilation included.
      steps_per_s: agent-visible steps with full text, resets not counted.
      steps_per_s_with_resets: the same, the time of resets counted.
      steps_per_cpu_s: steps by processor seconds of this process and its workers, resets included:
        what a core that does nothing else would reach. None where the system does not tell.
      raw_steps_per_s: the engine alone, no text, in this process; None where not measured.
      reset_ms: one reset of one slot, median; None where no game ended.
    """

    env: str
    task: str
    batch: int
    workers: int
    start_s: float
    steps_per_s: float
    steps_per_s_with_resets: float
    steps_per_cpu_s: float | None
    raw_steps_per_s: float | None
    reset_ms: float | None
    steps: int
    resets: int


def measure(config: EnvConfig, seconds: float, raw: float | None = None) -> Speed:
    """Steps/s with text of `config.slots` slots in `config.workers` workers (0: this process)."""
    from automem_jax import envs

    rng = random.Random(0)
    started = time.perf_counter()
    env = envs.make(config)
    try:
        slots = range(config.slots)
        env.reset(slots, range(FIRST_SEED, FIRST_SEED + config.slots))
        start_s = time.perf_counter() - started
        next_seed = FIRST_SEED + config.slots
        # One reset of one slot is timed even where no game ends meanwhile.
        reset_times = [_timed(lambda: env.reset([0], [FIRST_SEED]))[1] for _ in range(2)][1:]
        for _ in range(_WARM_UP_STEPS):
            percepts = env.step({slot: rng.choice(env.actions) for slot in slots})
        workers = getattr(env, "process_ids", ())
        cpu_before = _cpu_s(workers)
        steps = resets = 0
        step_s = reset_s = 0.0
        while step_s + reset_s < seconds:
            over = [slot for slot, percept in percepts.items() if percept.done]
            if over:
                fresh = range(next_seed, next_seed + len(over))
                _, took = _timed(lambda: env.reset(over, fresh))  # noqa: B023  (called at once)
                reset_times.append(took / len(over))
                next_seed, resets, reset_s = fresh.stop, resets + len(over), reset_s + took
            actions = {slot: rng.choice(env.actions) for slot in slots}
            percepts, took = _timed(lambda: env.step(actions))  # noqa: B023
            steps, step_s = steps + len(actions), step_s + took
        cpu_s = _cpu_s(workers) - cpu_before
    finally:
        env.close()
    return Speed(
        config.name,
        config.task,
        config.slots,
        config.workers,
        start_s,
        steps / step_s,
        steps / (step_s + reset_s),
        steps / cpu_s if cpu_s > 0 else None,
        raw,
        1e3 * statistics.median(reset_times),
        steps,
        resets,
    )


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    before = time.perf_counter()
    return call(), time.perf_counter() - before


def _cpu_s(workers: Sequence[int]) -> float:
    """Processor seconds that this process and `workers` have used so far; NaN if unknown."""
    used = time.process_time()
    for process_id in workers:
        try:
            with open(f"/proc/{process_id}/stat", encoding="ascii") as file:
                figures = file.read().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        used += (int(figures[11]) + int(figures[12])) / os.sysconf("SC_CLK_TCK")
    return used


def raw_speed(config: EnvConfig, seconds: float) -> float:
    """Steps/s of the engine as its package gives it: no text, no checks, this process."""
    step = _raw_craftax(config) if config.name.startswith("craftax") else _raw_nle(config)
    for _ in range(_WARM_UP_STEPS):
        step()
    steps, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        steps += step()
    return steps / took


def _raw_nle(config: EnvConfig) -> Callable[[], int]:
    import warnings

    import gymnasium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import minihack  # noqa: F401  (registers its tasks)
        import nle  # noqa: F401

        name = "NetHackScore-v0" if config.name == "nethack" else config.task
        engine = gymnasium.make(name).unwrapped
    rng = random.Random(0)
    engine.reset()

    def step() -> int:
        _, _, done, cut, _ = engine.step(rng.randrange(len(engine.actions)))
        if done or cut:
            engine.reset()
        return 1

    return step


def _raw_craftax(config: EnvConfig) -> Callable[[], int]:
    import jax
    import jax.numpy as jnp

    if config.name == "craftax_classic":
        from craftax.craftax_classic.constants import Action
        from craftax.craftax_classic.envs.craftax_state import EnvParams, StaticEnvParams
        from craftax.craftax_classic.game_logic import craftax_step
        from craftax.craftax_classic.world_gen import generate_world
    else:
        from craftax.craftax.constants import Action
        from craftax.craftax.craftax_state import EnvParams, StaticEnvParams
        from craftax.craftax.game_logic import craftax_step
        from craftax.craftax.world_gen.world_gen import generate_world
    params, static = EnvParams(), StaticEnvParams()
    batch = config.slots
    key = jax.random.PRNGKey(0)
    # One world for all: the engine's step does not care, and making many takes long.
    world = jax.jit(lambda k: generate_world(k, params, static))(key)
    states = jax.tree.map(
        lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (batch, *jnp.shape(leaf))), world
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        key, step_key, action_key = jax.random.split(key, 3)
        actions = jax.random.randint(action_key, (batch,), 0, len(Action))

        def one(key: jax.Array, state: Any, action: jax.Array) -> Any:
            new = craftax_step(key, state, action, params, static)[0]
            return jax.tree.map(lambda n, o: jnp.asarray(n, jnp.asarray(o).dtype), new, state)

        return jax.vmap(one)(jax.random.split(step_key, batch), states, actions), key

    held = [jax.tree.map(jnp.array, states), key]

    def step() -> int:
        held[:] = advance(*held)
        jax.block_until_ready(held[1])
        return batch

    return step


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """A fresh process until its first step: seconds from its start, and of its parts."""

    env: str
    batch: int
    cache: str
    import_s: float
    reset_s: float
    step_s: float
    total_s: float


def compile_times(config: EnvConfig) -> list[FirstStep]:
    """First step of a fresh process with an empty compilation cache, then with a filled one."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("empty", "filled"):
            settings = {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": _CACHED_FROM_S,
            }
            started = time.time()
            command = [sys.executable, "-m", "automem_jax.bench.env"]
            result = subprocess.run(
                [*command, json.dumps(dataclasses.asdict(config))],
                env=os.environ | settings,
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode:
                raise RuntimeError(
                    f"the probe for {config.name} failed: {result.stderr.strip()[-300:]}"
                )
            parts = json.loads(result.stdout.splitlines()[-1])
            total_s = parts.pop("first_step_at") - started
            found.append(FirstStep(config.name, config.slots, kind, **parts, total_s=total_s))
    return found


def _probe(config: EnvConfig) -> dict[str, float]:
    marks = [time.time()]
    from automem_jax import envs

    env = envs.make(config)
    marks.append(time.time())
    env.reset(range(config.slots), range(config.slots))
    marks.append(time.time())
    env.step(dict.fromkeys(range(config.slots), env.actions[0]))
    marks.append(time.time())
    env.close()
    parts = [later - earlier for earlier, later in zip(marks, marks[1:], strict=False)]
    names = ("import_s", "reset_s", "step_s")
    return dict(zip(names, parts, strict=True)) | {"first_step_at": marks[-1]}


def balrog_speed(name: str, seconds: float) -> dict[str, Any]:
    """BALROG's own environment under the same kind of actions: steps/s, or why there is no figure."""
    if name not in _BALROG_TASKS:
        return {"env": name, "why": "not part of BALROG"}
    if importlib.util.find_spec("balrog") is None:
        return {"env": name, "why": "not installed"}
    kind, task = _BALROG_TASKS[name]
    try:
        import balrog
        from balrog.environments import make_env
        from omegaconf import OmegaConf

        settings = os.path.join(os.path.dirname(balrog.__file__), "config", "config.yaml")
        env = make_env(kind, task, OmegaConf.load(settings))
        env.reset(seed=FIRST_SEED)
        actions = list(env.language_action_space)
        rng, steps, step_s = random.Random(0), 0, 0.0
        while step_s < seconds:
            action = rng.choice(actions)
            before = time.perf_counter()
            _, _, done, cut, _ = env.step(action)
            step_s += time.perf_counter() - before
            steps += 1
            if done or cut:
                env.reset(seed=FIRST_SEED + steps)
        env.close()
    except Exception as error:  # another project's code, in whatever version is there
        return {"env": name, "why": f"{type(error).__name__}: {error}"}
    return {"env": name, "task": task, "steps_per_s": steps / step_s, "steps": steps}


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code; no path and no host name."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    facts = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "packages": versions,
    }
    if "jax" in sys.modules:
        import jax

        facts["jax_devices"] = sorted({device.device_kind for device in jax.devices()})
    return facts


def run(
    configs: Sequence[EnvConfig],
    batches: Sequence[int],
    worker_counts: Sequence[int],
    seconds: float,
    *,
    compile_probe: bool = True,
) -> Iterator[tuple[str, Any]]:
    """Measures everything, yielding ("speed", Speed), ("first_step", FirstStep), ("balrog", dict)."""
    for config in configs:
        compiled = config.name.startswith("craftax")
        raw = None
        for batch in batches:
            sized = dataclasses.replace(config, slots=batch, workers=0)
            if compiled or raw is None:
                raw = raw_speed(sized, seconds)
            for workers in (0,) if compiled else worker_counts:
                if workers <= batch:
                    yield (
                        "speed",
                        measure(dataclasses.replace(sized, workers=workers), seconds, raw),
                    )
        if compiled and compile_probe:
            largest = dataclasses.replace(config, slots=max(batches), workers=0)
            for first in compile_times(largest):
                yield "first_step", first
        yield "balrog", balrog_speed(config.name, seconds)


if __name__ == "__main__":
    print(json.dumps(_probe(EnvConfig(**json.loads(sys.argv[1])))))
