"""What a stream of a coordinator tells: pieces of a job's log, its end, changes of state. Pure."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from gridx.domain.errors import Unavailable


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class LogPiece(_Data):
    """Some text a job wrote; `offset` counts the bytes of its stream before it."""

    stream: str
    offset: int
    text: str
    attempt: int = 1


class LogEnd(_Data):
    """The job is final and its log complete."""

    status: str
    reason: str | None = None


class JobEvent(_Data):
    """A job's state changed."""

    job_id: str
    status: str
    reason: str | None = None
    attempt: int | None = None
    at: str | None = None
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A Server-Sent Event as it came."""

    kind: str
    data: str


def read_log(event: Sent) -> LogPiece | LogEnd | None:
    """What an event of `logs?follow=true` says; None for one this version does not know."""
    try:
        if event.kind == "end":
            return LogEnd.model_validate_json(event.data)
        if event.kind in ("stdout", "stderr"):
            piece = _Piece.model_validate_json(event.data)
            return LogPiece(
                stream=event.kind, offset=piece.offset, text=piece.text, attempt=piece.attempt
            )
    except ValueError:
        raise _nonsense(event) from None
    return None


def read_change(event: Sent) -> JobEvent | None:
    """What an event of `/events` says; None for one this version does not know."""
    if not event.data.startswith("{") or '"job_id"' not in event.data:
        return None
    try:
        return JobEvent.model_validate_json(event.data)
    except ValueError:
        raise _nonsense(event) from None


class _Piece(_Data):
    offset: int
    text: str
    attempt: int = 1


def _nonsense(event: Sent) -> Unavailable:
    return Unavailable(
        f"The coordinator sent a {event.kind!r} event that this version of Grid-X cannot read: "
        "bring client and coordinator to the same version"
    )
