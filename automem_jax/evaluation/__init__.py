"""Held-out evaluation: scores with intervals, memory behaviour, results on disk."""

from automem_jax.evaluation.balrog import export_balrog
from automem_jax.evaluation.evaluate import Arm, evaluate, heldout_seeds, print_table
from automem_jax.evaluation.metrics import PROBES, CueProbe, behaviour, probe_for
from automem_jax.evaluation.results import (
    EpisodeResult,
    ResultsError,
    episode_result,
    summarise,
)
from automem_jax.evaluation.statistics import (
    PairedDifference,
    Summary,
    bootstrap_interval,
    mean,
    paired_difference,
    standard_error,
    summarise_scores,
)

__all__ = [
    "PROBES",
    "Arm",
    "CueProbe",
    "EpisodeResult",
    "PairedDifference",
    "ResultsError",
    "Summary",
    "behaviour",
    "bootstrap_interval",
    "episode_result",
    "evaluate",
    "export_balrog",
    "heldout_seeds",
    "mean",
    "paired_difference",
    "print_table",
    "probe_for",
    "standard_error",
    "summarise",
    "summarise_scores",
]
