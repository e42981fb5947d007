"""What `automem pipeline` with this config takes, before anything is spent: ranges, stage by stage.

Episodes, calls and tokens come from recorded episodes: shipped ones, or a pilot run's (--from=WORKDIR).
Money needs prices (policy.prices, architect.price), time and accelerator hours the speeds that the flags
state. Writes WORKDIR/forecast.json, which the report sets beside what the run took; --save=False does not.
"""

from __future__ import annotations

import json
import math

from automem_jax.cli import flags

_FROM = flags.stage_flag("from", "", "Work directory whose episodes to go by. Empty: shipped ones.")
_PREFILL = flags.stage_flag("prefill", "0", "Prompt tokens/s of the in-process model, all chips.")
_DECODE = flags.stage_flag("decode", "0", "Generated tokens/s of the in-process model, all chips.")
_TRAINING = flags.stage_flag("training", "0", "Row tokens/s of training, all chips.")
_CALL_S = flags.stage_flag("call_s", "0", "Seconds of one answer of the policy's server.")
_CHIPS = flags.stage_flag("chips", "0", "Accelerator chips that the run holds.")
_RECIPES = flags.stage_flag("recipes", False, "Add the recipe search (`automem recipes`).")
_JSON = flags.stage_flag("json", False, "Print JSON.")
_SAVE = flags.stage_flag("save", True, "Write WORKDIR/forecast.json.")

_COLUMNS = (  # quantity, head
    ("episodes", "episodes"),
    ("calls", "calls"),
    ("prompt_tokens", "prompt tokens"),
    ("generated_tokens", "generated"),
    ("trained_tokens", "trained"),
    ("dollars", "USD"),
    ("accelerator_hours", "chip hours"),
    ("seconds", "time"),
)


def main(experiment: flags.Experiment) -> None:
    from automem_jax.forecast import Throughput, forecast, groups_of, write_forecast

    speed = Throughput(
        prefill=_number("prefill", _PREFILL.value),
        decode=_number("decode", _DECODE.value),
        training=_number("training", _TRAINING.value),
        call_s=_number("call_s", _CALL_S.value),
        chips=int(_number("chips", _CHIPS.value)),
    )
    if bool(speed.prefill) != bool(speed.decode):
        raise flags.UsageError("--prefill and --decode belong together; give both")
    groups = groups_of(experiment.config, _FROM.value or None)
    found = forecast(experiment.config, groups, speed, recipes=_RECIPES.value)
    if _SAVE.value:
        if (experiment.workdir / "config.json").exists():
            flags.record_config(experiment)  # a forecast of another experiment would mislead
        path = write_forecast(experiment.workdir, found)
    if _JSON.value:
        rows = {**found.rows, "total": found.total}
        told = {stage: row.to_data() for stage, row in rows.items()}
        print(json.dumps({"rows": told, "assumptions": found.assumptions}, indent=1))
        return
    print("expected (low to high)")
    table = [("stage", *(head for _, head in _COLUMNS))]
    for stage, amounts in {**found.rows, "total": found.total}.items():
        table.append((stage, *(_cell(name, getattr(amounts, name)) for name, _ in _COLUMNS)))
    kept = [i for i in range(len(table[0])) if i == 0 or any(row[i] != "-" for row in table[1:])]
    widths = {i: max(len(row[i]) for row in table) for i in kept}
    for row in table:
        print("  ".join(row[i].ljust(widths[i]) for i in kept).rstrip())
    for line in found.assumptions:
        print(f"- {line}")
    if _SAVE.value:
        print(f"forecast: {path}")


def _cell(name: str, value) -> str:
    if value is None:
        return "-"
    low, middle, high = (_amount(name, n) for n in (value.low, value.expected, value.high))
    return middle if low == middle == high else f"{middle} ({low} to {high})"


def _amount(name: str, value: float) -> str:
    if name == "seconds":
        from automem_jax.live.dashboard import seconds

        return seconds(value)
    if name in ("dollars", "accelerator_hours"):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * size:
            scaled = value / size
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{math.ceil(value):,}"


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e15:
        raise flags.UsageError(f"--{flag}={text}: expected a number from 0")
    return value
