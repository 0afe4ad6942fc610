"""Server-Sent Events: what comes, where it resumes, and what ends it."""

import contextlib
import json
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.server.running import Api, Running, running, settings_for
from tests.server.socket_worker import SocketWorker, worker


@dataclass
class Event:
    """One event of a stream."""

    name: str
    event_id: str | None
    data: dict[str, object]


@contextlib.contextmanager
def following(api: Api, path: str, last: str | None = None) -> Generator[Iterator[Event]]:
    """The events of a stream while inside."""
    headers = {"Authorization": f"Bearer {api.token}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    with (
        httpx2.Client(base_url=api.client.base_url, timeout=20) as client,
        client.stream("GET", path, headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        yield events(answer.iter_lines())


def events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}


@pytest.fixture
def at_work(shared: Running, alice: Api) -> Generator[SocketWorker]:
    """A worker of alice's own, so that her jobs come here."""
    with worker(shared, alice.token) as it:
        yield it


def test_logs_are_followed_to_their_end_and_resumed(alice: Api, at_work: SocketWorker) -> None:
    job_id = alice.submit()
    attempt = at_work.assigned()
    at_work.start(attempt)
    at_work.log(attempt, 0, "héll".encode()[:2], "stdout")
    with following(alice, f"/jobs/{job_id}/logs?follow=true") as stream:
        at_work.log(attempt, 1, "héll".encode()[2:], "stdout")
        at_work.log(attempt, 2, b"oops\xff\n", "stderr")
        found = [next(stream)]
        while found[-1].name != "stderr":
            found.append(next(stream))
        at_work.log(attempt, 3, b"o\n", "stdout")
        at_work.end(attempt, 3)
        found += list(stream)

    text: dict[str, str] = {"stdout": "", "stderr": ""}
    for event in found[:-1]:
        text[event.name] += str(event.data["text"])
        assert isinstance(event.data["offset"], int)
    assert text == {"stdout": "héllo\n", "stderr": "oops\ufffd\n"}
    assert found[-1].name == "end"
    assert found[-1].data == {"status": "failed", "reason": "exit_code"}

    last = next(event for event in found if event.name == "stderr")
    with following(alice, f"/jobs/{job_id}/logs?follow=true", last.event_id) as stream:
        rest = list(stream)
    assert [event.data.get("text") for event in rest] == ["o\n", None]
    with following(alice, f"/jobs/{job_id}/logs?follow=true&stream=stderr") as stream:
        only = list(stream)
    assert [event.name for event in only] == ["stderr", "end"]


def test_the_states_of_a_job_are_followed_and_resumed(alice: Api, at_work: SocketWorker) -> None:
    job_id = alice.submit()
    with following(alice, f"/jobs/{job_id}/events") as stream:
        attempt = at_work.assigned()
        at_work.start(attempt)
        at_work.finish(attempt)
        found = list(stream)

    assert [event.data["status"] for event in found] == ["queued", "running", "succeeded"]
    assert {event.data["job_id"] for event in found} == {job_id}
    assert {event.name for event in found} == {"state"}
    with following(alice, f"/jobs/{job_id}/events", found[0].event_id) as stream:
        assert list(stream) == found[1:]


def test_all_of_ones_jobs_are_followed_and_nobody_elses(shared: Running, alice: Api) -> None:
    other = shared.user()
    before = alice.submit()
    with following(alice, "/events") as stream:
        other.submit()
        job_id = alice.submit()
        alice.post(f"/jobs/{job_id}/cancel")
        found = [next(stream), next(stream)]
    assert [(e.data["job_id"], e.data["status"]) for e in found] == [
        (job_id, "queued"), (job_id, "cancelled"),
    ]  # fmt: skip
    assert before not in str(found)
    with following(alice, "/events", "0") as stream:
        assert next(stream).data["job_id"] == before


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/events", "x"), ("/events", "-1"), ("/events", "1" * 30), ("/events", "1 2"),
        ("/jobs/{job}/logs", ""), ("/events", ""), ("/jobs/{job}/events", "1.5"), ("/jobs/{job}/logs?follow=true", "nonsense"),
        ("/jobs/{job}/logs?follow=true", "1.2"), ("/jobs/{job}/logs?follow=true", "x" * 5000),
    ],
)  # fmt: skip
def test_a_bad_place_to_resume_from_is_refused(alice: Api, path: str, last: str) -> None:
    url = path.replace("{job}", alice.submit())

    answer = alice.get(url, headers={"Last-Event-ID": last})

    assert answer.status_code == 400, answer.text
    assert answer.json()["details"][0]["field"] == "Last-Event-ID"


def test_a_stream_ends_with_its_token(shared: Running, alice: Api) -> None:
    watcher = shared.log_in(alice.user_id)
    job_id = alice.submit()
    paths = ("/events", f"/jobs/{job_id}/logs?follow=true", f"/jobs/{job_id}/events")
    with contextlib.ExitStack() as stack:
        tokens = [shared.log_in(alice.user_id) for _ in paths]
        streams = [
            stack.enter_context(following(token, path))
            for token, path in zip(tokens, paths, strict=True)
        ]
        for token in tokens:
            token.delete("/auth/token")
        for stream in streams:
            for event in stream:
                assert event.name == "state"
    assert watcher.get("/jobs").status_code == 200


def test_a_client_that_goes_away_leaves_nothing_behind(shared: Running, alice: Api) -> None:
    streams = shared.serving.parts.streams
    shared.quiet()  # of what the test before this one left
    with following(alice, "/events"), following(alice, "/events"):
        assert streams.taken == 2
    shared.quiet()
    assert streams.taken == 0


def test_streams_and_waits_are_bounded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'g.db'}"
    with running(settings_for(url, {"server.streams_max": 2})) as it:
        alice = it.user()
        job_id = alice.submit()
        with following(alice, "/events"), following(alice, "/events"):
            for path in ("/events", f"/jobs/{job_id}/wait"):
                answer = alice.get(path)
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"] == "1"
            assert alice.get("/jobs").status_code == 200


def test_the_end_of_the_server_ends_streams_waits_and_sockets(tmp_path: Path) -> None:
    ended: dict[str, object] = {}

    def follow(api: Api, path: str, opened: threading.Event) -> None:
        with following(api, path) as stream:
            opened.set()
            ended[path] = [event.name for event in stream]

    def wait(api: Api, path: str, opened: threading.Event) -> None:
        with httpx2.Client(base_url=api.client.base_url, timeout=20) as client:
            opened.set()
            headers = {"Authorization": f"Bearer {api.token}"}
            ended["wait"] = client.get(path, headers=headers).status_code

    threads: list[threading.Thread] = []
    with running(settings_for(f"sqlite:///{tmp_path / 'g.db'}")) as it:
        alice = it.user()
        job_id = alice.submit(resources={"gpus": 1}, limits={"timeout_s": 1})
        for work, path in (
            (follow, "/events"),
            (follow, f"/jobs/{job_id}/logs?follow=true"),
            (wait, f"/jobs/{job_id}/wait?timeout_s=60"),
        ):
            opened = threading.Event()
            threads.append(threading.Thread(target=work, args=(alice, path, opened)))
            threads[-1].start()
            assert opened.wait(20)
        slots = it.serving.parts.streams
        while slots.taken < 3:
            it.client.get("/status")
        with worker(it, alice.token) as socket:
            loop = threading.Thread(target=lambda: ended.update(socket=socket.closing()))
            loop.start()
            threads.append(loop)
            it.stop()
            for thread in threads:
                thread.join(20)

    assert ended == {
        "/events": [],
        f"/jobs/{job_id}/logs?follow=true": [],
        "wait": 503,
        "socket": (1001, "shutting down"),
    }
