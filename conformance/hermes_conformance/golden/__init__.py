"""Vectors made by the oracle alone, so that a backend in any language can be judged.

v1/SHA256SUMS    of every file beside it; its own SHA-256 is the golden hash of a certificate
v1/pins.json     hashes and ids that are the same everywhere (pins.py)
v1/cases.json    each case's architecture in MAL, its recipe, and what its file holds
v1/NAME.safetensors

How to use them without Python is written in `specs/backend.md`. `regenerate.py` makes them again.
"""
