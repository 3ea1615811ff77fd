"""What a run leaves: checkpoints, logs, evaluations, videos."""
