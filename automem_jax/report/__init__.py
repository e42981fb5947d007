"""The report: one self-contained HTML page on what a work directory holds."""

from automem_jax.report.report import write_report

__all__ = ["write_report"]
