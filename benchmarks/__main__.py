"""Runs the named benchmarks, or all, prints their tables and writes them into the documents."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import cast

from benchmarks.figures import Figure, table, write

NAMES = ("start", "round_trip", "accept", "settle", "takeover", "sandbox")


def main(names: Sequence[str]) -> int:
    """Exit code 1 when a figure misses its bar, 2 for a name nobody knows."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.stderr.write(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}\n")
        return 2
    missed = 0
    for name in names or NAMES:
        module = import_module(f"benchmarks.{name}")
        measure = cast("Callable[[], Awaitable[Sequence[Figure]]]", module.measure)
        figures = asyncio.run(_run(measure))
        sys.stdout.write(f"\n{module.TITLE}\n{table(figures)}\n")
        sys.stdout.flush()
        write(name, module.TITLE, module.HOW, figures)
        missed += sum(not figure.holds for figure in figures)
    return 1 if missed else 0


async def _run(measure: Callable[[], Awaitable[Sequence[Figure]]]) -> Sequence[Figure]:
    return await measure()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
