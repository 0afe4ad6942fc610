"""What jobs write and what becomes of them, as it happens: logs and events."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BeforeValidator
from starlette.types import ASGIApp

from gridx.clock import to_rfc3339
from gridx.coordinator.watch import JobEvent, LogEnd, LogPiece
from gridx.domain.errors import Detail, InvalidInput
from gridx.domain.user import Scope
from gridx.server.answers import Answer
from gridx.server.api import views
from gridx.server.api.queries import Parameters, yes_or_no
from gridx.server.operation import Call, JobId, Operations
from gridx.server.streams import EventStream, event

operations = Operations("output")
"""The operations of this module."""

SSE = "text/event-stream"
PLAIN = "text/plain; charset=utf-8"
RAW = "application/octet-stream"
_EVENT_ID = re.compile(rb"[!-~]{1,200}")

YesOrNo = Annotated[bool, BeforeValidator(yes_or_no)]


class LogsQuery(Parameters):
    """Which stream, as text or as it was, so far or on and on."""

    stream: Literal["stdout", "stderr"] | None = None
    raw: YesOrNo = False
    follow: YesOrNo = False


@operations.add("GET", "/jobs/{job_id}/logs", refusals=(404,), media_types=(PLAIN, RAW, SSE))
async def get_logs(call: Call, job_id: JobId, query: Annotated[LogsQuery, Query()]) -> ASGIApp:
    """The output so far, both streams in order of arrival or one; or, followed, as events."""
    resume = _resume(call)
    if not query.follow:
        output = await call.grid.watch.logs(call.who, job_id, query.stream)
        if query.raw:
            return Answer(200, output, RAW.encode())
        return Answer(200, views.text(output).encode(), PLAIN.encode())
    if query.raw:
        raise InvalidInput("raw: followed logs are text", [Detail("raw", "followed logs are text")])
    pieces = call.grid.watch.follow_logs(call.who, job_id, resume)
    await call.grid.jobs.get(call.who, job_id)
    return EventStream(call, _log_events(pieces, query.stream))


@operations.add("GET", "/jobs/{job_id}/events", refusals=(404,), media_types=(SSE,))
async def follow_job(call: Call, job_id: JobId) -> ASGIApp:
    """The changes of one job's state, from its first or from after `Last-Event-ID`."""
    after = _resume_events(call)
    await call.grid.jobs.get(call.who, job_id)
    return EventStream(call, _states(call, job_id, after))


@operations.add("GET", "/events", media_types=(SSE,))
async def follow_jobs(call: Call) -> ASGIApp:
    """The changes of state of all the caller's jobs, from now or from after `Last-Event-ID`."""
    after = _resume_events(call)
    if after is None:  # before the answer begins: who has that misses nothing that comes behind it
        after = await call.grid.watch.newest_event(call.who)
    call.who.need(Scope.JOBS)
    return EventStream(call, _states(call, None, after))


def _resume(call: Call) -> str | None:
    """Behind which event to go on; empty is no id, though an unfollowed log would not look at it."""
    given = [value for name, value in call.scope["headers"] if name == b"last-event-id"]
    if not given:
        return None
    if not _EVENT_ID.fullmatch(given[0]):
        raise _no_event_id("1 to 200 visible ASCII characters")
    return given[0].decode("ascii")


def _no_event_id(message: str) -> InvalidInput:
    return InvalidInput(f"Last-Event-ID: {message}", [Detail("Last-Event-ID", message)])


async def _log_events(
    pieces: AsyncIterator[LogPiece | LogEnd], stream: str | None
) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if isinstance(piece, LogEnd):
            yield event("end", {"status": piece.status, "reason": piece.reason})
        elif stream is None or piece.stream == stream:
            data = {"offset": piece.offset, "text": piece.text, "attempt": piece.attempt}
            yield event(piece.stream, data, piece.event_id)


def _resume_events(call: Call) -> int | None:
    resume = _resume(call)
    if resume and not (resume.isdigit() and len(resume) <= 18):
        raise _no_event_id("the id of an event of this stream")
    return int(resume) if resume else None


async def _states(call: Call, job_id: str | None, after: int | None) -> AsyncIterator[bytes]:
    async for change in call.grid.watch.follow_events(call.who, job_id, after):
        yield event("state", _state(change), str(change.number))


def _state(change: JobEvent) -> dict[str, object]:
    return {
        "job_id": change.job_id,
        "status": change.status,
        "reason": change.reason,
        "attempt": change.attempt,
        "cancel_requested": change.cancel_requested,
        "at": to_rfc3339(change.at),
    }
