"""What the training commands share: from options to a finished run."""
