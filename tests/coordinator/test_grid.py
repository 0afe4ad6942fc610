"""The coordinator as a whole: health, status, metrics, upkeep, and what it leaves behind."""

import asyncio
import gc
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, func, select

from gridx.clock import ManualClock
from gridx.coordinator.dispatcher import Dispatcher
from gridx.coordinator.grid import Grid
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.coordinator.reaper import Reaper
from gridx.coordinator.sessions import HeartbeatReport, LogReport, StartedReport
from gridx.domain.errors import InvalidInput, Unavailable
from gridx.domain.job import JobSpec, JobStatus, Limits
from gridx.domain.policy import Policy
from gridx.domain.user import Principal
from gridx.storage.tables import idempotency, rate_limits
from tests.coordinator.driving import HOLD, PATIENCE_S, Driver, Hand, finished
from tests.support.postgres import PostgresServer
from tests.support.proxy import proxy_to

T = TypeVar("T")


async def test_the_grid_at_a_glance(driver: Driver, alice: Principal, bob: Principal) -> None:
    hand = await driver.worker(bob)
    idle = await driver.worker(bob)
    await idle.gone()
    await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 3, None, None)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(5)
    status = await driver.grid.status()
    assert (status.workers_total, status.workers_active) == (2, 1)
    assert (status.queue_size, status.running, status.coordinators) == (2, 1, 1)
    assert status.uptime_s == 5
    assert await driver.grid.healthy()


async def test_metrics_say_what_happened(driver: Driver, alice: Principal, bob: Principal) -> None:
    hand = await driver.worker(bob, slots=2)
    await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 4, None, None)
    first, second = await hand.attempts(2)
    driver.clock.advance(2)
    await hand.run(first, wall_s=4, exit_code=1)
    third = await hand.attempt()
    await hand.start(second)
    driver.grid.metrics.count_refused("invalid")
    driver.grid.metrics.count_frame("in", "log", 3)
    driver.grid.metrics.count_protocol_error()
    lines = (await driver.grid.metrics.render()).decode().splitlines()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
             for line in lines if not line.startswith("#")}  # fmt: skip
    expected = {
        'gridx_jobs{status="queued"}': 2, 'gridx_jobs{status="running"}': 1,
        'gridx_jobs_finished_total{reason="exit_code",status="failed"}': 1,
        "gridx_queue_oldest_age_seconds": 6, "gridx_credits_held": 3 * HOLD / 1e6,
        "gridx_run_seconds_count": 1, "gridx_run_seconds_sum": 4,
        "gridx_submit_to_start_seconds_count": 2, "gridx_submit_to_start_seconds_sum": 8,
        'gridx_workers{status="online"}': 1,
        'gridx_resources{resource="cpus",state="free"}': 0,
        'gridx_resources{resource="cpus",state="used"}': 2,
        'gridx_refused_total{code="invalid"}': 1,
        'gridx_websocket_frames_total{direction="in",type="log"}': 3,
        "gridx_protocol_errors_total": 1,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert found["gridx_commit_operations_count"] > 3
    assert third.key.attempt == 1


async def test_what_has_aged_out_is_forgotten(driver: Driver, alice: Principal) -> None:
    await driver.grid.users.rate_limit("k", 20)
    key = IdempotencyKey("alice", "/jobs", "k", "b")
    await driver.grid.jobs.submit(alice, JobSpec(code="x"), None, key, None)

    def left(connection: Connection) -> tuple[int, int]:
        counts = [connection.scalar(select(func.count()).select_from(table))
                  for table in (idempotency, rate_limits)]  # fmt: skip
        return counts[0] or 0, counts[1] or 0

    for advance_s, expected in ((61, (1, 0)), (86_400, (0, 0))):
        driver.clock.advance(advance_s)
        await driver.grid._reaper.tick()
        async with asyncio.timeout(PATIENCE_S):
            while await driver.grid._database.read(left) != expected:
                await driver.grid._reaper.tick()  # its own loop may be at it as well


@pytest.mark.parametrize(
    "changes", [{"bus_url": "nats://127.0.0.1"}, {"storage_url": "mysql://localhost/grid"}]
)
async def test_what_this_version_does_not_have_is_refused(
    driver: Driver, changes: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        await Grid(replace(driver.policy, **changes), driver.clock).open()


# ------------------------------------------------------------------ loops that go on


async def moved_until(driver: Driver, done: asyncio.Future[T]) -> T:
    """Let time pass until `done`."""
    async with asyncio.timeout(PATIENCE_S):
        while not done.done():
            driver.clock.advance(0.5)
            await driver.grid.healthy()
    return await done


async def test_a_round_that_fails_is_not_the_last(
    driver: Driver, alice: Principal, bob: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = Dispatcher._standings, 0

    def standings(self: Dispatcher) -> Mapping[str, float]:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise ZeroDivisionError("a bug")
        return real(self)

    await driver.restart(lease_s=100_000.0)
    monkeypatch.setattr(Dispatcher, "_standings", standings)
    hand = await driver.worker(bob)
    await driver.submit(alice)
    await moved_until(driver, asyncio.ensure_future(hand.attempt()))
    assert failed > 2


async def test_upkeep_that_fails_is_not_the_last(
    driver: Driver, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.restart(queue_age_s=20.0)
    real, failed = Reaper._renew, 0

    async def renew(self: Reaper) -> None:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise ZeroDivisionError("a bug")
        await real(self)

    monkeypatch.setattr(Reaper, "_renew", renew)
    job_id = (await driver.submit(alice)).job_id
    await moved_until(driver, asyncio.ensure_future(driver.final(alice, job_id)))
    assert failed > 2


# ------------------------------------------------------------------ a store that goes away


async def test_a_store_that_goes_away_comes_back_by_itself(
    postgres: PostgresServer, postgres_template: str
) -> None:
    name = postgres.create(template=postgres_template)
    async with proxy_to(postgres.port) as proxy:
        url = postgres.url(name, port=proxy.port)
        there = Driver(Policy(storage_url=url, readers=2), ManualClock())
        await there.open()
        alice, bob = await there.user("alice"), await there.user("bob")
        hand = await there.worker(bob, slots=2)
        await there.submit(alice)
        attempt = await hand.attempt()
        await hand.start(attempt)
        await proxy.cut()
        assert not await there.grid.healthy()
        with pytest.raises(Unavailable):
            await there.submit(alice)
        with pytest.raises(Unavailable):
            await there.job(alice, attempt.key.job_id)
        there.clock.advance(1)
        await hand.report(LogReport(attempt.key, 0, "stdout", b"kept"), finished(attempt.key))
        # Longer than a lease: what was told in time is not lost for having to wait.
        for _ in range(5):
            there.clock.advance(10)
            await hand.report(HeartbeatReport(None, 0.1, ()))
        assert hand.session.lapsed(there.policy.lease_s) == []
        proxy.resume()
        async with asyncio.timeout(PATIENCE_S):
            while not await there.grid.healthy():
                pass
        acknowledged = asyncio.ensure_future(hand.told("ack", attempt.key))
        while not acknowledged.done():
            there.clock.advance(0.5)  # it tries again every half second
            await there.grid.healthy()
            if there.clock.monotonic() - hand.session.heard_s > there.policy.heartbeat_s:
                await hand.report(HeartbeatReport(None, 0.1, ()))  # however long that takes
        await acknowledged
        whole = await there.final(alice, attempt.key.job_id)
        assert (whole.job.status, whole.stdout) == (JobStatus.SUCCEEDED, b"kept")
        later = await there.submit(alice)
        given = await hand.attempt()
        assert given.key.job_id == later.job_id
        await there.finish()
    postgres.drop(name)


# ------------------------------------------------------------------ nothing is left behind


async def open_all_connections(driver: Driver) -> None:
    """Use every reader and every writer at once, so that none opens its connection later."""
    store, policy = driver.grid._database, driver.policy
    writers = 1 if policy.storage_url.startswith("sqlite") else policy.writers
    all_at_once = threading.Barrier(policy.readers + writers)
    using: list[asyncio.Future[int]] = []
    for _ in range(writers):
        entered = threading.Event()

        def write(_: Connection, entered: threading.Event = entered) -> int:
            entered.set()
            return all_at_once.wait(10)

        using.append(asyncio.ensure_future(store.write(write)))
        await asyncio.to_thread(entered.wait, 10)
    using += [
        asyncio.ensure_future(store.read(lambda _: all_at_once.wait(10)))
        for _ in range(policy.readers)
    ]
    await asyncio.gather(*using)


def threads() -> int:
    """Our own: the event loop keeps some for itself."""
    return sum(thread.name.startswith("gridx") for thread in threading.enumerate())


def files_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled_tasks(driver: Driver) -> int:
    """How many tasks there are when all that was begun is done."""
    for _ in range(5):
        await driver.grid._database.read(lambda _: None)
        await asyncio.sleep(0)
    gc.collect()
    return len(asyncio.all_tasks())


async def serve(hand: Hand, count: int) -> None:
    done = 0
    while done < count:
        orders = await hand.session.outgoing()
        assert orders, "its session is over"
        for order in orders:
            for attempt in getattr(order, "attempts", ()):
                await hand.report(
                    StartedReport(attempt.key, "x"),
                    LogReport(attempt.key, 0, "stdout", b"x"),
                    finished(attempt.key, 0),
                )
            done += getattr(order, "kind", "") == "ack"


async def test_tasks_and_files_are_as_many_as_before_after_2000_jobs_and_300_connections(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=50)
    token = await driver.token_of(hand)
    warm_up = await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 10, None, None)
    await serve(hand, 10)
    await driver.final(alice, warm_up.job_ids[0])
    await open_all_connections(driver)
    before = (await settled_tasks(driver), files_open(), threads())
    cheap = JobSpec(code="x", max_cost=5_000, limits=Limits(timeout_s=0.1))
    for _ in range(4):
        batch = await driver.grid.jobs.submit_batch(alice, [cheap] * 500, None, None)
        waiting = [asyncio.ensure_future(driver.final(alice, job_id))
                   for job_id in batch.job_ids[::100]]  # fmt: skip
        await serve(hand, 500)
        await asyncio.gather(*waiting)
    for number in range(300):
        replaced = hand
        hand = await driver.worker(token, slots=50)
        assert replaced.session.closed
        if number % 3 == 0:
            await hand.gone()
    hand = await driver.worker(token, slots=50)
    again = await driver.submit(alice)  # not before: it would be placed on who is being replaced
    await serve(hand, 1)
    await driver.final(alice, again.job_id)
    after = (await settled_tasks(driver), files_open(), threads())
    assert after == before
    assert len(driver.grid._dispatcher.sessions) == 1
    assert driver.grid._bus._listeners.keys() == {"queues"}  # type: ignore[attr-defined]


async def test_a_grid_that_was_closed_leaves_nothing(driver: Driver, bob: Principal) -> None:
    await driver.grid.close()
    await asyncio.sleep(0)
    gc.collect()  # what others left to the collector is not to be counted now and gone later
    before = (len(asyncio.all_tasks()), files_open(), threads())
    for _ in range(3):
        await driver.open()
        hand = await driver.worker(await driver.login("bob"))
        await driver.grid.users.register(f"user-{os.urandom(4).hex()}", "long enough", None)
        await driver.grid.close()
        assert (await hand.over()).retry
        await driver.grid.close()  # twice is once
    gc.collect()
    for thread in threading.enumerate():  # those that hash passwords are told to end, not awaited
        if thread.name.startswith("gridx"):
            await asyncio.to_thread(thread.join, PATIENCE_S)
    assert (len(asyncio.all_tasks()), files_open(), threads()) == before
