"""Whole workers against a small coordinator: enrolment, jobs in the real sandbox, cuts, ends."""

import asyncio
import os
import stat
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gridx.protocol.frames import (
    Assign,
    Disconnect,
    Drain,
    Finished,
    Frame,
    Heartbeat,
    Hello,
    Leaving,
    Log,
    Started,
)
from gridx.worker.events import LeaseKey
from gridx.worker.identity import Identity, StateDir
from tests.support.processes import wake
from tests.support.proxy import proxy_to
from tests.worker.conftest import StartWorker, ended_in
from tests.worker.coordinator import WAIT_S, Connection, Coordinator
from tests.worker.frames import (
    WORKER,
    ack,
    assign,
    assignment,
    cancel,
    drop,
    kept,
    new_key,
    spec,
    take_back,
    welcome,
)

SLOW = "import sys, time\nprint('begun', flush=True)\nsys.stdin.read()\ntime.sleep(60)"


def one(key: LeaseKey, code: str, language: str = "python", timeout_s: float = 20.0) -> Assign:
    return Assign([assignment(key, spec(code, language=language, timeout_s=timeout_s))])


def spooled(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "state" / "spool").iterdir()]


async def acknowledge(connection: Connection, *keys: LeaseKey) -> None:
    """What a worker that stops would wait for."""
    for key in keys:
        await connection.say(ack(key))


async def gone(tmp_path: Path, connection: Connection, key: LeaseKey) -> None:
    """Acknowledge, and wait until the worker has acted on it (its heartbeat comes afterwards)."""
    await connection.say(ack(key))
    while spooled(tmp_path):
        await connection.take(Heartbeat)


async def no_more_children_than(before: list[psutil.Process]) -> None:
    """Wait for the end of all others, leaving it to their parent to collect them."""
    async with asyncio.timeout(WAIT_S):
        for child in set(psutil.Process().children()) - set(before):
            with suppress(ChildProcessError):
                ended = os.WEXITED | os.WNOWAIT
                await asyncio.to_thread(os.waitid, os.P_PID, child.pid, ended)


# ---------------------------------------------------------------------------------- enrolment


async def test_a_user_token_enrols_and_only_the_workers_own_is_kept(
    coordinator: Coordinator, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(coordinator.url, token="user-token", user_id="alice")
    await coordinator.next()
    await worker.stop()
    state = StateDir(tmp_path / "state")
    assert state.load() == Identity(WORKER, "worker-token", "alice")
    state.close()
    assert stat.S_IMODE((tmp_path / "state" / "identity.json").stat().st_mode) == 0o600
    for path in (tmp_path / "state").rglob("*"):
        assert path.is_dir() or b"user-token" not in path.read_bytes()

    start_worker(coordinator.url)
    await coordinator.next()
    assert coordinator.tokens == ["user-token", "worker-token"]
    assert [hello.worker_id for hello in coordinator.hellos] == [None, WORKER]
    hello = coordinator.hellos[0]
    assert hello.name == "desk"
    assert hello.capabilities.resources.cpus == 2.0
    assert "python" in hello.capabilities.languages
    assert hello.capabilities.sandboxes == ["bubblewrap"]


async def test_a_reconnect_after_enrolling_uses_the_workers_token(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker(coordinator.url, token="user-token")
    await (await coordinator.next()).close()
    await coordinator.next()
    assert coordinator.tokens == ["user-token", "worker-token"]


# --------------------------------------------------------------------------------------- jobs


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"),
        ("javascript", "console.log('out'); console.error('err'); process.exitCode = 3"),
        ("bash", "echo out; echo err >&2; exit 3"),
    ],
)
async def test_a_job_in_each_language(
    coordinator: Coordinator,
    start_worker: StartWorker,
    tmp_path: Path,
    language: str,
    code: str,
) -> None:
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.1)
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    key = new_key()
    await connection.say(one(key, code, language))
    assert LeaseKey.of(await connection.take(Started)) == key
    end = await connection.take(Finished)
    logs = [frame for frame in connection.heard if isinstance(frame, Log)]
    assert [frame.number for frame in logs] == list(range(len(logs)))
    text = {s: b"".join(f.data for f in logs if f.stream == s) for s in ("stdout", "stderr")}
    assert text == {"stdout": b"out\n", "stderr": b"err\n"}
    assert (end.exit_code, end.reason) == (3, "exit_code")
    assert connection.heard.index(end) > connection.heard.index(logs[-1])
    assert end.usage.wall_s > 0
    await gone(tmp_path, connection, key)


async def test_more_than_fits_waits_its_turn(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    keys = [new_key() for _ in range(6)]
    await connection.say(assign(*keys))
    ends = [await connection.take(Finished) for _ in keys]
    await acknowledge(connection, *keys)
    assert {LeaseKey.of(end) for end in ends} == set(keys)
    running: set[str] = set()
    for frame in connection.heard:
        if isinstance(frame, Started):
            running.add(frame.lease)
        elif isinstance(frame, Finished):
            running.remove(frame.lease)
        assert len(running) <= 2


async def test_output_arrives_while_the_program_runs(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    key = new_key()
    await connection.say(one(key, SLOW.replace("sys.stdin.read()\n", "")))
    assert (await connection.take(Log)).data == b"begun\n"
    await connection.say(cancel(key))
    end = await connection.take(Finished)
    assert end.reason == "cancelled"
    await acknowledge(connection, key)


@pytest.mark.parametrize("word", [drop, take_back])
async def test_what_is_taken_away_ends_and_says_no_more(
    coordinator: Coordinator, start_worker: StartWorker, word: type[Frame]
) -> None:
    coordinator.greet = lambda hello: welcome(heartbeat_s=0.1)
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    key, other = new_key(), new_key()
    await connection.say(one(key, SLOW))
    await connection.take(Log)
    await connection.say(word(key))  # pyright: ignore[reportCallIssue]
    while (await connection.take(Heartbeat)).running:
        pass
    while (free := (await connection.take(Heartbeat)).free) is None or free.cpus < 2.0:
        pass
    await connection.say(one(other, "print(2)"))
    assert LeaseKey.of(await connection.take(Finished)) == other
    await acknowledge(connection, other)


async def test_a_time_limit_holds(coordinator: Coordinator, start_worker: StartWorker) -> None:
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say(one(key := new_key(), "while True: pass", timeout_s=0.3))
    end = await connection.take(Finished)
    assert (end.reason, end.exit_code) == ("timeout", None)
    await acknowledge(connection, key)


# --------------------------------------------------------------------------------------- cuts


async def test_a_cut_in_the_middle_of_a_job_loses_nothing_and_doubles_nothing(
    coordinator: Coordinator, start_worker: StartWorker, tmp_path: Path
) -> None:
    stored: dict[int, bytes] = {}

    def greet(hello: Hello) -> Frame:
        refs = [*hello.running, *hello.unacknowledged]
        keep = [kept(LeaseKey.of(ref), len(stored)) for ref in refs]
        return welcome(keep=keep, heartbeat_s=0.1)

    coordinator.greet = greet
    async with proxy_to(coordinator.port) as proxy:
        start_worker(f"http://127.0.0.1:{proxy.port}", token="t")
        connection = await coordinator.next()
        key = new_key()
        nap = f"sleep 1000.{coordinator.port}"
        await connection.say(one(key, f"echo first; {nap}; echo second; echo third", "bash"))
        first = await connection.take(Log)
        stored[first.number] = first.data
        await proxy.cut()
        await connection.ended()
        proxy.resume()
        again = await coordinator.next()
        assert [LeaseKey.of(ref) for ref in coordinator.hellos[-1].running] == [key]
        await asyncio.to_thread(wake, nap)
        end = await again.take(Finished)
        assert end.exit_code == 0
        for frame in again.heard:
            if isinstance(frame, Log):
                assert frame.number not in stored, "sent twice"
                stored[frame.number] = frame.data
        assert b"".join(stored[number] for number in sorted(stored)) == b"first\nsecond\nthird\n"
        assert sum(isinstance(frame, Started) for frame in again.heard) == 1
        await gone(tmp_path, again, key)


async def test_a_result_of_the_time_without_a_connection_comes_afterwards(
    coordinator: Coordinator, start_worker: StartWorker, tmp_path: Path
) -> None:
    async with proxy_to(coordinator.port) as proxy:
        start_worker(f"http://127.0.0.1:{proxy.port}", token="t")
        connection = await coordinator.next()
        key = new_key()
        await connection.say(one(key, "import time; time.sleep(0.3); print('done')"))
        await connection.take(Started)
        await proxy.cut()
        await ended_in(tmp_path / "state" / "spool")
        proxy.resume()
        again = await coordinator.next()
        hello = coordinator.hellos[-1]
        assert [LeaseKey.of(ref) for ref in hello.unacknowledged] == [key]
        assert hello.running == []
        assert (await again.take(Log)).data == b"done\n"
        assert (await again.take(Finished)).exit_code == 0


async def test_a_coordinator_that_freezes_is_noticed(
    coordinator: Coordinator, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridx.worker.connection.PING_S", 0.2)
    async with proxy_to(coordinator.port) as proxy:
        worker = start_worker(f"http://127.0.0.1:{proxy.port}", token="t")
        await worker.accepted()
        await proxy.wait_for_connections(1)
        greeted = len(coordinator.hellos)
        proxy.freeze()
        await proxy.wait_for_connections(2)  # it tries anew, while the dead one still hangs
        await proxy.drop()
        proxy.resume()
        while len(coordinator.hellos) == greeted:
            await coordinator.next()


async def test_the_next_address_is_tried_when_one_is_dead(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker("http://127.0.0.1:1", coordinator.url, token="t")
    await coordinator.next()


async def test_a_polite_disconnect_is_followed_by_a_return(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say(Disconnect("moving", retry=True))
    await coordinator.next()


async def test_nonsense_from_a_coordinator_ends_the_connection_not_the_worker(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say_bytes(b"\x81\xa4type\xa5dance")
    await connection.ended()
    await coordinator.next()


# --------------------------------------------------------------------------------------- ends


async def test_leaving_hands_over_what_runs(
    coordinator: Coordinator, start_worker: StartWorker, tmp_path: Path
) -> None:
    before = psutil.Process().children()
    worker = start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say(one(new_key(), SLOW))
    await connection.take(Log)
    stopping = asyncio.get_running_loop().create_task(worker.stop())
    await connection.take(Leaving)
    await stopping
    await connection.ended()
    assert not any(isinstance(frame, Finished) for frame in connection.heard)
    assert spooled(tmp_path) == []
    await no_more_children_than(before)


async def test_a_drained_worker_finishes_and_ends_well(
    coordinator: Coordinator, start_worker: StartWorker
) -> None:
    worker = start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    key = new_key()
    await connection.say(one(key, "import time; time.sleep(0.2); print(1)"))
    await connection.say(Drain())
    assert (await connection.take(Finished)).exit_code == 0
    await connection.say(ack(key))
    await connection.take(Leaving)
    assert await worker.exit_code() == 0


async def test_a_replaced_worker_stops_its_programs_and_ends(
    coordinator: Coordinator, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children()
    worker = start_worker(coordinator.url, token="t")
    connection = await coordinator.next()
    await connection.say(one(new_key(), SLOW))
    await connection.take(Log)
    await connection.say(Disconnect("replaced", retry=False))
    assert await worker.exit_code() == 1
    assert "--state-dir" in capsys.readouterr().err
    await no_more_children_than(before)
