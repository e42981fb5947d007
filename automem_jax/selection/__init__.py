"""Which memory decisions are worth training on: traces in, examples out."""

from automem_jax.selection.examples import SelectionReport, scan_signals, select
from automem_jax.selection.verbatim import SelectionError, load_examples, verify_examples

__all__ = [
    "SelectionError",
    "SelectionReport",
    "load_examples",
    "scan_signals",
    "select",
    "verify_examples",
]
