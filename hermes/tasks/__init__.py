"""Tasks: how well a model answers questions, measured by lm-evaluation-harness."""
