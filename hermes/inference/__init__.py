"""Inference: sampling, decoding and conversations with a model."""
