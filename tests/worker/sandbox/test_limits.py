"""Each limit ends a job with its own reason, and what stays below it is left alone."""

import asyncio

import pytest

from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import GRACE_S, Limits, Program, Sandbox
from tests.worker.sandbox.backends import ON_EACH
from tests.worker.sandbox.runs import Ran, Watcher, bash, python, run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), ON_EACH]

MB = 1 << 20
WAIT = "import time; time.sleep(60)"
READY = "print('ready', flush=True)"
SPIN = "while True: pass"
REFUSED = {
    "bubblewrap": Reason.PROCESS_LIMIT,
    "docker": Reason.PROCESS_LIMIT,
    "gvisor": Reason.EXIT_CODE,  # its kernel is the job's own, and tells nobody of it
}
"""How a job fails that was refused a process."""


@pytest.mark.parametrize(
    "code",
    [
        f"x = b'x' * (200 * {MB})\n{WAIT}",
        f"import mmap\nm = mmap.mmap(-1, 200 * {MB})\nfor _ in range(200): m.write(b'x' * {MB})\n{WAIT}",
        f"open('/dev/shm/x', 'wb').write(b'x' * (60 * {MB}))\nx = b'x' * (60 * {MB})\n{WAIT}",
        (
            f"import os\nfor _ in range(4):\n  if os.fork() == 0:\n    x = b'x' * (40 * {MB})\n    {WAIT}"
            "\nos.wait()"
        ),
        "x = []\nwhile True: x.append(bytes(1 << 20).replace(b'\\0', b'x'))",
    ],
    ids=["at once", "mapped", "shared memory", "by children", "for ever"],
)
async def test_memory(sandbox: Sandbox, code: str) -> None:
    ran = await python(sandbox, code, Limits(timeout_s=20.0, memory_mb=100))
    assert ran.end == (None, Reason.OUT_OF_MEMORY), ran


async def test_memory_of_a_child_ends_the_whole_job(sandbox: Sandbox) -> None:
    code = "python3 -c 'x = b\"x\" * (900 << 20)'; sleep 60; exit 0"
    ran = await bash(sandbox, code, Limits(timeout_s=20.0, memory_mb=64, disk_mb=64))
    assert ran.end == (None, Reason.OUT_OF_MEMORY), ran
    assert ran.outcome.usage.wall_s < 15


async def test_memory_below_the_limit(sandbox: Sandbox) -> None:
    ran = await python(sandbox, f"x = b'x' * (85 * {MB}); print('fine')", Limits(memory_mb=100))
    assert (ran.end, ran.stdout) == ((0, None), b"fine\n"), ran


async def test_a_full_disk_takes_nothing_of_the_memory(sandbox: Sandbox) -> None:
    code = (
        f"f = open('big', 'wb')\nfor _ in range(200): f.write(b'x' * {MB})\n"
        f"f.flush(); x = b'x' * (60 * {MB}); print('fine')"
    )
    ran = await python(sandbox, code, Limits(memory_mb=100, disk_mb=210))
    assert (ran.end, ran.stdout) == ((0, None), b"fine\n"), ran


@pytest.mark.parametrize("folder", ["/work", "/tmp"])
async def test_disk(sandbox: Sandbox, folder: str) -> None:
    code = f"with open('{folder}/x', 'wb') as f: f.write(b'x' * (50 * {MB}))"
    ran = await python(sandbox, code, Limits(memory_mb=200, disk_mb=20))
    assert ran.end == (1, Reason.DISK_LIMIT), ran
    assert b"No space left on device" in ran.stderr


async def test_disk_is_bounded_in_files_too(sandbox: Sandbox) -> None:
    code = "for n in range(1_000_000): open(str(n), 'w').close()"
    ran = await python(sandbox, code, Limits(timeout_s=20.0, disk_mb=1))
    assert ran.end == (1, Reason.DISK_LIMIT), ran


async def test_a_disk_that_was_full_for_a_while(sandbox: Sandbox) -> None:
    code = (
        f"import os, sys, time\ntry: open('x', 'wb').write(b'x' * (30 * {MB}))\n"
        "except OSError: time.sleep(2); os.remove('x'); sys.exit(4)"  # long enough to be seen
    )
    ran = await python(sandbox, code, Limits(disk_mb=20))
    assert ran.end == (4, Reason.DISK_LIMIT), ran


async def test_a_job_that_met_a_limit_and_coped_succeeds(sandbox: Sandbox) -> None:
    full = f"try: open('x', 'wb').write(b'x' * (30 * {MB}))\nexcept OSError: print('coped')"
    ran = await python(sandbox, full, Limits(disk_mb=20))
    assert (ran.end, ran.stdout) == ((0, None), b"coped\n"), ran
    forks = (
        "import os, time\ntry:\n  for _ in range(30):\n    if os.fork() == 0: time.sleep(60)\n"
        "except OSError: print('coped')"
    )
    ran = await python(sandbox, forks, Limits(processes=10))
    assert (ran.end, ran.stdout) == ((0, None), b"coped\n"), ran


@pytest.mark.parametrize(
    "code",
    [
        "import os, time\nfor _ in range(30):\n  if os.fork() == 0: time.sleep(60)",
        (
            "import threading, time\n"
            "for _ in range(30): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        ),
        "import os\nwhile True: os.fork()",
    ],
    ids=["children", "threads", "fork bomb"],
)
async def test_processes(sandbox: Sandbox, code: str) -> None:
    ran = await python(sandbox, code, Limits(processes=10, memory_mb=500))
    assert ran.end == (1, REFUSED[sandbox.name]), ran


async def test_exactly_as_many_processes_as_allowed(sandbox: Sandbox) -> None:
    code = (
        "import os, time\nfor _ in range({}):\n  if os.fork() == 0: time.sleep(60)\nprint('fine')"
    )
    ran = await python(sandbox, code.format(9), Limits(processes=10))
    assert (ran.end, ran.stdout) == ((0, None), b"fine\n"), ran
    ran = await python(sandbox, code.format(10), Limits(processes=10))
    assert ran.end == (1, REFUSED[sandbox.name]), ran


@pytest.mark.parametrize("stream", [1, 2])
async def test_the_byte_past_the_output_limit(sandbox: Sandbox, stream: int) -> None:
    code = "import os, time\nfor _ in range({}): os.write({}, b'x')\ntime.sleep({})"
    limits = Limits(output_bytes=1000)
    ran = await python(sandbox, code.format(1000, stream, 0), limits)
    assert ran.end == (0, None)
    ran = await python(sandbox, code.format(1001, stream, 60), limits)
    assert ran.end == (None, Reason.OUTPUT_LIMIT)
    assert len(ran.stdout + ran.stderr) == 1000


async def test_too_much_output_of_a_job_that_has_already_ended(sandbox: Sandbox) -> None:
    ran = await python(sandbox, "import os; os.write(1, b'x' * 2000)", Limits(output_bytes=1000))
    assert ran.end == (None, Reason.OUTPUT_LIMIT)
    assert len(ran.stdout) == 1000


async def test_each_stream_has_its_own_output_limit(sandbox: Sandbox) -> None:
    code = "import os; os.write(1, b'x' * 1000); os.write(2, b'x' * 1000)"
    ran = await python(sandbox, code, Limits(output_bytes=1000))
    assert ran.end == (0, None)


async def test_an_output_flood(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "yes & yes >&2 & yes", Limits(output_bytes=1 << 20))
    assert ran.end == (None, Reason.OUTPUT_LIMIT)
    assert max(len(ran.stdout), len(ran.stderr)) == 1 << 20
    assert ran.outcome.usage.wall_s < 20


async def test_time(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "echo on; sleep 60", Limits(timeout_s=3.0))
    assert ran.end == (None, Reason.TIMEOUT)
    assert ran.stdout == b"on\n"
    assert 3.0 <= ran.outcome.usage.wall_s < 3.0 + GRACE_S


async def test_a_job_may_tidy_up_when_its_time_is_over(sandbox: Sandbox) -> None:
    code = "trap 'echo tidied; exit 0' TERM; while :; do sleep 0.05; done"
    ran = await bash(sandbox, code, Limits(timeout_s=3.0))
    assert ran.end == (None, Reason.TIMEOUT)
    assert ran.stdout == b"tidied\n"


async def test_term_reaches_daemons_of_the_job(sandbox: Sandbox) -> None:
    code = (
        "trap 'wait $daemon; exit' TERM; setsid bash -c "
        "\"trap 'echo daemon; exit' TERM; echo ready; while :; do sleep 0.05; done\" &"
        " daemon=$!; while :; do sleep 0.05; done"
    )
    ran = await _cancel_when_ready(sandbox, Program("bash", code))
    assert (ran.end, ran.stdout) == ((None, Reason.CANCELLED), b"ready\ndaemon\n"), ran


async def test_a_job_that_ignores_term_is_killed(sandbox: Sandbox) -> None:
    """Three ways of ignoring it, at once because each takes the whole grace."""
    stubborn = [
        Program("bash", "trap '' TERM; echo ready; while :; do sleep 0.1; done"),
        Program("python", f"import signal; signal.signal(15, lambda *_: None)\n{READY}\n{SPIN}"),
        Program("javascript", "process.on('SIGTERM', () => 0); console.log('ready');for(;;);"),
    ]
    clock = asyncio.get_running_loop().time
    began = clock()
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(_cancel_when_ready(sandbox, each)) for each in stubborn]
    assert [task.result().end for task in runs] == [(None, Reason.CANCELLED)] * 3
    until_told_s = clock() - began - GRACE_S
    for task in runs:
        assert 0 < task.result().outcome.usage.wall_s < until_told_s, "the grace is not its time"


async def test_a_job_that_stopped_itself_is_ended(sandbox: Sandbox) -> None:
    ran = await bash(sandbox, "kill -STOP $$", Limits(timeout_s=2.0))
    assert ran.end == (None, Reason.TIMEOUT)
    assert ran.outcome.usage.wall_s < 2.0 + GRACE_S


async def test_cancel(sandbox: Sandbox) -> None:
    ran = await _cancel_when_ready(sandbox, Program("python", f"{READY}\n{WAIT}"))
    assert ran.end == (None, Reason.CANCELLED)
    assert ran.outcome.usage.wall_s < 20


async def test_a_cpu_quota(sandbox: Sandbox) -> None:
    ran = await python(sandbox, "while True: pass", Limits(timeout_s=1.0, cpus=0.25))
    assert ran.end == (None, Reason.TIMEOUT)
    usage = ran.outcome.usage
    assert usage.cpu_s < 0.2 + 0.25 * usage.wall_s


async def _cancel_when_ready(sandbox: Sandbox, program: Program) -> Ran:
    """Run a program and cancel it as soon as it has said `ready`."""
    watcher, cancel = Watcher(), asyncio.Event()

    async def wait_and_cancel() -> None:
        await watcher.until(b"ready")
        cancel.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_and_cancel())
        return await run(sandbox, program, cancel=cancel, watcher=watcher)
