"""Waiting for jobs, following their output and their events, and going on where one stopped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pytest

from gridx.bus.local import _LocalListener
from gridx.coordinator.sessions import LogReport, StartedReport
from gridx.coordinator.watch import JobEvent, LogEnd, LogPiece, Watch
from gridx.domain.attempt import Reason
from gridx.domain.errors import Denied, InvalidInput, NotFound
from gridx.domain.job import JobSpec, JobStatus
from gridx.domain.user import Principal
from tests.coordinator.driving import BACKOFF_S, PATIENCE_S, Driver, Hand, finished

T = TypeVar("T")
TEXT = "aé☃𝄞\n"
SPLIT = [TEXT.encode()[n : n + 1] for n in range(len(TEXT.encode()))]
"""Every byte in a frame of its own, so that each character is split."""


@pytest.fixture
async def hand(driver: Driver, bob: Principal) -> Hand:
    return await driver.worker(bob, slots=4)


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners hear hints only: whoever relies on looking again by the clock waits too long."""
    real = _LocalListener.wait

    async def wait(self: _LocalListener, timeout_s: float) -> bool:
        return await real(self, 3_600)

    monkeypatch.setattr(_LocalListener, "wait", wait)


async def take(stream: AsyncIterator[T], count: int) -> list[T]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(stream) for _ in range(count)]


async def rest(stream: AsyncIterator[T]) -> list[T]:
    async with asyncio.timeout(PATIENCE_S):
        return [item async for item in stream]


def text_of(items: list[Any], stream: str = "stdout") -> str:
    return "".join(i.text for i in items if isinstance(i, LogPiece) and i.stream == stream)


# ------------------------------------------------------------------ waiting


@pytest.mark.usefixtures("no_polling")
async def test_a_wait_wakes_without_polling(driver: Driver, alice: Principal, hand: Hand) -> None:
    submitted = [await driver.submit(alice) for _ in range(3)]
    waiting = [
        asyncio.ensure_future(driver.grid.jobs.wait(alice, one.job_id, 60)) for one in submitted
    ]
    live = await hand.attempts(3)
    assert not any(future.done() for future in waiting)
    await hand.run(live[0])
    assert (await asyncio.wait_for(waiting[0], 10)).job.status is JobStatus.SUCCEEDED
    await driver.grid.jobs.cancel(alice, submitted[1].job_id)
    assert (await asyncio.wait_for(waiting[1], 10)).job.status is JobStatus.CANCELLED
    assert not waiting[2].done()
    await hand.told("take_back", live[1].key)
    await hand.run(live[2], reason=Reason.TIMEOUT, exit_code=None)
    assert (await asyncio.wait_for(waiting[2], 10)).job.reason is Reason.TIMEOUT


async def test_a_wait_ends_at_its_time_out(driver: Driver, alice: Principal) -> None:
    job_id = (await driver.submit(alice)).job_id
    assert (await driver.grid.jobs.wait(alice, job_id, 0)).job.status is JobStatus.QUEUED
    waiting = asyncio.ensure_future(driver.grid.jobs.wait(alice, job_id, 0.01))
    await asyncio.sleep(0)
    driver.clock.advance(1)
    assert (await asyncio.wait_for(waiting, 10)).job.status is JobStatus.QUEUED


async def test_who_waits_for_anothers_job_is_refused(
    driver: Driver, alice: Principal, bob: Principal
) -> None:
    job_id = (await driver.submit(alice)).job_id
    with pytest.raises(Denied):
        await driver.grid.jobs.wait(bob, job_id, 1)
    with pytest.raises(NotFound):
        await driver.grid.jobs.wait(bob, driver.clock.new_id(), 1)
    assert driver.grid._bus._listeners.keys() == {"queues"}  # type: ignore[attr-defined]


# ------------------------------------------------------------------ logs


@pytest.mark.usefixtures("no_polling")
async def test_logs_are_followed_as_they_come(driver: Driver, alice: Principal, hand: Hand) -> None:
    job_id = (await driver.submit(alice)).job_id
    stream = driver.grid.watch.follow_logs(alice, job_id, None)
    first = asyncio.ensure_future(anext(stream))
    attempt = await hand.attempt()
    await hand.report(StartedReport(attempt.key, "x"), LogReport(attempt.key, 0, "stdout", b"one"))
    piece = await asyncio.wait_for(first, 10)
    assert isinstance(piece, LogPiece)
    assert (piece.stream, piece.offset, piece.text, piece.attempt) == ("stdout", 0, "one", 1)
    await hand.report(LogReport(attempt.key, 1, "stderr", b"two"))
    (second,) = await take(stream, 1)
    assert isinstance(second, LogPiece)
    assert (second.stream, second.offset, second.text) == ("stderr", 0, "two")
    await hand.report(LogReport(attempt.key, 2, "stdout", b"three"), finished(attempt.key, 0))
    third, end = await rest(stream)
    assert isinstance(third, LogPiece)
    assert (third.offset, third.text) == (3, "three")
    assert end == LogEnd(JobStatus.SUCCEEDED, None)


async def written(driver: Driver, who: Principal, hand: Hand, *frames: tuple[str, bytes]) -> str:
    """A job that wrote these frames and ended; its id."""
    await driver.submit(who)
    attempt = await hand.attempt()
    await hand.report(StartedReport(attempt.key, "x"))
    for number, (stream, data) in enumerate(frames):
        await hand.report(LogReport(attempt.key, number, stream, data))
    await hand.report(finished(attempt.key, 0))
    await hand.told("ack", attempt.key)
    return attempt.key.job_id


async def test_characters_split_between_frames_come_whole(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    frames = [(stream, byte) for byte in SPLIT for stream in ("stdout", "stderr")]
    job_id = await written(driver, alice, hand, *frames)
    items = await rest(driver.grid.watch.follow_logs(alice, job_id, None))
    assert text_of(items) == text_of(items, "stderr") == TEXT
    for piece in items[:-1]:
        assert isinstance(piece, LogPiece)
        before = TEXT[: TEXT.index(piece.text)]
        assert piece.offset == len(before.encode())


async def test_a_follower_goes_on_behind_every_piece(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    frames = [("stdout", byte) for byte in SPLIT] + [("stderr", b"E1"), ("stdout", b"end")]
    job_id = await written(driver, alice, hand, *frames)
    whole = await rest(driver.grid.watch.follow_logs(alice, job_id, None))
    for index, piece in enumerate(whole[:-1]):
        assert isinstance(piece, LogPiece)
        behind = await rest(driver.grid.watch.follow_logs(alice, job_id, piece.event_id))
        assert behind == whole[index + 1 :]


async def test_bytes_that_are_no_text_are_shown_and_kept(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = await written(driver, alice, hand, ("stdout", b"a\xffb"), ("stdout", b"c\xe2\x98"))
    items = await rest(driver.grid.watch.follow_logs(alice, job_id, None))
    assert text_of(items) == "a\ufffdbc\ufffd"
    assert await driver.grid.watch.logs(alice, job_id, None) == b"a\xffbc\xe2\x98"
    last = items[-2]
    assert isinstance(last, LogPiece)
    assert last.offset == 4
    # Who has seen it does not see it again.
    assert await rest(driver.grid.watch.follow_logs(alice, job_id, last.event_id)) == items[-1:]


async def test_logs_of_one_stream(driver: Driver, alice: Principal, hand: Hand) -> None:
    job_id = await written(
        driver, alice, hand, ("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3")
    )
    for stream, data in ((None, b"123"), ("stdout", b"13"), ("stderr", b"2")):
        assert await driver.grid.watch.logs(alice, job_id, stream) == data


async def test_the_output_of_a_new_attempt_takes_the_place_of_the_last(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    stream = driver.grid.watch.follow_logs(alice, job_id, None)
    first = await hand.attempt()
    await hand.report(StartedReport(first.key, "x"), LogReport(first.key, 0, "stdout", b"old"))
    (piece,) = await take(stream, 1)
    assert isinstance(piece, LogPiece)
    await hand.report(finished(first.key, reason=Reason.SANDBOX_ERROR, exit_code=None))
    await hand.told("ack", first.key)
    driver.clock.advance(BACKOFF_S)
    second = await hand.attempt()
    await hand.run(second, output=b"newer")
    items = await rest(stream)
    assert [(i.attempt, i.offset, i.text) for i in items if isinstance(i, LogPiece)] == [
        (2, 0, "newer")
    ]
    # Who stopped inside the old one sees the new one from its beginning.
    again = await rest(driver.grid.watch.follow_logs(alice, job_id, piece.event_id))
    assert text_of(again) == "newer"
    assert await driver.grid.watch.logs(alice, job_id, None) == b"newer"


async def test_a_job_that_never_wrote_has_empty_logs(driver: Driver, alice: Principal) -> None:
    job_id = (await driver.submit(alice)).job_id
    assert await driver.grid.watch.logs(alice, job_id, None) == b""
    await driver.grid.jobs.cancel(alice, job_id)
    items = await rest(driver.grid.watch.follow_logs(alice, job_id, None))
    assert items == [LogEnd(JobStatus.CANCELLED, None)]


@pytest.mark.parametrize(
    "resume", ["", "x", "1", "1.2", "1.2.3.4", "-1.0.0", "1.0.\u0663", "1.0." + "9" * 20]
)
async def test_nonsense_to_go_on_from_is_refused(
    driver: Driver, alice: Principal, resume: str
) -> None:
    job_id = (await driver.submit(alice)).job_id
    with pytest.raises(InvalidInput, match="Last-Event-ID"):
        await anext(driver.grid.watch.follow_logs(alice, job_id, resume))


# ------------------------------------------------------------------ events


def seen(events: list[JobEvent]) -> list[JobStatus]:
    return [event.status for event in events]


QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING


@pytest.mark.usefixtures("no_polling")
async def test_events_of_a_job_from_its_beginning_to_its_end(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    following = asyncio.ensure_future(rest(driver.grid.watch.follow_events(alice, job_id, None)))
    first = await hand.attempt()
    await hand.run(first, reason=Reason.SANDBOX_ERROR, exit_code=None)
    driver.clock.advance(BACKOFF_S)
    second = await hand.attempt()
    await hand.start(second)
    await driver.grid.jobs.cancel(alice, job_id)
    await hand.told("cancel", second.key)
    await hand.report(finished(second.key, reason=Reason.CANCELLED, exit_code=None))
    events = await following
    assert seen(events) == [QUEUED, RUNNING, QUEUED, RUNNING, RUNNING, JobStatus.CANCELLED]
    assert [event.attempt for event in events] == [None, 1, 1, 2, 2, 2]
    assert [event.cancel_requested for event in events] == [False] * 4 + [True] * 2
    assert [event.number for event in events] == list(range(1, 7))
    for index, event in enumerate(events):
        behind = await rest(driver.grid.watch.follow_events(alice, job_id, event.number))
        assert behind == events[index + 1 :]


@pytest.mark.usefixtures("no_polling")
async def test_all_of_ones_events_from_now_on(
    driver: Driver, alice: Principal, bob: Principal, hand: Hand
) -> None:
    await driver.submit(alice)
    await hand.start(attempt := await hand.attempt())
    stream = driver.grid.watch.follow_events(
        alice, None, await driver.grid.watch.newest_event(alice)
    )
    await hand.run(attempt)
    (first,) = await take(stream, 1)
    assert (first.number, first.status) == (3, JobStatus.SUCCEEDED)
    await driver.submit(bob)
    batch = await driver.grid.jobs.submit_batch(alice, [JobSpec(code="x")] * 3, None, None)
    found: list[JobEvent] = []
    while {event.job_id for event in found if event.status is QUEUED} != set(batch.job_ids):
        found += await take(stream, 1)
    numbers = [event.number for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    await stream.aclose()  # type: ignore[attr-defined]


async def test_events_are_ones_own(
    driver: Driver, alice: Principal, bob: Principal, admin: Principal
) -> None:
    job_id = (await driver.submit(alice)).job_id
    with pytest.raises(Denied):
        await anext(driver.grid.watch.follow_events(bob, job_id, None))
    with pytest.raises(Denied):
        await anext(driver.grid.watch.follow_logs(bob, job_id, None))
    with pytest.raises(Denied):
        await driver.grid.watch.logs(bob, job_id, None)
    with pytest.raises(NotFound):
        await anext(driver.grid.watch.follow_events(bob, driver.clock.new_id(), None))
    stream = driver.grid.watch.follow_events(admin, job_id, None)
    assert seen(await take(stream, 1)) == [QUEUED]


@pytest.mark.parametrize("look", [1, 2, 3, 4])
async def test_an_end_in_the_blink_of_an_eye_is_not_missed(
    driver: Driver, alice: Principal, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """The job ends between one look at the store and the next."""
    job_id = (await driver.submit(alice)).job_id
    real, looks = _LocalListener.wait, 0

    class Watched:
        """The store as this follower sees it."""

        async def read(self, operation: Any) -> Any:
            nonlocal looks
            looks += 1
            found = await driver.grid._database.read(operation)
            if looks == look:
                await driver.grid.jobs.cancel(alice, job_id)
            return found

    async def wait(self: _LocalListener, timeout_s: float) -> bool:
        return await real(self, 0.01)

    monkeypatch.setattr(_LocalListener, "wait", wait)
    watch = Watch(Watched(), driver.grid._bus, driver.clock, driver.policy.retention)  # type: ignore[arg-type]
    events = await rest(watch.follow_events(alice, job_id, None))
    assert seen(events) == [QUEUED, JobStatus.CANCELLED]


async def test_who_stops_listening_leaves_nothing(
    driver: Driver, alice: Principal, hand: Hand
) -> None:
    job_id = (await driver.submit(alice)).job_id
    attempt = await hand.attempt()
    await hand.start(attempt)
    for stream in (
        driver.grid.watch.follow_events(alice, job_id, None),
        driver.grid.watch.follow_events(alice, None, 0),
    ):
        await take(stream, 2)
        await stream.aclose()  # type: ignore[attr-defined]
    logs = asyncio.ensure_future(anext(driver.grid.watch.follow_logs(alice, job_id, None)))
    waiting = asyncio.ensure_future(driver.grid.jobs.wait(alice, job_id, 60))
    await asyncio.sleep(0)
    for future in (logs, waiting):
        future.cancel()
    await asyncio.gather(logs, waiting, return_exceptions=True)
    assert driver.grid._bus._listeners.keys() == {"queues"}  # type: ignore[attr-defined]
