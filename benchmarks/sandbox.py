"""The bubblewrap sandbox beside the same programs started with `bwrap` by hand.

Every figure stands beside its floor, measured in the same run and interleaved with it, because a
machine's speed drifts. The floor is `bwrap` with every namespace and the host's root shown, running
the same interpreter that the sandbox's jobs run with.
"""

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.figures import Figure, percentile
from gridx.worker.sandbox.base import Limits, Program, Stream
from gridx.worker.sandbox.box import find_bwrap
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.languages import find_interpreters

TITLE = "Sandbox"
HOW = (
    "`bubblewrap` backend with every limit on, no coordinator. Latency: one program at a time with "
    "a pause between, 200 runs, beside `bwrap --unshare-all … PROGRAM` by hand. The pauses of "
    "JavaScript are as long as it takes until the next Node waits. Jobs a second: two "
    "at a time, 2,000 jobs, beside two loops by hand. Slow-down: the same program inside and bare, "
    "the least disturbed of 12 runs each. Idle: 5 s with two waiting worlds and a waiting Node."
)
RUNS, JOBS = 200, 2000
BY_HAND = (
    *("--ro-bind", "/", "/", "--unshare-all", "--die-with-parent"),
    *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
)
PAUSE_S, NODE_PAUSE_S = 0.03, 0.15
CPU_BOUND = "x = 0\nfor n in range(4_000_000): x += n * n"
CALLS_BOUND = "import os\nfor _ in range(600_000): os.getppid()"
PYTHON, BASH = Program("python", "pass"), Program("bash", "true")
JAVASCRIPT = Program("javascript", "0")


async def measure() -> Sequence[Figure]:
    """Latency, throughput, slow-down and what it takes to wait."""
    warm, cold = Bubblewrap(), Bubblewrap(template=False)
    await warm.open()
    await cold.open()
    figures = [
        *await latency("no-op Python, warm", warm, PYTHON, 0.3, (5.0, 15.0)),
        *await latency("no-op Python, cold", cold, PYTHON, 1.3),
        *await latency("no-op Bash", cold, BASH, 1.5),
        *await latency("no-op JavaScript, warm", warm, JAVASCRIPT, 0.5, pause_s=NODE_PAUSE_S),
        *await latency("no-op JavaScript, cold", cold, JAVASCRIPT, 1.3, pause_s=NODE_PAUSE_S),
        await throughput(warm),
        await slow_down("CPU-bound program", cold, CPU_BOUND, 1.02),
        await slow_down("program that makes system calls", cold, CALLS_BOUND, 1.15),
    ]
    await cold.close()
    figures += await idle(warm)
    await warm.close()
    return figures


async def latency(
    name: str,
    sandbox: Bubblewrap,
    program: Program,
    ratio_max: float,
    bars_ms: tuple[float, float] | None = None,
    *,
    pause_s: float = PAUSE_S,
) -> list[Figure]:
    """From the call to the end, with a pause between in which the next world is made."""
    by_hand = command(program)
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(RUNS):
        await asyncio.sleep(pause_s)
        ours.append(await timed_ms(lambda: one(sandbox, program)))
        await asyncio.sleep(pause_s)
        floor.append(await timed_ms(lambda: hand(by_hand)))
    p50, p99 = statistics.median(ours), percentile(ours, 0.99)
    ratio = p50 / statistics.median(floor)
    told = f"{ratio:.2f} ({p50:.1f} / {statistics.median(floor):.1f} ms)"
    figures = [Figure(f"{name}, beside by hand", told, f"≤ {ratio_max}", ratio <= ratio_max)]
    if bars_ms is not None:
        bar50, bar99 = bars_ms
        bar, holds = f"≤ {bar50:g} / {bar99:g} ms", p50 <= bar50 and p99 <= bar99
        figures.append(Figure(f"{name}, p50 / p99", f"{p50:.1f} / {p99:.1f} ms", bar, holds))
    return figures


async def throughput(sandbox: Bubblewrap) -> Figure:
    by_hand = command(PYTHON)

    async def lane(count: int, run: Callable[[], Awaitable[None]]) -> None:
        for _ in range(count):
            await run()

    async def rate(count: int, run: Callable[[], Awaitable[None]]) -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(lane(count // 2, run))
        return count / (time.perf_counter() - began)

    ours = await rate(JOBS, lambda: one(sandbox, PYTHON))
    floor = await rate(JOBS // 4, lambda: hand(by_hand))
    told = f"{ours / floor:.1f} ({ours:.0f} / {floor:.0f} a second)"
    return Figure("no-op Python jobs, beside by hand", told, "≥ 2.0", ours >= 2 * floor)


async def slow_down(name: str, sandbox: Bubblewrap, code: str, ratio_max: float) -> Figure:
    """The program times itself, so that its start does not count."""
    whole = f"import time\nbegan = time.perf_counter()\n{code}\nprint(time.perf_counter() - began)"
    interpreter = find_interpreters()["python"].host_path
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(12):
        ours.append(float(await output(sandbox, Program("python", whole))))
        bare.append(float(await bare_output([interpreter, "-c", whole])))
    ratio = min(ours) / min(bare)
    return Figure(f"{name}, beside bare", f"{ratio:.3f}", f"≤ {ratio_max}", ratio <= ratio_max)


async def idle(sandbox: Bubblewrap) -> list[Figure]:
    """CPU and memory of this process and all below it while worlds wait."""
    await one(sandbox, PYTHON)
    await asyncio.sleep(0.5)
    pids = [os.getpid(), *below(os.getpid())]
    memory_mb = sum(map(pss_mb, pids))
    began, used = time.perf_counter(), sum(map(cpu_s, pids))
    await asyncio.sleep(5)
    share = 100 * (sum(map(cpu_s, pids)) - used) / (time.perf_counter() - began)
    return [
        Figure("idle, of one core", f"{share:.2f} %", "≤ 1 %", share <= 1),
        Figure("idle, memory in all", f"{memory_mb:.0f} MB", "≤ 120 MB", memory_mb <= 120),
    ]


async def one(sandbox: Bubblewrap, program: Program) -> None:
    outcome = await sandbox.run("bench", program, Limits(), ignore, asyncio.Event())
    assert outcome.exit_code == 0, outcome


async def output(sandbox: Bubblewrap, program: Program) -> str:
    pieces: list[bytes] = []
    await sandbox.run("bench", program, Limits(), lambda _, b: pieces.append(b), asyncio.Event())
    return b"".join(pieces).decode()


async def hand(words: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*words, stdin=subprocess.DEVNULL)
    assert await process.wait() == 0


async def bare_output(words: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    told, _ = await process.communicate()
    return told.decode()


async def timed_ms(run: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await run()
    return (time.perf_counter() - began) * 1000


def command(program: Program) -> list[str]:
    bwrap = find_bwrap()
    assert bwrap is not None
    path = find_interpreters()[program.language].host_path
    flag = "-e" if program.language == "javascript" else "-c"
    return [bwrap, *BY_HAND, path, flag, program.code]


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
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
