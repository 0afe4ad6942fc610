"""The worker as a process: its prompt, its signals, its memory, and its death."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec.structs import replace

from gridx.domain.sandbox import Backend
from gridx.protocol.frames import Assign, Finished, Hello, Leaving, Log, Started
from gridx.worker.events import LeaseKey
from tests.support.processes import Process, clean_environment, is_alive, running
from tests.worker.conftest import Workers
from tests.worker.coordinator import Connection, Coordinator
from tests.worker.frames import ack, assignment, kept, new_key, spec, welcome

SLOW = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
RSS_MB_MAX = 70
ENDS_WITHIN_S = 30


def _shown_of(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        return b"".join(
            Path("/proc", str(pid), name).read_bytes() for name in ("environ", "cmdline")
        )
    return b""


def one(key: LeaseKey, code: str) -> Assign:
    return Assign([assignment(key, spec(code))])


async def test_the_prompt_comes_after_the_welcome_and_its_end_means_quit(
    coordinator: Coordinator, workers: Workers
) -> None:
    asked = asyncio.Event()
    may_answer = asyncio.Event()

    async def later(hello: Hello) -> None:
        asked.set()
        await may_answer.wait()

    coordinator.before_greeting = later
    worker = workers.start("--user", "alice")
    await asked.wait()
    assert worker.stdout == ""
    may_answer.set()
    await asyncio.to_thread(worker.wait_for, "^alice> $")
    worker.send("status\n")
    await asyncio.to_thread(worker.wait_for, "connected to")
    worker.close_input()
    assert await asyncio.to_thread(worker.wait) == 0


async def test_no_secret_can_be_read_of_it_or_its_children(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--no-cli", "--token", "token-on-the-line")
    connection = await coordinator.next()
    await connection.say(one(new_key(), SLOW))
    await connection.take(Log)
    family = [worker.pid, *(c.pid for c in psutil.Process(worker.pid).children(recursive=True))]
    shown = [_shown_of(pid) for pid in family]
    assert len(list(filter(None, shown))) > 3
    assert b"--no-cli" in shown[0]
    for secret in (b"user-token", b"token-on-the-line", b"worker-token"):
        assert not any(secret in each for each in shown)


async def test_a_worker_without_a_sandbox_says_so_at_its_start_and_its_prompt(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--user", "alice", "--sandbox", "none", "--i-trust-every-submitter")
    await asyncio.to_thread(worker.wait_for, "^UNSANDBOXED alice> ")
    await asyncio.to_thread(worker.wait_for, "^UNSANDBOXED: jobs on this worker may read")
    connection = await coordinator.next()
    assert coordinator.hellos[-1].capabilities.sandboxes == ["none"]
    mine = replace(spec("print(1)"), sandbox_at_least=Backend.NONE)
    await connection.say(Assign([assignment(theirs := new_key())]))
    assert (await connection.take(Finished)).reason == "sandbox_error"
    await connection.say(Assign([assignment(own := new_key(), mine)]))
    assert (await connection.take(Started)).sandbox == "none"
    end = await connection.take(Finished)
    assert (LeaseKey.of(end), end.exit_code) == (own, 0)
    assert theirs != own


async def test_an_input_that_is_empty_from_the_start_is_no_prompt(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--user", "alice")
    worker.close_input()
    connection = await coordinator.next()
    key = new_key()
    await connection.say(one(key, "print(1)"))
    await connection.take(Finished)
    await connection.say(ack(key))
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait) == 0
    assert worker.stdout == ""


async def test_a_signal_hands_over_and_ends_within_ten_seconds(
    coordinator: Coordinator, workers: Workers, tmp_path: Path
) -> None:
    """Three workers, each with its signal, at once because each job takes the whole grace."""
    stubborn = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLOW}"
    async with asyncio.TaskGroup() as tasks:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            worker = workers.start("--no-cli", "--state-dir", str(tmp_path / number.name))
            connection = await coordinator.next()
            await connection.say(one(new_key(), stubborn))
            await connection.take(Log)
            tasks.create_task(_leaves(worker, connection, number))


async def _leaves(worker: Process, connection: Connection, number: signal.Signals) -> None:
    worker.send_signal(number)
    await connection.take(Leaving)
    assert is_alive(worker.pid), "it says so before what it runs has ended"
    # Ten seconds are meant; a loaded machine gets more. The job would take a minute.
    assert await asyncio.to_thread(worker.wait, ENDS_WITHIN_S) == 0


async def test_a_second_signal_ends_at_once_and_leaves_no_program(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--no-cli")
    connection = await coordinator.next()
    stubborn = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLOW}"
    await connection.say(one(new_key(), stubborn))
    await connection.take(Log)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGTERM)
    await connection.take(Leaving)
    worker.send_signal(signal.SIGTERM)
    # In order, as it ends after its grace, it would have ended with 0.
    assert await asyncio.to_thread(worker.wait, ENDS_WITHIN_S) == -signal.SIGTERM
    await asyncio.to_thread(psutil.wait_procs, children, ENDS_WITHIN_S)
    assert not [child for child in children if is_alive(child.pid)]


async def test_kill_9_loses_the_running_and_keeps_the_finished(
    coordinator: Coordinator, workers: Workers
) -> None:
    worker = workers.start("--no-cli")
    connection = await coordinator.next()
    over, lost = new_key(), new_key()
    await connection.say(one(over, "print('kept')"))
    await connection.take(Finished)
    await connection.say(one(lost, SLOW))
    await connection.take(Log)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, children, ENDS_WITHIN_S)
    assert not [child for child in children if is_alive(child.pid)]

    coordinator.greet = lambda hello: welcome(
        keep=[kept(LeaseKey.of(ref), 0) for ref in hello.unacknowledged]
    )
    workers.start("--no-cli")
    again = await coordinator.next()
    hello = coordinator.hellos[-1]
    assert hello.running == []
    assert [LeaseKey.of(ref) for ref in hello.unacknowledged] == [over]
    assert (await again.take(Log)).data == b"kept\n"
    assert LeaseKey.of(await again.take(Finished)) == over
    assert {frame.lease for frame in again.heard if isinstance(frame, Started)} == {over.lease}


async def test_an_idle_worker_is_small(coordinator: Coordinator, workers: Workers) -> None:
    worker = workers.start("--no-cli")
    connection = await coordinator.next()
    for _ in range(20):
        key = new_key()
        await connection.say(one(key, "print(1)"))
        await connection.take(Finished)
        await connection.say(ack(key))
    assert psutil.Process(worker.pid).memory_info().rss < RSS_MB_MAX * 1_000_000


def test_a_second_worker_on_a_state_folder_is_told_the_flag(tmp_path: Path) -> None:
    from gridx.worker.identity import StateDir

    state = StateDir(tmp_path / "state")
    environment = clean_environment(tmp_path, GRIDX_TOKEN="user-token")
    command = ("gridx", "worker", "--no-cli", "--state-dir", str(state.path))
    with running(*command, env=environment) as worker:
        assert worker.wait() == 1
        assert "--state-dir" in worker.stderr
    state.close()
