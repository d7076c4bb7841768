"""hermes in PyTorch: CPU and CUDA."""
