"""Requests and answers as values."""

import json

import pytest

from gridx.client import calls
from gridx.client.events import LogEnd, LogPiece, Sent, read_change, read_log
from gridx.domain.errors import (
    Conflict,
    Denied,
    GridError,
    InsufficientCredits,
    InvalidInput,
    KeyReused,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

BODY = b'{"error": "What is wrong.", "code": 0, "timestamp": "x", "details": []}'
CLASSES: list[tuple[int, type[GridError]]] = [
    (400, InvalidInput),
    (401, Unauthenticated),
    (402, InsufficientCredits),
    (403, Denied),
    (404, NotFound),
    (409, Conflict),
    (413, TooLarge),
    (422, KeyReused),
    (429, RateLimited),
    (503, Unavailable),
    (502, Unavailable),
]


@pytest.mark.parametrize(("status", "kind"), CLASSES)
def test_an_error_answer_raises_the_class_the_coordinator_raised(
    status: int, kind: type[GridError]
) -> None:
    with pytest.raises(kind, match=r"What is wrong\."):
        calls.status().answer(status, BODY, None)


def test_a_rate_limit_says_when_to_come_back() -> None:
    with pytest.raises(RateLimited) as caught:
        calls.status().answer(429, BODY, "7")
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("content", [b"", b"<html>Bad gateway</html>", b"[1]", b"\xff"])
def test_an_error_of_another_shape_is_still_an_error(content: bytes) -> None:
    with pytest.raises(Unavailable, match="status 502"):
        calls.status().answer(502, content, "soon")


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"{}"])
def test_a_good_status_with_nonsense_is_no_answer(content: bytes) -> None:
    with pytest.raises(Unavailable, match="not one of this version"):
        calls.status().answer(200, content, None)


def test_ids_cannot_leave_their_place_in_a_path() -> None:
    assert calls.job("../users?x=1").path == "/jobs/..%2Fusers%3Fx%3D1"
    assert calls.balance("a/b").path == "/credits/a%2Fb"


def test_what_was_not_asked_for_is_not_sent() -> None:
    assert calls.jobs(status="queued").query == {"status": "queued", "limit": "100"}
    body = calls.transfer("bob", "1", None, "key").content
    assert json.loads(body or b"") == {"to": "bob", "amount": "1"}


def test_a_call_is_repeatable_when_doing_it_twice_is_doing_it_once() -> None:
    assert calls.jobs().repeatable
    assert calls.submit({"code": "1"}, "key").repeatable
    assert calls.change_worker("w", "pause").repeatable
    assert not calls.broadcast("noon").repeatable
    assert not calls.cancel("j").repeatable
    assert not calls.log_out().repeatable


def test_the_key_goes_into_its_header() -> None:
    assert calls.submit({"code": "1"}, "k-1").headers["Idempotency-Key"] == "k-1"
    assert "Idempotency-Key" not in calls.jobs().headers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_say_is_refused_before_it_is_sent(value: object) -> None:
    call = calls.Call("POST", "/jobs", bytes, body={"limit": value})
    with pytest.raises(InvalidInput, match="cannot be sent as JSON"):
        assert call.content


def test_a_command_brings_its_own_language() -> None:
    assert calls.job_request("", "python", {"command": "ls"}) == {"command": "ls"}
    assert calls.job_request("1", "python", {}) == {"code": "1", "language": "python"}
    assert calls.job_request("", "python", {}) == {"code": "", "language": "python"}


def test_events_are_read() -> None:
    piece = read_log(Sent("stderr", '{"offset": 3, "text": "x", "attempt": 2, "more": 1}'))
    assert piece == LogPiece(stream="stderr", offset=3, text="x", attempt=2)
    assert read_log(Sent("end", '{"status": "failed", "reason": "timeout"}')) == LogEnd(
        status="failed", reason="timeout"
    )
    assert read_log(Sent("news", "{}")) is None
    change = read_change(Sent("status", '{"job_id": "j", "status": "running"}'))
    assert change is not None
    assert (change.job_id, change.status) == ("j", "running")
    assert read_change(Sent("status", "{}")) is None


def test_an_event_that_cannot_be_read_is_told() -> None:
    with pytest.raises(Unavailable, match="same version"):
        read_log(Sent("stdout", "{"))
    with pytest.raises(Unavailable, match="same version"):
        read_change(Sent("status", '{"job_id": 1}'))
