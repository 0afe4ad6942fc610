"""Enrolling workers, and what owners and administrators do with them."""

import asyncio

import pytest
from sqlalchemy import Connection, select

from gridx.coordinator.sessions import ControlOrder, Greeting, StateReport
from gridx.domain.attempt import AttemptStatus
from gridx.domain.errors import Conflict, Denied, NotFound, Unauthenticated
from gridx.domain.job import JobStatus
from gridx.domain.user import Principal
from gridx.domain.worker import Capabilities, WorkerStatus
from gridx.storage.tables import audit
from tests.coordinator.driving import GRANT, SLOT, Driver, Hand, finished


async def status(driver: Driver, who: Principal, hand: Hand) -> WorkerStatus:
    return (await driver.grid.workers.get(who, hand.worker_id)).worker.status


async def audited(driver: Driver) -> list[tuple[str, str, str]]:
    def operation(connection: Connection) -> list[tuple[str, str, str]]:
        query = select(audit.c.actor, audit.c.action, audit.c.subject).order_by(audit.c.number)
        return [(actor, action, subject) for actor, action, subject in connection.execute(query)]

    return await driver.grid._database.read(operation)


# ------------------------------------------------------------------ enrolling


async def test_a_users_token_enrols_and_the_workers_own_opens_the_socket(
    driver: Driver, bob: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    assert (token.worker_id, token.user_id, token.scopes) == (hand.worker_id, "bob", frozenset())
    back = await driver.worker(token)
    assert (back.worker_id, back.session.worker_token) == (hand.worker_id, None)
    with pytest.raises(Denied, match="worker"):
        await driver.submit(token)
    with pytest.raises(Denied, match="another worker"):
        await driver.worker(token, worker_id=driver.clock.new_id())


async def test_a_worker_that_enrols_again_is_the_same_and_its_old_token_ends(
    driver: Driver, bob: Principal, hand: Hand
) -> None:
    first = hand.session.worker_token
    assert first is not None
    again = await driver.worker(bob, worker_id=hand.worker_id)
    assert again.worker_id == hand.worker_id
    driver.clock.advance(1)
    with pytest.raises(Unauthenticated):
        await driver.grid.users.authenticate(first)
    await driver.token_of(again)


async def test_workers_are_registered_over_the_api(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    register = driver.grid.workers.register
    offer = Capabilities(SLOT)
    made = await register(bob, "w", offer, None, "bob")
    state = await driver.grid.workers.get(bob, made.worker_id)
    assert (state.worker.owner_id, state.worker.status) == ("bob", WorkerStatus.OFFLINE)
    token = await driver.grid.users.authenticate(made.worker_token)
    assert (await driver.worker(token)).worker_id == made.worker_id
    with pytest.raises(Denied, match="owner_id"):
        await register(bob, "w", offer, None, "alice")
    with pytest.raises(Denied, match="another user"):
        await register(alice, "w", offer, made.worker_id, None)


async def test_a_user_has_no_more_workers_than_the_grid_allows(
    driver: Driver, bob: Principal
) -> None:
    await driver.restart(workers_per_user=2)
    for _ in range(2):
        await driver.worker(bob)
    with pytest.raises(Conflict, match="at most 2 workers"):
        await driver.worker(bob)


async def test_workers_of_one_id_that_enrol_at_once_are_one_worker(
    driver: Driver, bob: Principal
) -> None:
    worker_id = driver.clock.new_id()
    hands = await asyncio.gather(*(driver.worker(bob, worker_id=worker_id) for _ in range(5)))
    assert {one.worker_id for one in hands} == {worker_id}
    assert [one.session.closed for one in hands].count(False) == 1


async def test_another_users_worker_is_not_taken_over(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    with pytest.raises(Denied, match="another user"):
        await driver.worker(alice, worker_id=hand.worker_id)
    assert not hand.session.closed


# ------------------------------------------------------------------ pause, resume, drain


async def test_a_paused_worker_gets_no_more_work_until_it_is_resumed(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    assert (await driver.grid.workers.pause(bob, hand.worker_id)).worker.paused
    assert await hand.next() == ControlOrder("pause")
    assert await status(driver, bob, hand) is WorkerStatus.PAUSED
    await driver.submit(alice)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    await driver.grid.workers.resume(bob, hand.worker_id)
    assert await hand.next() == ControlOrder("resume")
    await hand.run(await hand.attempt())


async def test_an_owner_at_the_machine_pauses_too(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    await hand.report(StateReport(True))
    await hand.settled()
    assert await status(driver, bob, hand) is WorkerStatus.PAUSED
    token = await driver.token_of(hand)
    await hand.gone()
    back = await driver.worker(token)
    assert back.session.paused  # it is still paused when it comes back
    await driver.submit(alice)
    await back.report(StateReport(False))
    await back.run(await back.attempt())


async def test_a_draining_worker_finishes_what_it_runs(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    attempt = await hand.attempt()
    await driver.grid.workers.drain(bob, hand.worker_id)
    assert await hand.next() == ControlOrder("drain")
    waiting = await driver.submit(alice)
    await hand.run(attempt)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    assert await status(driver, bob, hand) is WorkerStatus.DRAINING
    await hand.gone()
    # It is not draining when it comes back.
    back = await driver.worker(bob, worker_id=hand.worker_id)
    assert (await back.attempt()).key.job_id == waiting.job_id


async def test_only_its_owner_and_administrators_control_a_worker(
    driver: Driver, alice: Principal, admin: Principal, hand: Hand
) -> None:
    workers = driver.grid.workers
    for control in (workers.pause, workers.resume, workers.drain):
        with pytest.raises(Denied):
            await control(alice, hand.worker_id)
        with pytest.raises(NotFound):
            await control(alice, driver.clock.new_id())
    assert hand.nothing_told()
    await workers.pause(admin, hand.worker_id)
    assert await hand.next() == ControlOrder("pause")


# ------------------------------------------------------------------ administrators


async def test_a_suspended_worker_ends_what_it_runs_and_is_paid(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    attempt = await hand.attempt()
    await hand.start(attempt)
    await driver.grid.workers.suspend(admin, hand.worker_id)
    assert await status(driver, bob, hand) is WorkerStatus.SUSPENDED
    waiting = await driver.submit(alice)
    driver.clock.advance(1)
    await hand.report(finished(attempt.key))
    await hand.told("ack", attempt.key)
    assert await driver.available(bob) == GRANT + 9_031
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    await driver.grid.workers.unsuspend(admin, hand.worker_id)
    await driver.submit(alice)
    assert (await hand.attempt()).key.job_id == waiting.job_id


async def test_a_banned_worker_loses_what_it_runs_unpaid_and_stays_out(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal, hand: Hand
) -> None:
    token = await driver.token_of(hand)
    await driver.submit(alice)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(1)
    state = await driver.grid.workers.ban(admin, hand.worker_id)
    assert (state.worker.status, state.running) == (WorkerStatus.BANNED, 0)
    last = await hand.last()
    assert (last.retry, "banned" in last.reason) == (False, True)
    (tried,) = (await driver.job(alice, attempt.key.job_id)).attempts
    assert tried.status is AttemptStatus.LOST
    for who, worker_id in ((token, None), (bob, hand.worker_id)):
        with pytest.raises(Denied, match="banned"):
            await driver.worker(who, worker_id=worker_id, unacknowledged=[attempt.key])
    assert await driver.available(bob) == GRANT
    await driver.grid.workers.unsuspend(admin, hand.worker_id)
    back = await driver.worker(token)
    await back.run(await back.attempt())


async def test_a_result_that_comes_with_the_ban_is_not_paid(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    attempt = await hand.attempt()
    await hand.start(attempt)
    driver.clock.advance(1)
    lose_all = driver.grid.workers._lose_all

    async def lose_then_hear(worker_id: str, *, counted: bool) -> None:
        """The result arrives in the moment after the attempt was taken from the worker."""
        await lose_all(worker_id, counted=counted)
        if not hand.session.closed:
            await hand.report(finished(attempt.key))
            await hand.settled()

    driver.grid.workers._lose_all = lose_then_hear  # type: ignore[method-assign]
    await driver.grid.workers.ban(admin, hand.worker_id)
    assert (await driver.job(alice, attempt.key.job_id)).job.status is JobStatus.QUEUED
    assert await driver.available(bob) == GRANT


async def test_an_administrator_ends_a_connection(
    driver: Driver, admin: Principal, hand: Hand
) -> None:
    await driver.grid.workers.disconnect(admin, hand.worker_id)
    assert (await hand.over()).retry
    assert await status(driver, admin, hand) is WorkerStatus.OFFLINE


async def test_a_word_to_everybody(
    driver: Driver, bob: Principal, admin: Principal, hand: Hand
) -> None:
    other = await driver.worker(bob)
    assert await driver.grid.workers.broadcast(admin, "maintenance at ten") == 2
    for one in (hand, other):
        assert await one.next() == ControlOrder("broadcast", "maintenance at ten")


async def test_until_it_is_admitted_a_worker_serves_its_owner_only(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    await driver.restart(admission="approve")
    hand = await driver.worker(bob)
    others = await driver.submit(alice)
    own = await driver.submit(bob)
    first = await hand.attempt()
    assert first.key.job_id == own.job_id
    await hand.run(first)
    await driver.grid._dispatcher._round()
    assert hand.nothing_told()
    await driver.grid.workers.admit(admin, hand.worker_id)
    assert (await hand.attempt()).key.job_id == others.job_id


async def test_each_verdict_leaves_a_row_in_the_audit_log(
    driver: Driver, bob: Principal, admin: Principal, hand: Hand
) -> None:
    workers = driver.grid.workers
    for verdict in (
        workers.suspend, workers.unsuspend, workers.admit, workers.disconnect, workers.ban,
    ):  # fmt: skip
        with pytest.raises(Denied):
            await verdict(bob, hand.worker_id)
        with pytest.raises(NotFound):
            await verdict(admin, driver.clock.new_id())
        await verdict(admin, hand.worker_id)
    with pytest.raises(Denied):
        await workers.broadcast(bob, "hello")
    await workers.broadcast(admin, "hello")
    names = ("suspend", "unsuspend", "admit", "disconnect", "ban")
    expected = [("admin", name, hand.worker_id) for name in names]
    assert await audited(driver) == [*expected, ("admin", "broadcast", "hello")]


async def test_workers_are_listed_page_by_page(driver: Driver, bob: Principal) -> None:
    hands = [await driver.worker(bob) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await driver.grid.workers.list_workers(bob, 2, cursor)
        seen += [state.worker.worker_id for state in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == sorted(one.worker_id for one in hands)
    with pytest.raises(NotFound):
        await driver.grid.workers.get(bob, driver.clock.new_id())


async def test_a_suspended_users_worker_is_shown_out(
    driver: Driver, bob: Principal, admin: Principal, hand: Hand
) -> None:
    token = hand.session.worker_token
    assert token is not None
    await driver.grid.users.suspend(admin, "bob")
    last = await hand.over()
    assert (last.retry, "suspended" in last.reason) == (False, True)
    with pytest.raises(Unauthenticated, match="suspended"):
        await driver.grid.users.authenticate(token)
    greeting = Greeting(None, "w", "1", Capabilities(SLOT), (), ())
    with pytest.raises(Denied, match="suspended"):
        await driver.grid.sessions.connect(bob, greeting)  # it was let through a moment ago
