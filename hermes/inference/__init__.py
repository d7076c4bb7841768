"""Inference: sampling, decoding and chat sessions."""
