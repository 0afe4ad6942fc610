"""How long the bubblewrap sandbox takes, beside the same programs started with `bwrap` by hand.

    python3 -m benchmarks.sandbox [--runs 200] [--jobs 2000] [--json]

Every figure stands beside its floor, measured in the same run and interleaved with it, because a
machine's speed drifts. The floor is `bwrap` with every namespace and the host's root shown
read-only, running the same interpreter that the sandbox's jobs run with.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from gridx.worker.sandbox.base import Limits, Program, Stream
from gridx.worker.sandbox.box import find_bwrap
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.languages import find_interpreters

BY_HAND = (
    *("--ro-bind", "/", "/", "--unshare-all", "--die-with-parent"),
    *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
)
PAUSE_S = 0.03
CPU_BOUND = "x = 0\nfor n in range(4_000_000): x += n * n"
CALLS_BOUND = "import os\nfor _ in range(600_000): os.getppid()"


@dataclass(frozen=True)
class Figure:
    """One figure with its floor; times in milliseconds, or jobs a second."""

    name: str
    unit: str
    p50: float
    p99: float
    floor_p50: float
    ratio: float


async def main(runs: int, jobs: int) -> list[Figure]:
    warm, cold = Bubblewrap(), Bubblewrap(template=False)
    await warm.open()
    await cold.open()
    figures: list[Figure] = []
    python, bash = Program("python", "pass"), Program("bash", "true")
    for name, sandbox, program in (
        ("no-op Python, warm", warm, python),
        ("no-op Python, cold", cold, python),
        ("no-op Bash", cold, bash),
    ):
        figures.append(await latency(name, sandbox, program, runs))
    figures.append(await throughput("no-op Python, two at a time", warm, jobs))
    figures.append(await slow_down("CPU-bound Python", cold, CPU_BOUND))
    figures.append(await slow_down("Python making system calls", cold, CALLS_BOUND))
    await cold.close()
    figures += await idle(warm)
    await warm.close()
    return figures


async def latency(name: str, sandbox: Bubblewrap, program: Program, runs: int) -> Figure:
    """From the call to the end, with a pause between in which the next world is made."""
    floor_command = command(program)
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(runs):
        await asyncio.sleep(PAUSE_S)
        ours.append(await timed(lambda: one(sandbox, program)))
        await asyncio.sleep(PAUSE_S)
        floor.append(await timed(lambda: by_hand(floor_command)))
    return figure(name, "ms", ours, floor)


async def throughput(name: str, sandbox: Bubblewrap, jobs: int) -> Figure:
    program = Program("python", "pass")
    floor_command = command(program)

    async def lane(count: int, run: Callable[[], Awaitable[None]]) -> None:
        for _ in range(count):
            await run()

    async def rate(count: int, run: Callable[[], Awaitable[None]]) -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(lane(count // 2, run))
        return count / (time.perf_counter() - began)

    ours = await rate(jobs, lambda: one(sandbox, program))
    floor = await rate(jobs // 4, lambda: by_hand(floor_command))
    return Figure(name, "jobs/s", round(ours, 1), 0.0, round(floor, 1), round(ours / floor, 2))


async def slow_down(name: str, sandbox: Bubblewrap, code: str) -> Figure:
    """The same work inside and bare; the program times itself, so that starting does not count."""
    timer = "import time\nbegan = time.perf_counter()\n"
    whole = f"{timer}{code}\nprint(time.perf_counter() - began)"
    interpreter = find_interpreters()["python"].host_path
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(12):
        ours.append(float(await output(sandbox, Program("python", whole))) * 1000)
        bare.append(float(await bare_output([interpreter, "-c", whole])) * 1000)
    ratio = round(min(ours) / min(bare), 3)  # the least disturbed runs of each
    return Figure(name, "ms", round(min(ours), 1), round(max(ours), 1), round(min(bare), 1), ratio)


async def idle(sandbox: Bubblewrap) -> list[Figure]:
    """CPU of this process and all below it while two worlds wait, as a share of one core, in %."""
    await one(sandbox, Program("python", "pass"))
    await asyncio.sleep(0.5)
    pids = [os.getpid(), *below(os.getpid())]
    memory_mb = round(sum(map(pss_mb, pids)), 1)
    began, used = time.perf_counter(), sum(map(cpu_s, pids))
    await asyncio.sleep(5)
    share = 100 * (sum(map(cpu_s, pids)) - used) / (time.perf_counter() - began)
    return [
        Figure("idle with two waiting worlds", "% of a core", round(share, 2), 0, 1, 0),
        Figure("memory of it all, with this program", "MB", memory_mb, 0, 120, 0),
    ]


async def one(sandbox: Bubblewrap, program: Program) -> None:
    outcome = await sandbox.run("bench", program, Limits(), ignore, asyncio.Event())
    assert outcome.exit_code == 0, outcome


async def output(sandbox: Bubblewrap, program: Program) -> str:
    pieces: list[bytes] = []
    await sandbox.run("bench", program, Limits(), lambda _, b: pieces.append(b), asyncio.Event())
    return b"".join(pieces).decode()


async def bare_output(words: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    told, _ = await process.communicate()
    return told.decode()


async def by_hand(words: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL)
    assert await process.wait() == 0


async def timed(run: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await run()
    return (time.perf_counter() - began) * 1000


def command(program: Program) -> list[str]:
    bwrap = find_bwrap()
    assert bwrap is not None
    path = find_interpreters()[program.language].host_path
    return [bwrap, *BY_HAND, path, "-c", program.code]


def figure(name: str, unit: str, ours: list[float], floor: list[float]) -> Figure:
    p50, below_it = statistics.median(ours), statistics.median(floor)
    p99 = sorted(ours)[min(len(ours) - 1, int(len(ours) * 0.99))]
    return Figure(
        name, unit, round(p50, 2), round(p99, 2), round(below_it, 2), round(p50 / below_it, 2)
    )


def ignore(_stream: Stream, _piece: bytes) -> None:
    return


def below(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        try:
            above = int((each / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(above, []).append(int(each.name))
    children = parents.get(pid, [])
    return children + [each for child in children for each in below(child)]


def pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(main(options.runs, options.jobs))
    if options.json:
        json.dump([asdict(each) for each in found], sys.stdout, indent=2)
    else:
        print(f"{'':42}{'p50':>9}{'p99':>9}{'by hand':>9}{'ratio':>8}")
        for each in found:
            row = f"{each.p50:>9}{each.p99:>9}{each.floor_p50:>9}{each.ratio:>8}"
            print(f"{each.name + ', ' + each.unit:42}{row}")
