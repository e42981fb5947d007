"""The memory agent: grammar, files, templates, and the LOG/PLAN state machine. Imports no model."""
