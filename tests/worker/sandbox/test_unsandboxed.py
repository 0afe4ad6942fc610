"""Jobs without a sandbox: what holds all the same, and that nothing more is claimed."""

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gridx.clock import SystemClock
from gridx.domain.attempt import Reason
from gridx.worker.sandbox.base import Enforcement, Limits, Program, Stream
from gridx.worker.sandbox.unsafe.unsandboxed import Unsandboxed
from tests.support.processes import is_alive
from tests.worker.sandbox.runs import Watcher, bash, python, run

STAYS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if (away := os.fork()) == 0:
        time.sleep(60)
    print(away, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.fixture
def none() -> Unsandboxed:
    return Unsandboxed(SystemClock())


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs get their folders: a place of this test's own, as others sweep that of everybody."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_behind(worker: int | None = None) -> list[Path]:
    pattern = f"gridx-unsandboxed-{worker or os.getpid()}-*"
    return list(Path(tempfile.gettempdir()).glob(pattern))


async def is_ended(pid: int) -> bool:
    """Whether a process that is none of ours ends within half a minute."""
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        await asyncio.to_thread(psutil.Process(pid).wait, 30)
    return not is_alive(pid)


async def test_it_claims_what_it_does_and_no_more(none: Unsandboxed) -> None:
    report = await none.probe()
    assert report.works
    assert report.enforces == {Enforcement.WALL_TIME, Enforcement.OUTPUT}


async def test_a_program_gets_what_it_was_given_and_nothing_of_the_workers(
    none: Unsandboxed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDX_TEST_SECRET", "secret")
    code = "import os, sys\nprint(sys.argv[1:], sys.stdin.read(), sorted(os.environ))"
    ran = await run(none, Program("python", code, ("a b", "é"), {"K": "v"}, "in"))
    assert ran.end == (0, None), ran.stderr
    names = ["HOME", "K", "LANG", "PATH", "TMPDIR", "USER"]
    assert ran.stdout.decode() == f"['a b', 'é'] in {names}\n"
    assert not left_behind()


@pytest.mark.parametrize(
    ("program", "stdout"),
    [
        (Program("bash", "echo $1", ("x",)), b"x\n"),
        (Program("javascript", "console.log(process.argv[2])", ("x",)), b"x\n"),
    ],
)
async def test_every_language(none: Unsandboxed, program: Program, stdout: bytes) -> None:
    ran = await run(none, program, Limits(memory_mb=1024))
    assert (ran.end, ran.stdout) == ((0, None), stdout), ran.stderr


async def test_exit_codes_and_signals(none: Unsandboxed) -> None:
    assert (await bash(none, "exit 3")).end == (3, Reason.EXIT_CODE)
    assert (await bash(none, "kill -SEGV $$")).end == (128 + 11, Reason.EXIT_CODE)


async def test_no_file_larger_and_no_memory_more_than_was_asked_for(none: Unsandboxed) -> None:
    limits = Limits(disk_mb=1, memory_mb=64)
    ran = await bash(none, "head -c 3000000 /dev/zero > big; stat -c %s big; exit 1", limits)
    assert ran.stdout == b"1048576\n"
    ran = await python(none, "x = bytearray(500_000_000)", limits)
    assert b"MemoryError" in ran.stderr


async def test_what_a_job_leaves_is_ended_with_it(none: Unsandboxed) -> None:
    ran = await python(none, STAYS)
    assert ran.end == (0, None), ran.stderr
    assert not is_alive(int(ran.stdout))
    assert not left_behind()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(timeout_s=4.0), Reason.TIMEOUT),
        (Limits(output_bytes=20, timeout_s=20.0), Reason.OUTPUT_LIMIT),
    ],
)
async def test_a_job_over_its_limit_is_ended_with_all_it_started(
    none: Unsandboxed, limits: Limits, reason: Reason
) -> None:
    ran = await python(none, STAYS + "time.sleep(1)\nprint('x' * 30, flush=True)\n" * 30, limits)
    assert ran.end == (None, reason)
    assert not is_alive(int(ran.stdout.split()[0]))


async def test_a_cancelled_job_is_told_and_then_ended(none: Unsandboxed) -> None:
    cancel, watcher = asyncio.Event(), Watcher()
    code = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    running = asyncio.ensure_future(
        run(none, Program("bash", code), cancel=cancel, watcher=watcher)
    )
    await watcher.until(b"ready")
    cancel.set()
    ran = await running
    assert ran.end == (None, Reason.CANCELLED)
    assert ran.stdout.endswith(b"told\n")


async def test_a_job_that_kills_its_keeper_does_not_outlive_it(none: Unsandboxed) -> None:
    ran = await bash(none, "echo $$; kill -KILL $PPID; exec sleep 60")
    assert ran.end == (137, Reason.EXIT_CODE)
    assert await is_ended(int(ran.stdout))


async def test_a_run_that_is_given_up_leaves_nothing(none: Unsandboxed) -> None:
    watcher = Watcher()
    code = STAYS + "time.sleep(60)"
    running = asyncio.ensure_future(run(none, Program("python", code), watcher=watcher))
    await watcher.until(b"\n")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await is_ended(int(watcher.text(Stream.STDOUT)))


async def test_everything_ends_with_the_worker(tmp_path: Path, temporary: Path) -> None:
    """A worker that is killed takes its jobs along, those that ran away included."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import asyncio\n"
        "from gridx.clock import SystemClock\n"
        "from gridx.worker.sandbox.base import Limits, Program\n"
        "from gridx.worker.sandbox.unsafe.unsandboxed import Unsandboxed\n"
        f"code = {STAYS!r} + 'time.sleep(60)'\n"
        "show = lambda stream, piece: print(piece.decode(), end='', flush=True)\n"
        "asyncio.run(Unsandboxed(SystemClock()).run('a', Program('python', code), Limits(), show,"
        " asyncio.Event()))\n"
    )
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert worker.stdout is not None
    runaway = int(await worker.stdout.readline())
    assert is_alive(runaway)
    family = [each.pid for each in psutil.Process(worker.pid).children(recursive=True)]
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    for pid in {runaway, *family}:
        assert await is_ended(pid)
    assert left_behind(worker.pid)
    await Unsandboxed(SystemClock()).open()
    assert not left_behind(worker.pid)
