"""Flags common to all stages, and what a stage receives: an Experiment."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from automem_jax import config as config_lib
from automem_jax.files import write_json
from automem_jax.policies.endpoint import public_url
from automem_jax.provenance import record_command, shown_command

_REPOSITORY = Path(__file__).resolve().parents[2]
_DEFAULT_CONFIG = _REPOSITORY / "configs" / "quickstart.py"

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment config; any field can be overridden: --config.training.epochs=8.",
    lock_config=True,
)
flags.DEFINE_string("workdir", "runs/quickstart", "Directory of this experiment's results.")


@dataclass(frozen=True)
class Experiment:
    """A parsed command: the checked config, the work directory, and what was given without a flag."""

    config: config_lib.ExperimentConfig
    workdir: Path
    arguments: tuple[str, ...] = ()


class UsageError(ValueError):
    """The command line is wrong; the message says what and how to mend it."""


def known_errors() -> tuple[type[BaseException], ...]:
    """Errors a user can cause; each already carries a message that names thing, value and remedy."""
    return (OSError, ValueError, RuntimeError)


def one_line(error: BaseException) -> str:
    """The error's text on one line; its class where it has no text."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line) or type(error).__name__


def parse(
    program: str, description: str, arguments: list[str], positional: tuple[str, ...] = ()
) -> Experiment:
    """Parses flags and checks the config. `positional` names the arguments it takes without a flag.

    Raises:
      UsageError: an unknown flag or an unreadable config file.
      ConfigError: an unknown config key or a value of the wrong kind.
    """
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in arguments):
        print(f"{program}: {description.strip()}\n\nflags:")
        print(_flag_help())
        sys.exit(0)
    arguments = _with_config_file(arguments)
    try:
        rest = FLAGS([program, *arguments])
    except (flags.Error, AttributeError, KeyError, TypeError, OSError, ImportError) as error:
        raise UsageError(_explain(error, arguments)) from error
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"{one_line(error)}; see {program} --help") from error
    if len(rest) > 1 + len(positional):
        raise UsageError(
            f"unexpected argument {rest[1 + len(positional)]!r}; flags are written --name=value"
        )
    folder = str(_config_file(arguments).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # where the modules of a user's own environment lie
    config = config_lib.from_config_dict(_CONFIG.value)
    config_lib.check(config)
    return Experiment(config, Path(FLAGS.workdir), tuple(rest[1:]))


def _with_config_file(arguments: list[str]) -> list[str]:
    """The arguments with --config=FILE among them, the default file where none was given."""
    given = _config_file(arguments)
    if given == _DEFAULT_CONFIG and not any(_is_config(a) for a in arguments):
        return [f"--config={_DEFAULT_CONFIG}", *arguments]
    if not given.is_file():
        raise UsageError(f"config file {str(given)!r} does not exist; shipped ones are in configs/")
    return arguments


def _config_file(arguments: list[str]) -> Path:
    """The config's file as the last --config gives it, without what is handed to it."""
    given = str(_DEFAULT_CONFIG)
    for index, argument in enumerate(arguments):
        if _is_config(argument):
            value = argument.partition("=")[2]
            given = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
    return Path(given.partition(":")[0])


def _is_config(argument: str) -> bool:
    return argument.lstrip("-").partition("=")[0] == "config"


def record_config(experiment: Experiment) -> None:
    """Writes config.json into the work directory, or checks that it is the same experiment; then adds
    the command to commands.jsonl.

    Raises:
      ConfigError: the work directory was begun with another config; the first difference is named.
    """
    path = experiment.workdir / "config.json"
    now = json.loads(json.dumps(dataclasses.asdict(experiment.config)))
    apis = (now["architect"]["api"], now["recipes"]["api"], now["selection"]["judge"]["api"])
    for policy in (now["policy"], *apis):
        policy["base_url"] = public_url(policy["base_url"])
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise config_lib.ConfigError(f"{path} is not JSON ({error}); delete it") from error
        for place, old, new in _differences(before, now):
            if place not in _FREE_TO_CHANGE:
                raise config_lib.ConfigError(
                    f"{experiment.workdir} was begun with {place} = {old!r}, now it is {new!r}; "
                    "use another --workdir"
                )
    else:
        experiment.workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
    record_command(experiment.workdir, shown_command())


_FREE_TO_CHANGE = frozenset(
    {"env.slots", "env.workers", "env.step_timeout_s", "env.levels_dir", "architect.replay"}
    | {f"architect.budget.{name}" for name in ("dollars", "tokens", "episodes", "wall_s")}
    | {f"architect.price.{name}" for name in ("input", "output", "cached_input", "cache_write")}
    | {f"training.mesh.{axis}" for axis in ("data", "fsdp", "tensor", "sequence", "slices")}
    | {
        f"training.{name}"
        for name in ("attention", "checkpoint_every", "keep_checkpoints", "loss_chunk")
    }
    | {"training.microbatch_rows", "training.remat", "selection.workers", "tracking"}
    | {f"tracking.{name}" for name in ("tensorboard", "wandb", "wandb_project")}
    | {f"selection.counterfactual.{name}" for name in ("decisions", "max_calls")}
    | {"selection.judge.decisions"}
    | {f"evaluation.{name}" for name in ("arms", "baselines", "confidence", "bootstrap_samples")}
    | {
        f"{place}.{name}"
        for place in ("policy", "architect.api", "recipes.api", "selection.judge.api")
        for name in config_lib.CONNECTION_FIELDS
    }
)


def require_workdir(experiment: Experiment) -> None:
    """Raises UsageError where the work directory does not exist yet and this stage only reads it."""
    if not experiment.workdir.is_dir():
        raise UsageError(
            f"work directory {str(experiment.workdir)!r} does not exist; run `automem pipeline` or "
            "`automem rollout` with this --workdir first"
        )


def use_compilation_cache() -> None:
    """Turns on JAX's persistent compilation cache, so that only the first process compiles."""
    import jax

    from automem_jax.rollout.runner import compilation_cache_dir

    directory = compilation_cache_dir()
    os.makedirs(directory, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _differences(before: Any, now: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted(before.keys() | now.keys()):
            inner = f"{place}.{key}" if place else key
            found += _differences(before.get(key), now.get(key), inner)
        return found
    return [] if before == now else [(place, before, now)]


def _explain(error: BaseException, arguments: list[str]) -> str:
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config."):
            problem = _unknown_field(name.removeprefix("config."))
            if problem:
                return f"--{name}: {problem}"
    return one_line(error)


def _unknown_field(path: str) -> str | None:
    node: Any = dataclasses.asdict(config_lib.ExperimentConfig())
    for part in path.split("."):
        if not isinstance(node, dict):
            return None
        if part not in node:
            return config_lib.unknown_key(part, node)
        node = node[part]
    return None


def _flag_help() -> str:
    own = [f for module, fs in FLAGS.flags_by_module_dict().items() for f in fs]
    shown = [f for f in own if f.name in ("config", "workdir") or f.name in _STAGE_FLAGS]
    lines = [f"  --{f.name}: {f.help}\n      (default: {_default(f)!r})" for f in shown]
    lines.append("  --config.FIELD=VALUE: overrides one field of the config. Fields and defaults:")
    lines += [
        f"      {line}" for line in _fields(dataclasses.asdict(config_lib.ExperimentConfig()))
    ]
    return "\n".join(lines)


def _default(flag: flags.Flag) -> Any:
    return str(_DEFAULT_CONFIG.relative_to(_REPOSITORY)) if flag.name == "config" else flag.value


def _fields(node: dict[str, Any], place: str = "") -> list[str]:
    lines = []
    for key, value in node.items():
        path = f"{place}.{key}" if place else key
        lines += _fields(value, path) if isinstance(value, dict) else [f"{path}={value!r}"]
    return lines


_STAGE_FLAGS: set[str] = set()


def stage_flag(name: str, default: Any, help_text: str, choices: list[str] | None = None):
    """Declares a flag of one stage; it shows in that stage's --help."""
    _STAGE_FLAGS.add(name)
    if isinstance(default, bool):
        return flags.DEFINE_bool(name, default, help_text)
    if choices:
        return flags.DEFINE_enum(name, default, choices, help_text)
    return flags.DEFINE_string(name, default, help_text)
