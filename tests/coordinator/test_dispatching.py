"""Which job goes where and when: capacity, fair share, priorities, one's own worker, expiry."""

import asyncio
from collections import Counter

import pytest

from gridx.coordinator.sessions import StartedReport
from gridx.domain.attempt import Reason
from gridx.domain.job import JobSpec, JobStatus, Limits
from gridx.domain.resources import Resources
from gridx.domain.user import Principal
from gridx.domain.worker import Capabilities
from tests.coordinator.driving import BACKOFF_S, GRANT, SLOT, Driver, Hand, finished


def spec(code: str = "x", **more: object) -> JobSpec:
    return JobSpec(code=code, **more)  # type: ignore[arg-type]


async def run_all(driver: Driver, hand: Hand, count: int) -> list[str]:
    """Run attempts one after the other; the code of each, in the order they came."""
    codes: list[str] = []
    while len(codes) < count:
        attempt = await hand.attempt()
        codes.append(attempt.spec.code)
        await hand.run(attempt)
    return codes


async def test_a_worker_gets_no_more_than_it_has_room_for(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=3)
    await driver.grid.jobs.submit_batch(alice, [spec()] * 10, None, None)
    live = await hand.attempts(3)
    finished_count = 0
    while live:
        await hand.settled()
        assert len(live) <= 3
        assert (await driver.grid.workers.get(bob, hand.worker_id)).free == SLOT.times(
            3 - len(live)
        )
        first = live.pop(0)
        await hand.report(StartedReport(first.key, "x"), finished(first.key, 0))
        await hand.told("ack", first.key)
        finished_count += 1
        if finished_count + len(live) < 10:
            live.append(await hand.attempt())
    assert finished_count == 10


async def test_a_worker_that_comes_back_has_only_the_room_that_is_left(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hand = await driver.worker(bob, slots=2)
    token = await driver.token_of(hand)
    await driver.grid.jobs.submit_batch(alice, [spec()] * 5, None, None)
    live = await hand.attempts(2)
    for attempt in live:
        await hand.start(attempt)
    await hand.gone()
    running = [attempt.key for attempt in live]
    back = await driver.worker(
        token, running=running, offer=Capabilities(SLOT.times(3)), worker_id=hand.worker_id
    )
    await back.attempt()
    await driver.grid._dispatcher._round()
    assert back.nothing_told()
    assert (await driver.grid.workers.get(bob, hand.worker_id)).running == 3


async def test_the_urgent_first_and_then_the_oldest(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    for code, priority in (("a", 0), ("b", -5), ("c", 7), ("d", 0), ("e", 7)):
        await driver.submit(alice, spec(code, priority=priority))
    hand = await driver.worker(bob)
    assert "".join(await run_all(driver, hand, 5)) == "ceadb"


async def test_priority_counts_across_shapes(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.submit(alice, spec("python"))
    await driver.submit(alice, spec("bash", language="bash", priority=1))
    await driver.submit(alice, spec("large", resources=Resources(2, 512, 0, 512), priority=9))
    hand = await driver.worker(bob)
    assert await run_all(driver, hand, 2) == ["bash", "python"]


async def test_two_users_share_one_slot_evenly(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    """However many jobs the one queued before the other came."""
    carol = await driver.user("carol")
    await driver.grid.jobs.submit_batch(alice, [spec("alice")] * 40, None, None)
    hand = await driver.worker(bob)
    assert await run_all(driver, hand, 4) == ["alice"] * 4
    await driver.grid.jobs.submit_batch(carol, [spec("carol")] * 40, None, None)
    codes = await run_all(driver, hand, 24)
    counted = Counter(codes)
    # Carol catches up first; then they take turns.
    assert 12 <= counted["carol"] <= 15
    assert Counter(codes[-10:]) == {"alice": 5, "carol": 5}


async def test_ones_own_worker_is_tried_first(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    others, own = await driver.worker(bob, slots=2), await driver.worker(alice)
    batch = await driver.grid.jobs.submit_batch(alice, [spec()] * 2, None, None)
    (mine,) = await own.attempts(1)
    (other,) = await others.attempts(1)
    assert mine.key.job_id == batch.job_ids[0]
    await own.run(mine)
    await others.run(other)
    assert await driver.available(alice) == GRANT - 10_625


async def test_a_job_waits_for_a_worker_that_suits_it(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    wanted = spec("gpu", resources=Resources(1, 256, 1, 256), require={"label:site": "lab"})
    submitted = await driver.submit(alice, wanted)
    plain = await driver.worker(bob, slots=8)
    await driver.submit(alice, spec("plain"))
    assert (await plain.attempt()).spec.code == "plain"
    offer = Capabilities(Resources(1, 256, 1, 256), labels={"site": "lab"})
    rich = await driver.worker(bob, offer=offer)
    assert (await rich.attempt()).key.job_id == submitted.job_id
    assert plain.nothing_told()


async def test_offers_are_capped_by_settings(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(worker_cap=Resources(2, 512, 0, 512))
    alice, bob = await driver.login("alice"), await driver.login("bob")
    hand = await driver.worker(bob, slots=100)
    state = await driver.grid.workers.get(bob, hand.worker_id)
    assert state.worker.capabilities.resources == Resources(2, 512, 0, 512)
    await driver.grid.jobs.submit_batch(alice, [spec()] * 5, None, None)
    await hand.attempts(2)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()


async def test_what_waited_before_the_coordinator_came_is_found(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.submit(alice, spec("old"))
    await driver.submit(alice, spec("old bash", language="bash"))
    await driver.restart()
    hand = await driver.worker(bob)
    assert sorted(await run_all(driver, hand, 2)) == ["old", "old bash"]


async def test_a_large_batch_goes_through_few_slots(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    hands = [await driver.worker(bob, slots=16) for _ in range(2)]
    batch = await driver.grid.jobs.submit_batch(
        alice, [spec(str(n), max_cost=5_000, limits=Limits(timeout_s=0.1))
                for n in range(600)], None, None
    )  # fmt: skip
    seen: list[str] = []

    async def work(hand: Hand) -> None:
        while len(seen) < 600:
            for order in await hand.session.outgoing():
                for attempt in getattr(order, "attempts", ()):
                    seen.append(attempt.key.job_id)
                    await hand.report(finished(attempt.key, 0))
            if not hand.session.live and len(seen) == 600:
                return

    working = [asyncio.ensure_future(work(hand)) for hand in hands]
    for job_id in (batch.job_ids[0], batch.job_ids[-1]):
        await driver.final(alice, job_id)
    for hand in hands:
        await hand.settled()
        await hand.gone()
    await asyncio.gather(*working)
    assert sorted(seen) == sorted(batch.job_ids)


# ------------------------------------------------------------------ expiry


@pytest.mark.parametrize("with_worker", [False, True])
async def test_a_job_that_waits_too_long_expires_uncharged(
    driver: Driver, alice: Principal, bob: Principal, with_worker: bool
) -> None:
    await driver.restart(queue_age_s=100.0, lease_s=10_000.0)
    if with_worker:  # one that cannot run it
        await driver.worker(bob, offer=Capabilities(Resources(0.5, 256, 0, 256)))
    waiting = (await driver.submit(alice)).job_id
    driver.clock.advance(99)
    await driver.grid._reaper.tick()
    assert (await driver.job(alice, waiting)).job.status is JobStatus.QUEUED
    driver.clock.advance(2)
    await driver.grid._reaper.tick()
    whole = await driver.final(alice, waiting)
    assert (whole.job.status, whole.job.reason) == (JobStatus.FAILED, Reason.EXPIRED)
    assert whole.receipt is not None
    assert (whole.receipt.cost, whole.receipt.fault) == (0, "grid")
    assert await driver.available(alice) == GRANT


async def test_a_job_that_runs_never_expires(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    await driver.restart(queue_age_s=100.0, lease_s=10_000.0)
    hand = await driver.worker(bob)
    await driver.submit(alice)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(1_000)
    await driver.grid._reaper.tick()
    assert (await driver.job(alice, attempt.key.job_id)).job.status is JobStatus.RUNNING
    # Tried again, it waits from now on.
    await hand.report(finished(attempt.key, reason=Reason.SANDBOX_ERROR, exit_code=None))
    await hand.told("ack", attempt.key)
    driver.clock.advance(BACKOFF_S)
    again = await hand.attempt()
    await driver.grid._reaper.tick()
    await hand.run(again)
    assert (await driver.final(alice, again.key.job_id)).job.status is JobStatus.SUCCEEDED
