"""What an architecture is and costs: its shape, parameters, FLOPs and memory."""
