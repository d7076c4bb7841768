"""A rank of runs that keep every batch as the learner gets it: OUT CALL..., each call in JSON."""

import json
import sys

import numpy as np

from tests.data.recorded import record_batches

if __name__ == "__main__":
    import hermes

    with record_batches() as batches:
        for call in sys.argv[2:]:
            hermes.train(**json.loads(call), progress=False)
    np.savez(sys.argv[1], *[part for batch in batches for part in batch])
