"""Makes the golden folder again: `python -m hermes_conformance.golden.regenerate FOLDER`."""
