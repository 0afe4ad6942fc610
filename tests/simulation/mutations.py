"""Plants bugs in a copy of the package, one at a time, and shows that the simulation finds each.

A mutation replaces one piece of source text by another. The checkout is never touched: the package
is copied into a temporary folder, changed there, and simulated by a process of its own, seed after
seed, until something is broken.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "gridx"
SEEDS_MAX = 60
JOBS = 150


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug: in which module `old` becomes `new`."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "a late result counts although a newer attempt was assigned",
        "coordinator/attempts.py",
        "        and job.unassigned\n"
        "        and not job.cancel_requested\n"
        "        and job.attempt == attempt.number\n",
        "        and not job.cancel_requested\n",
    ),
    Mutation(
        "a late result counts although its job is final",
        "coordinator/attempts.py",
        "        and job.unassigned\n",
        "",
    ),
    Mutation(
        "an ack is never sent",
        "coordinator/recorder.py",
        'observed)\n                return LeaseOrder("ack", key)',
        "observed)",
    ),
    Mutation(
        "the hold of a cancelled job is released again by a second cancel",
        "coordinator/jobs.py",
        'raise Conflict(f"The job is {state.status} already")',
        "pass",
    ),
    Mutation(
        "what is left of a hold is released twice",
        "coordinator/attempts.py",
        "        for kind, target, amount in parts:\n",
        "        for kind, target, amount in (*parts, parts[-1]):\n",
    ),
    Mutation(
        "a lease is not cleared",
        "coordinator/attempts.py",
        "free = replace(job, attempts_counted=counts, lease=None)",
        "free = replace(job, attempts_counted=counts)",
    ),
    Mutation(
        "an attempt that counts is not counted",
        "coordinator/attempts.py",
        "counts = job.attempts_counted + (1 if",
        "counts = job.attempts_counted + (0 if",
    ),
    Mutation(
        "a late result counts its attempt a second time",
        "coordinator/attempts.py",
        "(1 if counted and not (late and attempt.counted) else 0)",
        "(1 if counted else 0)",
    ),
    Mutation(
        "a job that was to be cancelled is queued again",
        "domain/job.py",
        "    if cancel_requested:\n        return Next(JobStatus.CANCELLED)\n",
        "",
    ),
    Mutation(
        "a cancel that was promised is forgotten when its job succeeds",
        "domain/attempt.py",
        "if cancelled and reason is not Reason.SANDBOX_ERROR:",
        "if cancelled and exit_code != 0:",
    ),
    Mutation(
        "a cancelled job keeps the lease it was assigned under",
        "coordinator/jobs.py",
        "changes.take_back(state, attempt)",
        "attempt = None",
    ),
    Mutation(
        "the dispatcher is shown jobs that are final",
        "storage/jobs.py",
        '"v_waiting": after.waiting,',
        '"v_waiting": after.lease is None,',
    ),
    Mutation(
        "a run on the submitter's own worker is billed",
        "domain/pricing.py",
        "if own_worker or not ended_by_itself",
        "if not ended_by_itself",
    ),
    Mutation(
        "an owner is paid for what was lost",
        "domain/pricing.py",
        "if own_worker or not ended_by_itself(status, reason):",
        "if own_worker:",
    ),
    Mutation(
        "the reaper takes leases that are renewed",
        "storage/workers.py",
        "            func.coalesce(workers.c.seen_at, 0) < before,\n        )\n        .order_by",
        "        )\n        .order_by",
    ),
    Mutation(
        "the reaper never takes a dead worker's leases",
        "storage/workers.py",
        "func.coalesce(workers.c.seen_at, 0) < before,",
        "func.coalesce(workers.c.seen_at, 0) < 0,",
    ),
    Mutation(
        "a lost lease does not count",
        "coordinator/reaper.py",
        "changes.lose(job, attempt)",
        "changes.lose(job, attempt, counted=False)",
    ),
    Mutation(
        "a worker's session forgets what is not acknowledged when the line is cut",
        "worker/attempts.py",
        "(_S.UNACKNOWLEDGED, _H.CUT): (_S.ENDED, _nothing),",
        "(_S.UNACKNOWLEDGED, _H.CUT): (None, _forget),",
    ),
    Mutation(
        "a worker does not send its output again",
        "worker/attempts.py",
        "            if first < attempt.log_frames:",
        "            if first > attempt.log_frames:",
    ),
    Mutation(
        "the spool does not write the last record",
        "worker/spool.py",
        "        self._append(file, _HEAD",
        "        isinstance(frame, Finished) or self._append(file, _HEAD",
    ),
    Mutation(
        "a welcome promises a piece of output that is not stored",
        "coordinator/admission.py",
        "(KeptLease(k.key, stored.get((j.number, a.number), (0, 0, 0))[0]), j, a)",
        "(KeptLease(k.key, stored.get((j.number, a.number), (0, 0, 0))[0] + 1), j, a)",
    ),
    Mutation(
        "a request that comes twice is done twice",
        "coordinator/idempotency.py",
        "    if key is None:\n",
        "    if key is None or key:\n",
    ),
    Mutation(
        "what was not committed is answered as if it were",
        "storage/database.py",
        "                waiting.result = failure\n",
        "                waiting.result = waiting.result or failure\n",
    ),
    Mutation(
        "the room of a finished attempt is never free again",
        "coordinator/sessions.py",
        'if order.kind in ("ack", "drop") and',
        'if order.kind == "drop" and',
    ),
)


@dataclass(frozen=True, slots=True)
class Find:
    """What a hunt came to: the seed and the steps in it until `violation`, or nothing."""

    seeds: int
    steps: int
    violation: str | None
    took_s: float = 0.0


def hunt(mutation: Mutation, seeds_max: int = SEEDS_MAX, jobs: int = JOBS) -> Find:
    """Simulate the package with `mutation` in it until it is found."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gridx-mutation-") as folder:
        shutil.copytree(
            PACKAGE, Path(folder) / "gridx", ignore=shutil.ignore_patterns("__pycache__")
        )
        plant(mutation, Path(folder) / "gridx")
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.simulation.mutations",
                "--hunt",
                folder,
                str(seeds_max),
                str(jobs),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, f"the hunt itself failed:\n{run.stderr}"
    found = msgspec.json.decode(run.stdout, type=Find)
    return Find(found.seeds, found.steps, found.violation, time.monotonic() - began)


def plant(mutation: Mutation, package: Path) -> None:
    """Change the copy."""
    module = package / mutation.module
    text = module.read_text(encoding="utf-8")
    times = text.count(mutation.old)
    assert times == 1, f"{mutation.name}: its text stands {times} times in {mutation.module}"
    module.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def _hunt_here(folder: str, seeds_max: int, jobs: int) -> None:
    """In the process of a mutation: seed after seed until one fails."""
    import gridx
    from tests.simulation.world import simulate

    assert gridx.__file__.startswith(folder), f"this is not the copy: {gridx.__file__}"
    steps = 0
    for seed in range(1, seeds_max + 1):
        result = simulate(seed, jobs)
        steps += result.steps
        if result.violation is not None:
            say(Find(seed, steps, result.violation))
            return
    say(Find(seeds_max, steps, None))


def say(find: Find) -> None:
    print(msgspec.json.encode(find).decode())  # noqa: T201


def main() -> int:
    """Hunt all mutations, or those named; 1 when one was not found."""
    options = _parser().parse_args()
    if options.hunt is not None:
        folder, seeds_max, jobs = options.hunt
        _hunt_here(folder, int(seeds_max), int(jobs))
        return 0
    chosen = [m for m in MUTATIONS if all(word in m.name for word in options.words)]
    missed = 0
    with ThreadPoolExecutor(options.processes) as pool:
        hunts = {pool.submit(hunt, m, options.seeds, options.jobs): m for m in chosen}
        for done in as_completed(hunts):
            find = done.result()
            missed += find.violation is None
            where = f"seed {find.seeds}, {find.steps} steps, {find.took_s:.1f} s"
            says = f"{where}: {find.violation[:160]}" if find.violation else f"NOT FOUND, {where}"
            print(f"{hunts[done].name}\n    {says}", flush=True)  # noqa: T201
    print(f"{len(chosen) - missed} of {len(chosen)} found")  # noqa: T201
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.mutations", description=__doc__
    )
    parser.add_argument("words", nargs="*", help="only mutations whose names hold these words")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help=f"at most ({SEEDS_MAX})")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"jobs in each seed ({JOBS})")
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="how many at a time (a core each)",
    )
    parser.add_argument("--hunt", nargs=3, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
