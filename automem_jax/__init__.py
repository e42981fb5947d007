"""AutoMem in JAX: training the memory skill of language-model agents (arXiv 2607.01224)."""

__version__ = "0.1.0"
