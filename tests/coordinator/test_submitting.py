"""Accepting jobs: the job and its hold in one transaction, or neither."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select

from gridx.coordinator.idempotency import IdempotencyKey
from gridx.coordinator.jobs import JobFilter, Submitted, SubmittedBatch
from gridx.domain.errors import (
    Conflict,
    Denied,
    GridError,
    InsufficientCredits,
    InvalidInput,
    KeyReused,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from gridx.domain.job import JobSpec, JobStatus, Limits
from gridx.domain.ledger import Kind
from gridx.domain.user import Principal
from gridx.storage import events, jobs, ledger, requests, tables
from tests.coordinator.driving import GRANT, HOLD, Driver

SPEC = JobSpec(code="print(1)")


def key(name: str = "k", body: str = "b", path: str = "/jobs") -> IdempotencyKey:
    return IdempotencyKey("alice", path, name, body)


async def submit(driver: Driver, who: Principal, *keys: IdempotencyKey | None) -> list[Any]:
    """Submit once for each key, all at once."""
    waiting = [driver.grid.jobs.submit(who, SPEC, None, one, None) for one in keys]
    return await asyncio.gather(*waiting, return_exceptions=True)


async def rows(driver: Driver) -> dict[str, int]:
    """How many rows each table has, but the one where the reaper says that it lives."""

    def operation(connection: Connection) -> dict[str, int]:
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in tables.metadata.tables.items()
            if table is not tables.coordinators
        }

    return await driver.grid._database.read(operation)


# ------------------------------------------------------------------ one job


async def test_submission_with_enough_credits(driver: Driver, alice: Principal) -> None:
    submitted = await driver.grid.jobs.submit(alice, SPEC, "alice", None, "00-trace")
    assert submitted == Submitted(submitted.job_id, JobStatus.QUEUED, HOLD, 60_000_000)
    whole = await driver.job(alice, submitted.job_id)
    assert (whole.job.spec, whole.job.status, whole.job.held) == (SPEC, JobStatus.QUEUED, HOLD)
    assert (whole.job.traceparent, whole.attempts, whole.receipt) == ("00-trace", (), None)


async def test_deduction_at_creation(driver: Driver, alice: Principal) -> None:
    submitted = await driver.submit(alice)
    balance = await driver.balance(alice)
    assert (balance.available, balance.held) == (GRANT - HOLD, HOLD)
    (hold, grant) = (await driver.grid.accounts.statement(alice, "alice", 10, None)).items
    assert (hold.kind, hold.amount, hold.available_after) == (Kind.HOLD, -HOLD, GRANT - HOLD)
    assert (hold.job_id, grant.kind) == (submitted.job_id, Kind.GRANT)


async def test_refusal_without_credits(driver: Driver) -> None:
    poor = await driver.user("poor", HOLD - 1)
    before = await rows(driver)
    with pytest.raises(InsufficientCredits, match=r"Need 0\.637500, have 0\.637499"):
        await driver.submit(poor)
    assert await rows(driver) == before
    assert await driver.available(poor) == HOLD - 1


async def test_the_last_credit_can_be_spent(driver: Driver) -> None:
    exact = await driver.user("exact", HOLD)
    await driver.submit(exact)
    assert (await driver.balance(exact)).available == 0


@pytest.mark.parametrize(
    ("spec", "user_id", "refusal"),
    [
        (SPEC, "bob", Denied),
        (JobSpec(code="x", limits=Limits(timeout_s=3_600.1)), None, InvalidInput),
        (JobSpec(code="x", max_cost=1), None, InvalidInput),
    ],
)
async def test_what_is_refused_changes_nothing(
    driver: Driver, alice: Principal, spec: JobSpec, user_id: str | None, refusal: type[GridError]
) -> None:
    before = await rows(driver)
    with pytest.raises(refusal):
        await driver.grid.jobs.submit(alice, spec, user_id, key(), None)
    assert await rows(driver) == before


async def test_hostile_words_are_words(driver: Driver, alice: Principal) -> None:
    nasty = "'; DROP TABLE jobs; -- \" \\ %s :x ${x} {x} \u2603"
    spec = JobSpec(
        code=nasty, args=(nasty,), env={"K": nasty}, stdin=nasty, name=nasty, tags=(nasty[:60],),
        require={"label:a": nasty},
    )  # fmt: skip
    submitted = await driver.submit(alice, spec)
    assert (await driver.job(alice, submitted.job_id)).job.spec == spec
    page = await driver.grid.jobs.list_jobs(alice, JobFilter(name=nasty), 10, None)
    assert [job.job_id for job in page.items] == [submitted.job_id]


# ------------------------------------------------------------------ faults at every step

STEPS: list[tuple[Any, str]] = [
    (jobs, "insert_jobs"),
    (jobs, "count_waiting"),
    (ledger, "open_book"),
    (ledger, "post"),
    (events, "append"),
    (requests, "reserve_answer"),
    (requests, "keep_answer"),
]


class Fault(Exception):
    """What a step of a test breaks with."""


def broken(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise Fault

    return wrapper


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_fault_at_any_step_leaves_nothing(
    driver: Driver, alice: Principal, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    before = await rows(driver)
    for module, name in STEPS:
        driver.clock.advance(31)  # the backlog is counted again
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken(getattr(module, name), after=after))
            with pytest.raises(Fault):
                await driver.grid.jobs.submit(alice, SPEC, None, key(), None)
        found = await rows(driver)
        assert found == before, name
        assert await driver.available(alice) == GRANT, name
    await driver.grid.jobs.submit(alice, SPEC, None, key(), None)


async def test_a_fault_at_any_statement_leaves_nothing(driver: Driver, alice: Principal) -> None:
    """The database itself breaks at its first statement, its second, ... until none is left."""
    engine = driver.grid._database.engine
    seen = 0
    fail_at = 0

    def before(connection: Connection, *_: object) -> None:
        nonlocal seen
        if connection.info.get("counted"):
            seen += 1
            if seen == fail_at:
                raise Fault

    def operation(connection: Connection, items: Sequence[Any]) -> Sequence[Any]:
        nonlocal seen
        seen = 0
        connection.info["counted"] = True
        try:
            return real(connection, items)
        finally:
            connection.info.pop("counted")

    real = driver.grid.jobs._submit
    driver.grid.jobs._submit = operation  # type: ignore[method-assign]
    event.listen(engine, "before_cursor_execute", before)
    before_rows = await rows(driver)
    broke = 0
    while True:
        fail_at += 1
        try:
            await driver.grid.jobs.submit(alice, SPEC, None, key(), None)
        except Fault:
            broke += 1
            assert await rows(driver) == before_rows
            assert (await driver.balance(alice)).held == 0
        else:
            break
    event.remove(engine, "before_cursor_execute", before)
    assert broke >= 8
    assert (await driver.balance(alice)).held == HOLD


async def test_a_fault_of_one_does_not_take_the_others_with_it(
    driver: Driver, alice: Principal, bob: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = jobs.insert_jobs

    def insert(connection: Connection, new: Sequence[Any]) -> None:
        if any(job.user_id == "bob" for job in new):
            raise Fault
        real(connection, new)

    monkeypatch.setattr(jobs, "insert_jobs", insert)
    people = [alice, bob, alice, bob, alice]
    answers = await asyncio.gather(*map(driver.submit, people), return_exceptions=True)
    assert [isinstance(answer, Fault) for answer in answers] == [who is bob for who in people]
    assert (await driver.balance(alice)).held == 3 * HOLD
    assert await driver.available(bob) == GRANT


async def test_a_commit_that_fails_leaves_nothing(driver: Driver, alice: Principal) -> None:
    def commit(_: Connection) -> None:
        raise Fault

    before = await rows(driver)
    engine = driver.grid._database.engine
    event.listen(engine, "commit", commit)
    with pytest.raises(Fault):
        await driver.submit(alice)
    event.remove(engine, "commit", commit)
    assert await rows(driver) == before
    await driver.submit(alice)


# ------------------------------------------------------------------ races


async def test_200_clients_race_for_a_balance_that_covers_50_jobs(driver: Driver) -> None:
    racer = await driver.user("racer", 50 * HOLD + HOLD // 2)
    answers = await asyncio.gather(
        *(driver.submit(racer) for _ in range(200)), return_exceptions=True
    )
    accepted = [answer for answer in answers if isinstance(answer, Submitted)]
    refused = [answer for answer in answers if isinstance(answer, InsufficientCredits)]
    assert (len(accepted), len(refused)) == (50, 150)
    balance = await driver.balance(racer)
    assert (balance.available, balance.held) == (HOLD // 2, 50 * HOLD)
    assert len({submitted.job_id for submitted in accepted}) == 50
    assert (await rows(driver))["jobs"] == 50


async def test_jobs_and_transfers_race_for_the_same_credits(driver: Driver, bob: Principal) -> None:
    racer = await driver.user("racer", 30 * HOLD)
    spending = [
        driver.submit(racer) if number % 2 else
        driver.grid.accounts.transfer(racer, "bob", HOLD, None, None)
        for number in range(100)
    ]  # fmt: skip
    answers = await asyncio.gather(*spending, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, InsufficientCredits)]
    assert len(refused) == 70
    balance = await driver.balance(racer)
    given = await driver.available(bob) - GRANT
    assert (balance.available, balance.held + given) == (0, 30 * HOLD)


# ------------------------------------------------------------------ idempotency


async def test_the_same_request_twice_is_one_job(driver: Driver, alice: Principal) -> None:
    (first,) = await submit(driver, alice, key())
    (again,) = await submit(driver, alice, key())
    assert again == first
    assert (await driver.balance(alice)).held == HOLD


async def test_the_same_request_many_times_at_once_is_one_job(
    driver: Driver, alice: Principal
) -> None:
    answers = await submit(driver, alice, *[key()] * 20)
    assert len({answer.job_id for answer in answers}) == 1
    assert (await driver.balance(alice)).held == HOLD


async def test_a_key_with_another_body_is_refused(driver: Driver, alice: Principal) -> None:
    answers = await submit(driver, alice, key(), key(body="other"), key("another"))
    assert isinstance(answers[1], KeyReused)
    assert answers[0].job_id != answers[2].job_id
    assert (await driver.balance(alice)).held == 2 * HOLD


async def test_only_what_was_accepted_is_kept(driver: Driver, admin: Principal) -> None:
    poor = await driver.user("poor", 1)
    mine = IdempotencyKey("poor", "/jobs", "k", "b")
    (refused,) = await submit(driver, poor, mine)
    assert isinstance(refused, InsufficientCredits)
    await driver.grid.accounts.grant(admin, "poor", HOLD, None, None)
    (accepted,) = await submit(driver, poor, mine)
    assert isinstance(accepted, Submitted)


async def test_keys_of_one_group_are_told_apart(driver: Driver, alice: Principal) -> None:
    answers = await submit(driver, alice, key("a"), None, key("b"), key("a"), None)
    ids = [answer.job_id for answer in answers]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 4
    assert (await driver.balance(alice)).held == 4 * HOLD


async def test_a_key_survives_a_restart_and_is_forgotten_after_a_day(
    driver: Driver, alice: Principal
) -> None:
    (first,) = await submit(driver, alice, key())
    await driver.restart()
    (again,) = await submit(driver, alice, key())
    assert again.job_id == first.job_id
    driver.clock.advance(86_400 + 61)
    await driver.grid._retention.sweep()
    (later,) = await submit(driver, alice, key(body="other"))
    assert later.job_id != first.job_id


# ------------------------------------------------------------------ batches


async def test_a_batch_is_accepted_whole(driver: Driver, alice: Principal) -> None:
    specs = [JobSpec(code=str(number), priority=number % 3) for number in range(40)]
    batch = await driver.grid.jobs.submit_batch(alice, specs, None, None)
    assert len(set(batch.job_ids)) == 40
    page = await driver.grid.jobs.list_jobs(alice, JobFilter(batch_id=batch.batch_id), 500, None)
    assert [job.job_id for job in page.items] == list(reversed(batch.job_ids))
    assert (await driver.job(alice, batch.job_ids[7])).job.spec.code == "7"
    assert (await driver.balance(alice)).held == 40 * HOLD


async def test_a_batch_is_all_or_none(driver: Driver) -> None:
    poor = await driver.user("poor", 10 * HOLD - 1)
    before = await rows(driver)
    with pytest.raises(InsufficientCredits, match=r"Need 6\.375000, have 6\.374999"):
        await driver.grid.jobs.submit_batch(poor, [SPEC] * 10, None, None)
    with pytest.raises(InvalidInput, match=r"jobs\.3\.max_cost") as refused:
        await driver.grid.jobs.submit_batch(
            poor, [SPEC] * 3 + [JobSpec(code="x", max_cost=1)], None, None
        )
    assert [detail.field for detail in refused.value.details] == ["jobs.3.max_cost"]
    assert await rows(driver) == before


async def test_a_batch_twice_is_one_batch(driver: Driver, alice: Principal) -> None:
    key_of_batch = key(path="/jobs/batch")
    answers = await asyncio.gather(
        *(driver.grid.jobs.submit_batch(alice, [SPEC] * 3, key_of_batch, None) for _ in range(5))
    )
    assert all(isinstance(answer, SubmittedBatch) and answer == answers[0] for answer in answers)
    assert (await driver.balance(alice)).held == 3 * HOLD


# ------------------------------------------------------------------ limits and rights


async def test_no_more_jobs_wait_than_the_grid_allows(driver: Driver, alice: Principal) -> None:
    await driver.restart(queued_jobs_per_user=5)
    await driver.grid.jobs.submit_batch(alice, [SPEC] * 4, None, None)
    with pytest.raises(Conflict, match="At most 5 jobs"):
        await driver.grid.jobs.submit_batch(alice, [SPEC] * 2, None, None)
    last = await driver.submit(alice)
    with pytest.raises(Conflict, match="At most 5 jobs"):
        await driver.submit(alice)
    await driver.grid.jobs.cancel(alice, last.job_id)
    driver.clock.advance(31)
    await driver.submit(alice)


async def test_a_suspended_users_submission_is_refused_also_in_flight(
    driver: Driver, alice: Principal, admin: Principal
) -> None:
    """Its token was good when the request came; the transaction finds the suspension."""
    await driver.grid.users.suspend(admin, "alice")
    with pytest.raises(Unauthenticated, match="suspended"):
        await driver.submit(alice)
    await driver.grid.users.unsuspend(admin, "alice")
    await driver.submit(await driver.login("alice"))


async def test_a_job_tried_again_is_a_new_job_of_the_same_spec(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    spec = JobSpec(code="x", args=("a",), env={"K": "v"}, stdin="in", priority=5, tags=("t",))
    first = await driver.submit(alice, spec)
    with pytest.raises(Conflict, match="queued"):
        await driver.grid.jobs.retry(alice, first.job_id, None)
    await driver.grid.jobs.cancel(alice, first.job_id)
    again = await driver.grid.jobs.retry(alice, first.job_id, key())
    assert (await driver.grid.jobs.retry(alice, first.job_id, key())).job_id == again.job_id
    job = (await driver.job(alice, again.job_id)).job
    assert (job.spec, job.retry_of, job.status) == (spec, first.job_id, JobStatus.QUEUED)
    for other in (bob, admin):
        with pytest.raises(Denied):
            await driver.grid.jobs.retry(other, first.job_id, None)
    with pytest.raises(NotFound):
        await driver.grid.jobs.retry(alice, driver.clock.new_id(), None)


async def test_jobs_are_their_submitters_and_administrators(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    submitted = await driver.submit(alice)
    assert (await driver.job(admin, submitted.job_id)).job.user_id == "alice"
    with pytest.raises(Denied):
        await driver.job(bob, submitted.job_id)
    with pytest.raises(NotFound):
        await driver.job(bob, driver.clock.new_id())
    assert (await driver.grid.jobs.list_jobs(bob, JobFilter(), 10, None)).items == ()


async def test_lists_go_page_by_page(driver: Driver, alice: Principal) -> None:
    batch = await driver.grid.jobs.submit_batch(alice, [SPEC] * 7, None, None)
    seen: list[str] = []
    cursor = None
    while True:
        page = await driver.grid.jobs.list_jobs(alice, JobFilter(), 3, cursor)
        seen += [job.job_id for job in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == list(reversed(batch.job_ids))
    with pytest.raises(InvalidInput):
        await driver.grid.jobs.list_jobs(alice, JobFilter(), 3, "x")


async def test_a_grid_that_stops_accepts_nothing(driver: Driver, alice: Principal) -> None:
    await driver.grid.close()
    with pytest.raises(Unavailable):
        await driver.submit(alice)
