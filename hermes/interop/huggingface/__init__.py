"""Hugging Face's config.json, read and written family by family."""
