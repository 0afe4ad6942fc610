"""The command line: what a person types, put into calls of the SDK and into programs.

Nothing heavy is imported before a command needs it, so that help answers at once.
"""

import sys


def main() -> None:
    """Run `gridx` with the arguments of this process."""
    try:
        from gridx.cli.app import build

        build(*sys.argv[1:2])(prog_name="gridx")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
