"""Server-Sent Events: logs and state changes as they happen, and where one left off."""

import itertools
from contextlib import ExitStack
from itertools import pairwise

from tests.e2e.house import House
from tests.e2e.people import Person, Told

COUNTS = """
import sys, time
for number in range(5):
    print("line", number, flush=True)
    time.sleep(0.15)
print("end", file=sys.stderr)
"""


def states(events: list[Told]) -> list[str]:
    return [event.data["status"] for event in events]


def text(events: list[Told], stream: str) -> str:
    return "".join(event.data["text"] for event in events if event.event == stream)


def test_a_log_is_followed_to_its_end(alice: Person) -> None:
    job_id = alice.submit(COUNTS)
    events = alice.told(f"/jobs/{job_id}/logs?follow=true")
    assert text(events, "stdout") == "".join(f"line {n}\n" for n in range(5))
    assert text(events, "stderr") == "end\n"
    assert (events[-1].event, events[-1].data) == ("end", {"status": "succeeded", "reason": None})
    only = alice.told(f"/jobs/{job_id}/logs?follow=true&stream=stderr")
    assert [event.event for event in only] == ["stderr", "end"]


def test_a_log_comes_as_it_is_written(alice: Person) -> None:
    """The second piece is not written before the first one was read here."""
    job_id = alice.submit("trap 'echo told; exit' TERM; echo up; sleep 60 & wait", language="bash")
    with alice.stream(f"/jobs/{job_id}/logs?follow=true") as events:
        pieces = [next(events)]
        alice.cancel(job_id)
        *more, end = events
    pieces += more
    assert text(pieces, "stdout") == "up\ntold\n"
    assert pieces[0].data["offset"] == 0
    for one, next_one in pairwise(pieces):
        assert next_one.data["offset"] == one.data["offset"] + len(one.data["text"])
    assert (end.event, end.data["status"]) == ("end", "cancelled")


def test_a_log_resumes_where_it_was_left(alice: Person) -> None:
    job_id = alice.submit(COUNTS)
    path = f"/jobs/{job_id}/logs?follow=true"
    with alice.stream(path) as events:
        first = [next(event for event in events if event.event == "stdout")]
    rest = alice.told(path, first[0].event_id)
    assert text(first + rest, "stdout") == "".join(f"line {n}\n" for n in range(5))
    whole = alice.told(path)
    for index, event in enumerate(whole[:-1]):
        again = alice.told(path, event.event_id)
        for stream in ("stdout", "stderr"):
            assert text(whole[: index + 1] + again, stream) == text(whole, stream)
    assert alice.refused("GET", path.replace("true", "perhaps"))[0] == 400


def test_a_job_s_changes(alice: Person) -> None:
    job_id = alice.submit("import time; time.sleep(0.3)", require={"os": "linux"})
    events = alice.told(f"/jobs/{job_id}/events")
    assert states(events) == ["queued", "running", "succeeded"]
    assert {event.data["job_id"] for event in events} == {job_id}
    later = alice.told(f"/jobs/{job_id}/events", events[0].event_id)
    assert states(later) == ["running", "succeeded"]
    assert alice.told(f"/jobs/{job_id}/events", events[-1].event_id) == []


def test_all_changes_of_one_user_and_nobody_else_s(house: House, alice: Person) -> None:
    other = house.person()
    with alice.stream("/events") as events:
        other.run()
        mine = alice.submit()
        heard = list(itertools.islice(events, 3))
    assert {event.data["job_id"] for event in heard} == {mine}
    assert states(heard) == ["queued", "running", "succeeded"]
    second = alice.submit("exit 3", language="bash")
    with alice.stream("/events", heard[1].event_id) as events:
        resumed = list(itertools.islice(events, 4))
    assert [event.data["job_id"] for event in resumed] == [mine, second, second, second]
    assert states(resumed) == ["succeeded", "queued", "running", "failed"]
    assert resumed[-1].data["reason"] == "exit_code"


def test_a_stream_ends_with_its_token(house: House, alice: Person) -> None:
    job_id = alice.submit(require={"label:site": "nowhere"})
    leaver = house.log_in(alice.user_id)
    paths = ("/events", f"/jobs/{job_id}/logs?follow=true", f"/jobs/{job_id}/events")
    with ExitStack() as streams:
        followed = [streams.enter_context(leaver.stream(path)) for path in paths]
        assert leaver.call("DELETE", "/auth/token").status_code < 300
        for events in followed:
            list(events)
    assert leaver.get("/jobs").status_code == 401
    alice.cancel(job_id)


def test_streams_are_the_business_of_their_owner(house: House, alice: Person) -> None:
    job_id = alice.submit(require={"label:site": "nowhere"})
    other = house.person()
    for path in ("logs?follow=true", "events", "logs", "wait"):
        assert other.refused("GET", f"/jobs/{job_id}/{path}")[0] == 403, path
    nobody = Person(house.url, "", "")
    for path in (f"/jobs/{job_id}/logs?follow=true", "/events", "/jobs/nope/events"):
        assert nobody.refused("GET", path)[0] == 401, path
    nobody.close()
    alice.cancel(job_id)
