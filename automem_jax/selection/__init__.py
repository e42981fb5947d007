"""Which memory decisions are worth training on: traces in, examples out."""

from automem_jax.selection.examples import (
    SelectionError,
    SelectionReport,
    load_examples,
    select,
    verify_examples,
)

__all__ = ["SelectionError", "SelectionReport", "load_examples", "select", "verify_examples"]
