"""What preflight says, in words and figures."""

from __future__ import annotations

from automem_jax.preflight.check import Preflight, Program
from automem_jax.preflight.hardware import GIB


def text(found: Preflight) -> str:
    """The report of one topology, several lines."""
    topology, device = found.topology, found.topology.device
    mesh = " x ".join(f"{name} {size}" for name, size in found.mesh.items() if size > 1) or "one"
    base = found.quantization if found.quantization != "none" else ""
    lines = [
        f"{topology.name}: {topology.device_count} devices of {device.memory_bytes / GIB:.2f} GiB, "
        f"usable {device.usable_bytes / GIB:.2f} GiB, mesh {mesh}",
        f"  {found.parameters / 1e9:.2f} G base weights {base}".rstrip()
        + f", {found.adapter_parameters / 1e6:.1f} M in the adapter",
    ]
    for program in found.programs:
        lines += _program_lines(program)
    lines.append("  FLOP a token, by formula:")
    lines += [f"    {name:<28} {value:10.3e}" for name, value in found.flop_a_token.items()]
    lines.append(f"  {verdict(found)}")
    flags = " ".join(
        f"--config.training.mesh.{name}={size}"
        for name, size in found.mesh.items()
        if name == "fsdp" or size > 1
    )
    rows = found.mesh["data"] * found.mesh["fsdp"]
    lines.append(f"  train with {flags} --config.training.microbatch_rows={rows}")
    return "\n".join(lines)


def verdict(found: Preflight) -> str:
    """One line: fits or not, and by how much."""
    worst = min(found.programs, key=lambda program: program.margin_bytes)
    word = "fits" if found.fits else "does not fit"
    return (
        f"{word}: {worst.name} peaks at {worst.peak_bytes / GIB:.2f} of "
        f"{worst.usable_bytes / GIB:.2f} GiB a device, margin {worst.margin_bytes / GIB:+.2f} GiB"
    )


def _program_lines(program: Program) -> list[str]:
    how = "kept answer" if program.kept else f"compiled in {program.compile_s:.0f} s"
    lines = [f"  {program.name}: {program.about} ({how})"]
    lines += [f"    {kind:<28} {size / GIB:8.2f} GiB" for kind, size in program.memory.items()]
    lines.append(
        f"    {'peak':<28} {program.peak_bytes / GIB:8.2f} GiB   "
        f"{'fits' if program.fits else 'does not fit'}, margin {program.margin_bytes / GIB:+.2f} GiB"
    )
    if program.refused:
        lines.append(f"    refused: {program.refused}")
    if program.collectives is None and not program.refused:
        lines.append("    collectives: this compiler could not print its program")
    for kind, figures in (program.collectives or {}).items():
        lines.append(
            f"    {kind:<28} {figures['bytes'] / GIB:8.2f} GiB a run, {figures['count']} times"
        )
    if program.loops_unknown:
        lines.append(f"    ({program.loops_unknown} loops with collectives counted once)")
    return lines
