"""The sampler behind an OpenAI-compatible HTTP API."""
