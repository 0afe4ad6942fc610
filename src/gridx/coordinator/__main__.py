"""`python -m gridx.coordinator` is the same as `gridx coordinator`."""

import sys

from gridx.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "coordinator")
    main()
