"""Trackers: TensorBoard, Weights & Biases, MLflow and Trackio follow a run's metrics."""
