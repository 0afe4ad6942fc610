"""Runs seeds from the command line, and tells the story of each that fails."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import JOBS, Result, simulate


def main() -> int:
    """Run what was asked for; 1 when a seed failed."""
    options = _parser().parse_args()
    seeds = range(options.start, options.start + options.seeds)
    began = time.monotonic()
    results: list[Result] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for result in pool.map(simulate, seeds, [options.jobs] * len(seeds)):
            results.append(result)
            if result.violation is not None:
                tell(result, options.jobs)
            elif options.verbose:
                print(summary(result))  # noqa: T201
    took_s = time.monotonic() - began
    failed = [result.seed for result in results if result.violation is not None]
    print(  # noqa: T201
        f"{len(results)} seeds in {took_s:.1f} s ({len(results) / took_s:.2f} seeds/s): "
        f"{sum(r.jobs for r in results):,} jobs, {sum(r.attempts for r in results):,} attempts, "
        f"{sum(r.lost for r in results):,} of them lost, {sum(r.steps for r in results):,} steps, "
        f"{sum(r.checks for r in results):,} checks, "
        f"{sum(r.virtual_s for r in results) / 3600:.1f} h of virtual time; "
        + (f"failed: {failed}" if failed else "nothing is broken")
    )
    return 1 if failed else 0


def summary(result: Result) -> str:
    """One run in one line."""
    return (
        f"seed {result.seed}: {result.jobs} jobs, {result.attempts} attempts, {result.lost} lost, "
        f"{result.steps} steps, {result.virtual_s:.0f} s, story {result.digest}"
    )


def tell(result: Result, jobs: int) -> None:
    """What broke, what happened before, and how to see it again."""
    print(  # noqa: T201
        f"seed {result.seed} after {result.steps} steps: {result.violation}\n{result.story}\n"
        f"again: python -m tests.simulation --from {result.seed} --seeds 1 --jobs {jobs}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (100)")
    parser.add_argument("--from", type=int, default=1, dest="start", help="the first one (1)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"jobs in each ({JOBS})")
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="how many at a time (a core each)",
    )
    parser.add_argument("--verbose", action="store_true", help="a line for each seed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
