"""Tokens from prompts: the engine, its scheduler and caches, its compiled programs, token choice."""
