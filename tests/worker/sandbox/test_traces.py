"""Nothing of a job stays, and nothing of a worker's sandbox outlives the worker."""

import asyncio
import os
import select
import signal
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Limits, Program, Sandbox
from gridx.worker.sandbox.bubblewrap import Bubblewrap
from gridx.worker.sandbox.cgroups import v1, v2
from gridx.worker.sandbox.gvisor import Gvisor
from tests.worker.sandbox import traces
from tests.worker.sandbox.runs import ATTEMPT, Watcher, bash, python, run

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIXED = [
    (Program("python", "print(1)"), Limits(), (0, None)),
    (Program("bash", "exit 3"), Limits(), (3, Reason.EXIT_CODE)),
    (Program("bash", "(setsid sleep 999 &); nohup sleep 999 & echo"), Limits(), (0, None)),
    (Program("bash", "dd if=/dev/zero of=x bs=1M count=9; exit 1"), Limits(disk_mb=4), None),
    (Program("python", "x = b'x' * (90 << 20)"), Limits(memory_mb=32, disk_mb=1), None),
    (Program("bash", "yes"), Limits(output_bytes=10_000), (None, Reason.OUTPUT_LIMIT)),
    (Program("bash", "sleep 99"), Limits(timeout_s=0.1), (None, Reason.TIMEOUT)),
    (Program("python", "import os\nwhile 1: os.fork()"), Limits(processes=8), None),
    (Program("python", "import os; os.kill(os.getpid(), 9)"), Limits(), (137, Reason.EXIT_CODE)),
    (Program("python", "import os; os.mkfifo('f'); os.symlink('/', 'l')"), Limits(), (0, None)),
]


async def mixed(sandbox: Sandbox, rounds: int) -> None:
    """Run all of `MIXED` so many times, four at a time."""
    lane = asyncio.Semaphore(4)

    async def one(program: Program, limits: Limits, end: object) -> None:
        async with lane:
            ran = await run(sandbox, program, limits)
            assert ran.outcome.reason is not Reason.SANDBOX_ERROR, ran.outcome
            assert end is None or ran.end == end, (program, ran.outcome)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(rounds):
            for each in MIXED:
                tasks.create_task(one(*each))


async def test_nothing_is_left_of_two_hundred_mixed_jobs() -> None:
    sandbox = Bubblewrap(waiting_max=0)
    await sandbox.open()
    await mixed(sandbox, 1)
    before = traces.count()
    await mixed(sandbox, 20)
    assert await traces.left(before) == traces.NOTHING
    await sandbox.close()


@pytest.mark.parametrize("kind", [Bubblewrap, Gvisor])
async def test_nothing_is_left_of_a_sandbox_that_was_closed(
    kind: type[Bubblewrap | Gvisor],
) -> None:
    before = traces.count()
    for waiting in (0, 3):
        sandbox = kind(waiting_max=waiting)
        await sandbox.open()
        await mixed(sandbox, 1)
        await sandbox.close()
    assert await traces.left(before) == traces.NOTHING
    assert _groups_of(os.getpid()) == []


async def test_closing_ends_what_runs() -> None:
    before = traces.count()
    sandbox, watcher = Bubblewrap(), Watcher()
    await sandbox.open()

    async def close_when_ready() -> None:
        await watcher.until(b"ready")
        await sandbox.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(close_when_ready())
        program = Program("bash", "trap '' TERM; echo ready; while :; do sleep 1; done")
        ran = await run(sandbox, program, watcher=watcher)
    assert ran.outcome.reason is Reason.SANDBOX_ERROR
    assert await traces.left(before) == traces.NOTHING


async def test_a_run_that_is_abandoned_ends_its_job(sandbox: Bubblewrap) -> None:
    watcher = Watcher()
    async with asyncio.TaskGroup() as tasks:
        program = Program("bash", "echo ready; sleep 999", ("abandoned",))
        job = tasks.create_task(run(sandbox, program, watcher=watcher))
        await watcher.until(b"ready")
        pid = _running("abandoned")
        job.cancel()
    await asyncio.to_thread(_wait_until_gone, pid)


async def test_the_box_dies_and_the_next_job_runs(sandbox: Bubblewrap) -> None:
    watcher = Watcher()
    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(
            run(sandbox, Program("bash", "echo ready; sleep 999", ("boxed",)), watcher=watcher)
        )
        await watcher.until(b"ready")
        os.kill(_box_of(_running("boxed")), signal.SIGKILL)
    assert job.result().end == (None, Reason.SANDBOX_ERROR)
    assert (await bash(sandbox, "echo again")).stdout == b"again\n"


async def test_a_supervisor_that_dies_harms_one_attempt_only(sandbox: Bubblewrap) -> None:
    watchers = [Watcher(), Watcher()]
    codes = ("echo ready; sleep 999", "echo ready; sleep 1; echo lived")
    async with asyncio.TaskGroup() as tasks:
        lost, lives = (
            tasks.create_task(run(sandbox, Program("bash", code, (code,)), watcher=watcher))
            for watcher, code in zip(watchers, codes, strict=True)
        )
        for watcher in watchers:
            await watcher.until(b"ready")
        job = _running(codes[0])
        os.kill(_parent_of(job), signal.SIGKILL)
        await asyncio.to_thread(_wait_until_gone, job)
    assert lost.result().end == (None, Reason.SANDBOX_ERROR), lost.result()
    assert lives.result().stdout == b"ready\nlived\n", lives.result()


async def test_a_supervisor_that_is_stuck_does_not_answer_and_can_be_ended(
    sandbox: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.sandbox.running.GRACE_S", 0.1)
    monkeypatch.setattr("gridx.worker.sandbox.running._KILL_TAKES_S", 0.1)
    watcher, cancel = Watcher(), asyncio.Event()
    code = "echo ready; sleep 999"
    async with asyncio.TaskGroup() as tasks:
        program = Program("bash", code, ("stuck",))
        stuck = tasks.create_task(run(sandbox, program, cancel=cancel, watcher=watcher))
        await watcher.until(b"ready")
        job = _running("stuck")
        supervisor = _parent_of(job)
        for _ in range(2):
            assert await answers(sandbox)
            os.kill(supervisor, signal.SIGSTOP)
            assert not await answers(sandbox, within_s=0.3)
            os.kill(supervisor, signal.SIGCONT)
        assert await answers(sandbox)
        os.kill(supervisor, signal.SIGSTOP)
        cancel.set()
        for pid in (supervisor, job):
            await asyncio.to_thread(_wait_until_gone, pid)
    assert stuck.result().end == (None, Reason.CANCELLED)
    assert await answers(sandbox), "what is over is told by its end"
    assert (await bash(sandbox, "echo again")).stdout == b"again\n"


async def answers(sandbox: Bubblewrap, within_s: float = 20.0) -> bool:
    """Whether what watches over the attempt of `run` answers."""
    try:
        async with asyncio.timeout(within_s):
            return await sandbox.answers(ATTEMPT)
    except TimeoutError:
        return False


@pytest.mark.parametrize("kind", [Bubblewrap, Gvisor])
async def test_all_dies_with_the_worker_and_the_next_one_sweeps_up(
    kind: type[Bubblewrap | Gvisor],
) -> None:
    code = f"""
        import asyncio
        from gridx.worker.sandbox.base import Limits, Program
        from {kind.__module__} import {kind.__name__} as Kind

        async def main():
            sandbox = Kind()
            await sandbox.open()
            job = Program("bash", "setsid sleep 999 & echo ready; trap '' TERM; sleep 999")
            say = lambda stream, piece: print(piece.decode(), flush=True)
            await sandbox.run("x", job, Limits(), say, asyncio.Event())

        asyncio.run(main())
    """
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"ready\n"
    started = traces.descendants(worker.pid)
    assert len(started) >= 6
    assert _groups_of(worker.pid) or (v1.find() or v2.find()) is None
    worker.kill()
    await worker.wait()
    for pid in started | _living_in(_groups_of(worker.pid)):
        await asyncio.to_thread(_wait_until_gone, pid)
    sandbox = kind(waiting_max=0)
    await sandbox.open()
    await sandbox.close()
    assert _groups_of(worker.pid) == []


def _groups_of(pid: int) -> list[Path]:
    return [each for each in traces.own_groups() if each.name.split("-")[1] == str(pid)]


def _living_in(groups: list[Path]) -> set[int]:
    """The processes in these groups, among them those that a worker made as it was killed."""
    found: set[int] = set()
    for each in groups:
        for listed in each.rglob("cgroup.procs"):
            with suppress(OSError):  # the kernel has just removed it
                found |= {int(pid) for pid in listed.read_text().split()}
    return found


def _running(word: str) -> int:
    """The first process below this one that has `word` on its command line."""
    for pid in sorted(traces.descendants(os.getpid())):
        with suppress(OSError):  # it has just ended
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if word in (*words[1:], Path(words[0]).name):
                return pid
    raise AssertionError(f"no process has {word!r} on its command line")


def _box_of(pid: int) -> int:
    """The outermost `bwrap` that this process lives in: the one its worker started."""
    boxes: list[int] = []
    while pid != os.getpid():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "bwrap":
            boxes.append(pid)
        pid = _parent_of(pid)
    return boxes[-1]


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _wait_until_gone(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it is gone, or (by older kernels) going
        return
    try:
        gone, _, _ = select.select([descriptor], [], [], 30)
    finally:
        os.close(descriptor)
    assert gone, f"process {pid} still lives"


@pytest.mark.parametrize("template", [True, False])
async def test_signals_that_the_worker_ignores_are_not_ignored_by_jobs(template: bool) -> None:
    ignored = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.signal(each, signal.SIG_IGN) for each in ignored]
    sandbox = Bubblewrap(template=template)
    try:
        await sandbox.open()
        for number, code in ((2, 130), (1, 129), (3, 131)):
            ran = await python(sandbox, f"import os; os.kill(os.getpid(), {number})")
            assert ran.end == (code, Reason.EXIT_CODE)
            ran = await bash(sandbox, f"sh -c 'kill -{number} $$'; exit $?")
            assert ran.end == (code, Reason.EXIT_CODE)
    finally:
        await sandbox.close()
        for each, handler in zip(ignored, before, strict=True):
            signal.signal(each, handler)
