"""What a run shows while it goes on: its record on disk, a dashboard, TensorBoard, `automem status`."""
