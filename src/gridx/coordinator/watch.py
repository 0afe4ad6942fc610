"""Watching: logs as they come, and events, each resumable where a follower stopped.

A follower reads the database; the bus only says when to look. What a follower has seen is named by
its last event's id: for events their number, for logs the attempt with the bytes of each stream.
"""

import codecs
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from gridx.bus.base import Bus, job_topic, user_topic
from gridx.clock import Clock
from gridx.domain.attempt import Reason
from gridx.domain.errors import Detail, InvalidInput, NotFound
from gridx.domain.job import FINAL, Job, JobStatus
from gridx.domain.policy import Retention
from gridx.domain.user import Principal, Scope
from gridx.storage import attempts, events, jobs
from gridx.storage.database import Connection, Database
from gridx.storage.events import JobEvent

__all__ = ["JobEvent", "LogEnd", "LogPiece", "Watch", "visible_job"]

POLL_S = 2.0
_FRAMES = 256
_EVENTS = 500


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Some text of one stream, from byte `offset` on; `event_id` resumes behind it."""

    event_id: str
    stream: str
    offset: int
    text: str
    attempt: int


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The job is final and everything it wrote was sent."""

    status: JobStatus
    reason: Reason | None


class _LogReader:
    """What one follower of a job's output has seen, and the text of what comes next."""

    def __init__(self, who: Principal, job_id: str, resume: str | None) -> None:
        self._who = who
        self._job_id = job_id
        attempt, stdout, stderr = _parse_position(resume)
        self._begin(attempt, stdout, stderr)

    def _begin(self, attempt: int, stdout: int = 0, stderr: int = 0) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._attempt = attempt
        self._frame = 0
        self._seen = {"stdout": stdout, "stderr": stderr}
        self._decoders = {stream: make("replace") for stream in self._seen}

    def read(self, connection: Connection) -> tuple[Job, list[tuple[int, str, int, bytes]]]:
        """The job and its next frames. The job is read first: once final, all frames are there."""
        job = visible_job(connection, self._who, self._job_id)
        newest = attempts.newest_attempt_with_output(connection, job.number)
        if newest is None:
            return job, []
        if newest != self._attempt:
            self._begin(newest)
        frames = attempts.read_output(
            connection, job.number, newest, from_frame=self._frame, limit=_FRAMES
        )
        return job, frames

    def pieces(self, frames: Iterable[tuple[int, str, int, bytes]]) -> Iterator[LogPiece]:
        """The unseen text of frames; a character cut at a frame's end comes with the next one."""
        for number, stream, start, data in frames:
            self._frame = number + 1
            seen = self._seen[stream]
            if start + len(data) <= seen:
                continue
            decoder = self._decoders[stream]
            offset = max(seen, start) - len(decoder.getstate()[0])
            text = decoder.decode(data[max(0, seen - start) :])
            self._seen[stream] = start + len(data) - len(decoder.getstate()[0])
            if text:
                yield LogPiece(self._id(), stream, offset, text, self._attempt)

    def rest(self) -> Iterator[LogPiece]:
        """What is left of characters that never became whole."""
        for stream, decoder in self._decoders.items():
            offset, rest = self._seen[stream], len(decoder.getstate()[0])
            if text := decoder.decode(b"", final=True):
                self._seen[stream] = offset + rest
                yield LogPiece(self._id(), stream, offset, text, self._attempt)

    def _id(self) -> str:
        return f"{self._attempt}.{self._seen['stdout']}.{self._seen['stderr']}"


class Watch:
    """The use cases of those who look on."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, ages: Retention) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._ages = ages

    async def logs(self, who: Principal, job_id: str, stream: str | None) -> bytes:
        """What the newest attempt that wrote has written so far, in order of arrival.

        Raises `NotFound` when it has aged out.
        """
        who.need(Scope.JOBS)

        def operation(connection: Connection) -> bytes:
            job = visible_job(connection, who, job_id)
            self._need_output(job)
            newest = attempts.newest_attempt_with_output(connection, job.number)
            if newest is None:
                return b""
            frames = attempts.read_output(connection, job.number, newest, stream=stream)
            return b"".join(data for *_, data in frames)

        return await self._database.read(operation)

    def follow_logs(
        self, who: Principal, job_id: str, resume: str | None
    ) -> AsyncIterator[LogPiece | LogEnd]:
        """Pieces of output as they come, behind `resume`, then the end.

        Raises `InvalidInput` at once for a `resume` that is no place in a log.
        """
        return self._follow_logs(who, job_id, _LogReader(who, job_id, resume))

    async def _follow_logs(
        self, who: Principal, job_id: str, reader: _LogReader
    ) -> AsyncIterator[LogPiece | LogEnd]:
        who.need(Scope.JOBS)
        listener = self._bus.listen(job_topic(job_id))
        try:
            while True:
                job, frames = await self._database.read(reader.read)
                self._need_output(job)
                for piece in reader.pieces(frames):
                    yield piece
                if frames:
                    continue
                if job.status in FINAL:
                    for piece in reader.rest():
                        yield piece
                    yield LogEnd(job.status, job.reason)
                    return
                await listener.wait(POLL_S)
        finally:
            listener.close()

    def _need_output(self, job: Job) -> None:
        if self._ages.output_is_gone(job.finished_at, self._clock.now()):
            raise NotFound("The output of this job has aged out: this grid keeps it no longer")

    async def newest_event(self, who: Principal) -> int:
        """The number of the caller's newest event: what comes from now on lies behind it."""
        who.need(Scope.JOBS)
        return await self._database.read(lambda c: events.last_number(c, who.user_id))

    async def follow_events(
        self, who: Principal, job_id: str | None, after: int | None
    ) -> AsyncIterator[JobEvent]:
        """Changes of the caller's jobs (or of one job) behind number `after`, or from the first.

        The stream of one job ends with its final event.
        """
        who.need(Scope.JOBS)
        user_id, last = who.user_id, after or 0
        if job_id is not None:
            job = await self._database.read(lambda c: visible_job(c, who, job_id))
            user_id = job.user_id
        listener = self._bus.listen(user_topic(user_id))
        try:
            while True:
                over, found = await self._database.read(
                    lambda connection, last=last: _look(connection, user_id, job_id, last)
                )
                for event in found:
                    last = event.number
                    yield event
                    if job_id is not None and event.status in FINAL:
                        return
                if len(found) < _EVENTS:
                    if over:
                        return  # resumed behind its last event
                    await listener.wait(POLL_S)
        finally:
            listener.close()


def visible_job(connection: Connection, who: Principal, job_id: str) -> Job:
    """The job, if `who` may see it. Raises `NotFound` and `Denied`."""
    job = jobs.find_job(connection, job_id)
    if job is None:
        raise NotFound("There is no such job")
    who.need_user(job.user_id)
    return job


def _look(
    connection: Connection, user_id: str, job_id: str | None, after: int
) -> tuple[bool, list[JobEvent]]:
    """Whether the one job is over, and the next events; in this order, so that its end is there."""
    states = {} if job_id is None else jobs.find_states(connection, [job_id])
    over = any(state.status in FINAL for state in states.values())
    return over, events.read(connection, user_id, after, job_id, _EVENTS)


def _parse_position(resume: str | None) -> tuple[int, int, int]:
    if resume is None:
        return 0, 0, 0
    parts = resume.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 16 for p in parts):
        message = "not an id of this stream; take the id of the last event that came"
        raise InvalidInput(f"Last-Event-ID: {message}", [Detail("Last-Event-ID", message)])
    attempt, stdout, stderr = map(int, parts)
    return attempt, stdout, stderr
