"""Traces: the full record of an episode, one JSONL file each."""
