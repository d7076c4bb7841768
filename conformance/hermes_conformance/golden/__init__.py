"""Golden vectors, made by the oracle alone, to judge backends in any language.

v1/SHA256SUMS    of every file beside it; its own SHA-256 is the golden hash of a certificate
v1/pins.json     hashes and token ids of the core library (hashes.py)
v1/cases.json    each case's architecture in MAL, its recipe, and what its file holds
v1/NAME.safetensors

`specs/backend.md` says how to use them without Python; `regenerate.py` makes them again.
"""
