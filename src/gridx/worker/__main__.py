"""`python -m gridx.worker` is the same as `gridx worker`."""

import sys

from gridx.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "worker")
    main()
