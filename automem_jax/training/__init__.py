"""Fine-tuning: packed rows, masked loss, an optimizer step, a resumable loop."""
