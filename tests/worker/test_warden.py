"""Programs run through a warden as they do without one, and neither side outlives the other."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from gridx.domain.attempt import Reason
from gridx.domain.errors import Unavailable
from gridx.domain.sandbox import Backend
from gridx.worker.apart import messages
from gridx.worker.apart.line import Line
from gridx.worker.apart.proxies import Warden
from gridx.worker.sandbox.base import Limits, Outcome, Program, Sandbox, Stream, Wanted
from tests.support.processes import is_alive
from tests.worker import wardens
from tests.worker.sandbox.runs import ATTEMPT, IN_TURN, Ran, Watcher, bash, python, run

ON_MODULE = pytest.mark.asyncio(loop_scope="module")
ENDS_WITHIN_S = 30
FOREVER = "import time\nprint('begun', flush=True)\ntime.sleep(60)"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def kept() -> AsyncGenerator[Sandbox]:
    """A sandbox that a warden keeps for all tests of this module."""
    async with wardens.sandbox_of_a_warden() as (_, sandbox):
        yield sandbox


@ON_MODULE
async def test_a_program_gets_all_that_it_is_given(kept: Sandbox) -> None:
    code = "import os, sys\nprint(sys.argv[1:], os.environ['NAME'], input())\nsys.exit(3)"
    program = Program("python", code, ("a", "ü"), {"NAME": "value"}, "typed\n")
    ran = await run(kept, program)
    assert ran.stdout.decode() == "['a', 'ü'] value typed\n"
    assert ran.end == (3, Reason.EXIT_CODE)
    assert ran.outcome.usage.wall_s > 0
    assert ran.outcome.usage.peak_memory_mb > 1


@ON_MODULE
async def test_output_comes_whole_and_in_order(kept: Sandbox) -> None:
    code = "for n in range(50_000): print(n)"
    ran = await python(kept, code, Limits(timeout_s=20.0))
    assert ran.stdout == b"".join(b"%d\n" % n for n in range(50_000))
    mixed = await python(kept, IN_TURN)
    assert [stream for stream, _ in mixed.pieces] == [Stream.STDOUT, Stream.STDERR] * 3


@ON_MODULE
async def test_a_program_of_megabytes_arrives(kept: Sandbox) -> None:
    ran = await run(kept, Program("python", "print(len(input()))", stdin="x" * 4_000_000))
    assert ran.stdout == b"4000000\n"


@ON_MODULE
async def test_limits_hold(kept: Sandbox) -> None:
    late = await python(kept, "while True: pass", Limits(timeout_s=0.5))
    assert late.end == (None, Reason.TIMEOUT)
    loud = await bash(kept, "yes", Limits(output_bytes=10_000))
    assert loud.end == (None, Reason.OUTPUT_LIMIT)
    assert len(loud.stdout) == 10_000


@ON_MODULE
async def test_a_cancel_reaches_the_program(kept: Sandbox) -> None:
    cancel, watcher = asyncio.Event(), Watcher()
    running = asyncio.ensure_future(
        run(kept, Program("python", FOREVER), cancel=cancel, watcher=watcher)
    )
    await watcher.until(b"begun")
    assert await kept.answers(ATTEMPT)
    cancel.set()
    assert (await running).end == (None, Reason.CANCELLED)
    before = await run(kept, Program("python", "print(1)"), cancel=cancel)
    assert before.end == (None, Reason.CANCELLED)


@ON_MODULE
async def test_a_run_that_is_given_up_ends(kept: Sandbox) -> None:
    watcher = Watcher()
    program = Program("bash", "echo begun; sleep 60; true", ("given-up",))
    running = asyncio.ensure_future(run(kept, program, watcher=watcher))
    await watcher.until(b"begun")
    sleeping = _called("given-up")
    assert sleeping
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(psutil.wait_procs, sleeping, ENDS_WITHIN_S)
    assert not [each for each in sleeping if is_alive(each.pid)]
    assert (await python(kept, "print(1)")).end == (0, None)


def _called(last_word: str) -> list[psutil.Process]:
    """The processes whose command ends so: a shell, and for a moment also what becomes its child."""
    everything = psutil.process_iter(["cmdline"])
    return [each for each in everything if (each.info["cmdline"] or [])[-1:] == [last_word]]


@ON_MODULE
async def test_many_at_once_are_told_apart(kept: Sandbox) -> None:
    async def one(number: int) -> tuple[bytes, Outcome]:
        watcher = Watcher()
        program = Program("python", f"print({number})")
        outcome = await kept.run(
            f"attempt-{number}", program, Limits(), watcher.emit, asyncio.Event()
        )
        return watcher.text(Stream.STDOUT), outcome

    ran = await asyncio.gather(*map(one, range(20)))
    assert [stdout for stdout, _ in ran] == [b"%d\n" % number for number in range(20)]
    assert all(outcome.reason is None for _, outcome in ran)


@ON_MODULE
async def test_files_are_not_kept_through_it(kept: Sandbox, tmp_path: Path) -> None:
    ran = await run(kept, Program("bash", "touch a", outputs=Wanted(("*",), tmp_path, 10, 10)))
    assert ran.end == (None, Reason.SANDBOX_ERROR)
    assert "keeps no files" in ran.outcome.detail


async def test_in_the_end_nothing_of_it_is_left() -> None:
    async with wardens.sandbox_of_a_warden() as (warden, sandbox):
        assert (await python(sandbox, "print(1)")).end == (0, None)
        family = psutil.Process(warden.pid).children(recursive=True)
        assert len(family) > 1
        assert psutil.Process(warden.pid).name() == "gridx-warden"
    assert not is_alive(warden.pid)
    await asyncio.to_thread(psutil.wait_procs, family, ENDS_WITHIN_S)
    assert not [each for each in family if is_alive(each.pid)]


async def _until_killed(warden: Warden, sandbox: Sandbox) -> asyncio.Task[Ran]:
    """Run a program until it has begun, and kill the warden."""
    watcher = Watcher()
    running = asyncio.ensure_future(run(sandbox, Program("python", FOREVER), watcher=watcher))
    await watcher.until(b"begun")
    os.kill(warden.pid, signal.SIGKILL)
    return running


async def test_a_warden_that_dies_ends_what_runs_and_the_worker() -> None:
    family: list[psutil.Process] = []

    async def work() -> None:
        async with wardens.sandbox_of_a_warden() as (warden, sandbox):
            family.extend(psutil.Process(warden.pid).children(recursive=True))
            running = await _until_killed(warden, sandbox)
            try:
                await asyncio.Event().wait()
            finally:
                assert (await running).end == (None, Reason.SANDBOX_ERROR)
                assert not await sandbox.answers(ATTEMPT)
                assert (await python(sandbox, "print(1)")).end == (None, Reason.SANDBOX_ERROR)

    with pytest.raises(Unavailable, match="has ended, and the worker with it"):
        await work()
    await asyncio.to_thread(psutil.wait_procs, family, ENDS_WITHIN_S)
    assert not [each for each in family if is_alive(each.pid)]


async def test_an_agent_that_dies_takes_a_warden_along_that_is_stopped() -> None:
    end, pid, lifeline = wardens.start()
    line = await Line.over(end)
    line.send(messages.Open())
    first = await line.receive()
    assert first is not None
    opened = messages.from_warden(first)
    assert isinstance(opened, messages.Opened)
    assert list(opened.lacks) == [Backend.BUBBLEWRAP]
    family = psutil.Process(pid).children(recursive=True)
    assert len(family) > 1
    os.kill(pid, signal.SIGSTOP)
    os.close(lifeline)
    assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, family, ENDS_WITHIN_S)
    assert not [each for each in family if is_alive(each.pid)]
    line.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_it_heeds_no_signal_of_the_agents_and_its_jobs_do(number: signal.Signals) -> None:
    async with wardens.sandbox_of_a_warden() as (warden, sandbox):
        os.kill(warden.pid, number)
        ran = await bash(sandbox, f"kill -{number.value} $$; echo still here")
        assert ran.end == (128 + number, Reason.EXIT_CODE)
        assert ran.stdout == b""


def _of(*said: messages.Message) -> bytes:
    encoded = [messages.encode(each) for each in said]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)


RUN = messages.Run(1, Backend.BUBBLEWRAP, ATTEMPT, Program("bash", "sleep 60"), Limits())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(_of(RUN), 0, id="a program before the sandboxes are open"),
        pytest.param(_of(messages.Open(), RUN, RUN), 1, id="a number twice"),
        pytest.param(_of(messages.Open(), messages.Open()), 1, id="open twice"),
        pytest.param(
            _of(messages.Open(), messages.Run(1, Backend.NONE, ATTEMPT, RUN.program, RUN.limits)),
            1,
            id="a sandbox that is not offered",
        ),
        pytest.param(_of(messages.Open()) + b"\x01\x00\x00\x00x", 1, id="no message"),
        pytest.param(_of(messages.Open()) + b"\xff\xff\xff\xff", 0, id="a size of gigabytes"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
async def test_an_agent_that_says_what_none_does_is_left(said: bytes, code: int) -> None:
    end, pid, lifeline = wardens.start()
    await asyncio.to_thread(end.sendall, said)
    end.shutdown(socket.SHUT_WR)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == code
    end.close()
    os.close(lifeline)
