"""``python -m vitkern.cli``: the command where its script is not installed."""

import sys

from vitkern.cli import main

if __name__ == "__main__":
    sys.exit(main())
