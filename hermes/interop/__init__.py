"""Other tools' checkpoints: configurations, tensor names, and conversion both ways."""
