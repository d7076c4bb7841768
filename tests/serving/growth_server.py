"""`hermes serve` as a process, whose requests leave some bytes behind each.

python -m tests.serving.growth_server LEAK --checkpoint C ...
"""

import sys

import hermes.serving.app
from hermes_cli.main import main

if __name__ == "__main__":
    leak, left, parse = int(sys.argv.pop(1)), [], hermes.serving.app.parse_body

    def parse_body(data):
        """Parse as ever, and forget nothing."""
        left.append(b"x" * leak)
        return parse(data)

    if leak:
        hermes.serving.app.parse_body = parse_body
    sys.argv.insert(1, "serve")
    main()
