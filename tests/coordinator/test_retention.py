"""What ages out and what stays: jobs with all that is theirs, output, answers; never the ledger."""

import asyncio

import pytest
from sqlalchemy import Connection, select

from gridx.clock import ManualClock
from gridx.coordinator import retention
from gridx.coordinator.grid import verify_store
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.domain.errors import NotFound, Unauthenticated
from gridx.domain.job import JobSpec
from gridx.domain.ledger import Kind
from gridx.domain.policy import Retention
from gridx.domain.user import Principal
from gridx.storage.tables import (
    attempts,
    events,
    idempotency,
    job_tags,
    job_texts,
    jobs,
    metadata,
    output,
    transfers,
)
from tests.coordinator.driving import Driver

DAY_S = 86_400.0
AGES = Retention(jobs_s=10 * DAY_S, output_s=3 * DAY_S, answers_s=DAY_S)
NEVER = Retention(float("inf"), float("inf"), float("inf"))


@pytest.fixture
async def aging(driver: Driver) -> Driver:
    """A grid that keeps little, and whose own sweeps the test makes by hand."""
    await driver.restart(retention=NEVER)
    return driver


@pytest.fixture
async def rich(driver: Driver) -> Principal:
    return await driver.user("rich", 1_000_000_000)


class Sleepless(ManualClock):
    """Pauses pass by themselves."""

    async def sleep(self, seconds: float) -> float:
        assert seconds == retention._PAUSE_S
        return 0.0


async def sweep(driver: Driver, ages: Retention = AGES) -> None:
    """One sweep, now."""
    clock = Sleepless(start=driver.clock.now())
    await retention.RetentionLoop(driver.grid._database, clock, ages).sweep()


async def finished_job(driver: Driver, who: Principal, owner: Principal) -> str:
    """A job that ran to its end on a worker that is gone afterwards."""
    hand = await driver.worker(owner)
    made = await driver.submit(who, JobSpec(code="x", tags=("t",)))
    await hand.run(await hand.attempt(), output=b"hello\n")
    await hand.gone()
    return made.job_id


async def rows_of(driver: Driver) -> dict[str, int]:
    def count(connection: Connection) -> dict[str, int]:
        tables = (jobs, job_texts, job_tags, attempts, output, events)
        return {table.name: len(connection.execute(select(table)).all()) for table in tables}

    return await driver.grid._database.read(count)


async def test_a_job_ages_out_with_all_that_is_its(
    aging: Driver, alice: Principal, bob: Principal
) -> None:
    old = await finished_job(aging, alice, bob)
    aging.clock.advance(AGES.jobs_s - 10)
    await sweep(aging)
    assert (await aging.job(alice, old)).job.status.final, "not yet"
    before = await aging.available(alice)
    aging.clock.advance(20)

    await sweep(aging)

    with pytest.raises(NotFound):
        await aging.job(alice, old)
    assert set((await rows_of(aging)).values()) == {0}
    assert await aging.available(alice) == before
    lines = (await aging.grid.accounts.statement(alice, "alice", 10, None)).items
    assert [line.job_id for line in lines] == [old, old, None], "statements keep its id"
    assert [line.kind for line in lines] == [Kind.RELEASE, Kind.HOLD, Kind.GRANT]
    verified = await asyncio.to_thread(verify_store, aging.policy)
    assert (verified.ok, verified.holds) == (True, 0)


async def test_what_is_not_final_stays_and_then_ages_from_its_end(
    aging: Driver, alice: Principal
) -> None:
    await aging.restart(queue_age_s=1_000 * DAY_S)
    job_id = (await aging.submit(alice)).job_id
    aging.clock.advance(2 * AGES.jobs_s)
    await sweep(aging)
    assert not (await aging.job(alice, job_id)).job.status.final
    await aging.grid.jobs.cancel(alice, job_id)
    aging.clock.advance(AGES.jobs_s - 10)
    await sweep(aging)
    assert (await aging.job(alice, job_id)).job.status.final
    aging.clock.advance(20)
    await sweep(aging)
    with pytest.raises(NotFound):
        await aging.job(alice, job_id)


async def test_numbers_are_not_given_twice(aging: Driver, alice: Principal, bob: Principal) -> None:
    old = (await aging.job(alice, await finished_job(aging, alice, bob))).job
    aging.clock.advance(AGES.jobs_s + 1)
    await sweep(aging)
    new = (await aging.job(alice, await finished_job(aging, alice, bob))).job
    assert new.number > old.number
    aging.clock.advance(AGES.jobs_s + 1)
    await sweep(aging)
    assert (await aging.job(alice, await finished_job(aging, alice, bob))).job.number > new.number


async def test_output_ages_out_before_its_job(
    aging: Driver, alice: Principal, bob: Principal
) -> None:
    old = await finished_job(aging, alice, bob)
    aging.clock.advance(AGES.output_s + 1)
    young = await finished_job(aging, alice, bob)
    await sweep(aging)
    assert await aging.grid.watch.logs(alice, young, None) == b"hello\n"
    assert (await aging.job(alice, old)).job.exit_code == 0
    assert (await rows_of(aging))["output"] == 1
    await aging.restart(retention=AGES)
    whole = await aging.job(alice, old)
    assert (whole.stdout, whole.stdout_truncated) == (b"", True), "not as if it had written nothing"
    with pytest.raises(NotFound, match="aged out"):
        await aging.grid.watch.logs(alice, old, None)
    assert await aging.grid.watch.logs(alice, young, None) == b"hello\n"


async def test_many_go_in_small_batches(
    aging: Driver, rich: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3 * retention._BATCH + 7
    batch = await aging.grid.jobs.submit_batch(rich, [JobSpec(code="x")] * count, None, None)
    await aging.grid.jobs.cancel_batch(rich, batch.batch_id)
    aging.clock.advance(AGES.jobs_s + 1)
    sizes: list[int] = []
    remove = retention.retention.remove_jobs

    def counted(connection: Connection, after: int, before: int, limit: int) -> int | None:
        had = len(connection.execute(select(jobs.c.number)).all())
        came_to = remove(connection, after, before, limit)
        sizes.append(had - len(connection.execute(select(jobs.c.number)).all()))
        return came_to

    monkeypatch.setattr(retention.retention, "remove_jobs", counted)
    await sweep(aging)
    assert sizes == [retention._BATCH] * 3 + [7, 0]
    assert await rows_of(aging) == dict.fromkeys(await rows_of(aging), 0)


async def test_two_coordinators_share_a_sweep(aging: Driver, rich: Principal) -> None:
    batch = await aging.grid.jobs.submit_batch(rich, [JobSpec(code="x")] * 120, None, None)
    await aging.grid.jobs.cancel_batch(rich, batch.batch_id)
    aging.clock.advance(AGES.jobs_s + 1)
    await asyncio.gather(*(sweep(aging) for _ in range(3)))
    assert set((await rows_of(aging)).values()) == {0}


async def test_answers_are_kept_for_their_time(aging: Driver, rich: Principal) -> None:
    for number in range(2 * retention._BATCH + 1):
        key = IdempotencyKey("rich", "/jobs", f"k{number}", "0" * 64)
        await aging.grid.jobs.submit(rich, JobSpec(code="x"), None, key, None)

    async def kept() -> int:
        return await aging.grid._database.read(
            lambda connection: len(connection.execute(select(idempotency)).all())
        )

    aging.clock.advance(DAY_S - 10)
    await sweep(aging)
    assert await kept() == 2 * retention._BATCH + 1
    aging.clock.advance(20)
    await sweep(aging)
    assert await kept() == 0


async def test_log_ins_are_forgotten_a_day_after_they_expired(
    aging: Driver, rich: Principal
) -> None:
    asked = aging.grid.users
    tokens = [(await asked.issue("rich")).token for _ in range(2 * retention._BATCH + 1)]
    aging.clock.advance(aging.policy.token_lifetime_s + DAY_S - 10)
    await sweep(aging)
    for token in tokens:
        with pytest.raises(Unauthenticated, match="expired"):
            await asked.authenticate(token)
    aging.clock.advance(20)
    fresh = (await asked.issue("rich")).token
    await sweep(aging)
    for token in tokens:
        with pytest.raises(Unauthenticated, match="unknown"):
            await asked.authenticate(token)
    assert (await asked.authenticate(fresh)).user_id == "rich"


async def test_forever_is_for_ever(aging: Driver, alice: Principal, bob: Principal) -> None:
    await finished_job(aging, alice, bob)
    before = await rows_of(aging)
    aging.clock.advance(1_000 * 365 * DAY_S)
    await sweep(aging, NEVER)
    assert await rows_of(aging) == before


async def test_a_grid_sweeps_by_itself_but_not_after_its_clock_jumped(
    aging: Driver, alice: Principal, bob: Principal
) -> None:
    await aging.restart(retention=AGES)
    old = await finished_job(aging, alice, bob)
    aging.clock.jump(20 * DAY_S)
    for _ in range(30):
        aging.clock.advance(60)
        await aging.grid._database.write(lambda connection: None)
    assert (await aging.job(alice, old)).job.status.final
    async with asyncio.timeout(20):
        while (await rows_of(aging))["jobs"]:
            aging.clock.advance(60)


async def test_every_table_of_jobs_is_swept(aging: Driver) -> None:
    """A table that refers to jobs and is not known here would keep rows of jobs that are gone."""
    swept = {jobs, job_texts, job_tags, attempts, output, events}
    kept = {transfers}
    refer = {
        table
        for table in metadata.tables.values()
        if {"job_id", "job_number"} & {column.name for column in table.columns}
    }
    assert refer <= swept | kept, "remove its rows in storage.retention, and name it here"
