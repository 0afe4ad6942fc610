"""Somebody who speaks to the API in plain HTTP, and knows nothing but the contract.

Waiting is done on the API itself: `wait` for a job's end, streams for what happens, and `until` for
a condition that nothing announces.
"""

import json
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.support.waiting import WITHIN_S, until

Json = dict[str, Any]
FINAL = ("succeeded", "failed", "cancelled")
PASSWORD = "correct horse"
FINAL_S = 60.0
SOON_S = 10.0
"""Two seconds are meant; a loaded machine gets more."""


def soon(ask: Callable[[], tuple[int, str]]) -> str:
    """What is said with a 503 that comes soon."""
    began = time.monotonic()
    status, words = ask()
    assert status == 503, words
    assert time.monotonic() - began < SOON_S
    return words


@dataclass(frozen=True)
class Told:
    """One event of a stream."""

    event_id: str | None
    event: str
    data: Json


class Person:
    """One user with one token."""

    def __init__(
        self, url: str, user_id: str, token: str, verify: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        self.user_id = user_id
        self.token = token
        self._client = httpx2.Client(
            base_url=url, timeout=75, trust_env=False, verify=verify or True
        )

    def close(self) -> None:
        self._client.close()

    def call(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **more: Any
    ) -> httpx2.Response:
        """One request as this user; `key` is an idempotency key."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            more["json"] = body
        headers |= more.pop("headers", {})
        return self._client.request(method, path, headers=headers, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, body: object = None, **more: Any) -> httpx2.Response:
        return self.call("POST", path, body, **more)

    def ask(self, path: str) -> Json:
        """What a path that must answer 200 says."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tell(self, path: str, body: object = None, status: int = 200) -> Json:
        """What a POST that must answer `status` says."""
        answer = self.post(path, body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and words of an error answer, whose shape is checked."""
        answer = self.call(method, path, body)
        return refusal(answer)

    def items(self, path: str) -> list[Json]:
        """Every item of a list, over all its pages."""
        found: list[Json] = []
        cursor = ""
        while True:
            page = self.ask(
                f"{path}{'&' if '?' in path else '?'}cursor={cursor}" if cursor else path
            )
            found += page["items"]
            if not page["next_cursor"]:
                return found
            cursor = page["next_cursor"]

    # ------------------------------------------------------------------ jobs

    def submit(self, program: str | None = None, /, **spec: object) -> str:
        """Submit a job; its id."""
        if program is not None:
            spec["code"] = program
        elif "command" not in spec:
            spec.setdefault("code", "print(1)")
        return self.tell("/jobs", spec, 201)["job_id"]

    def job(self, job_id: str) -> Json:
        return self.ask(f"/jobs/{job_id}")

    def final(self, job_id: str, within_s: float = FINAL_S) -> Json:
        """The whole job once it is final."""
        job = self.ask(f"/jobs/{job_id}/wait?timeout_s={within_s:g}")
        assert job["status"] in FINAL, f"not final within {within_s} s: {job}"
        return job

    def run(self, program: str | None = None, /, **spec: object) -> Json:
        """Submit a job and wait for its end."""
        return self.final(self.submit(program, **spec))

    def running(self, job_id: str, within_s: float = WITHIN_S) -> Json:
        """The whole job once it runs."""
        return self.at(job_id, "running", within_s)

    def at(self, job_id: str, status: str, within_s: float = WITHIN_S) -> Json:
        """The whole job once it is in this state."""

        def there() -> Json | None:
            job = self.job(job_id)
            return job if job["status"] == status else None

        return until(there, f"job {job_id} is {status}", within_s)

    def printed(self, job_id: str, text: str, within_s: float = WITHIN_S) -> None:
        """Wait until the job's log holds `text`."""
        until(lambda: text in self.get(f"/jobs/{job_id}/logs").text, f"{text!r} printed", within_s)

    def cancel(self, job_id: str) -> Json:
        return self.tell(f"/jobs/{job_id}/cancel")

    def balance(self) -> Json:
        return self.ask(f"/credits/{self.user_id}")

    # ------------------------------------------------------------------ streams

    @contextmanager
    def stream(self, path: str, last: str | None = None) -> Generator[Generator[Told]]:
        """The events of a stream that must be accepted, one after another."""
        headers = {"Authorization": f"Bearer {self.token}"}
        if last is not None:
            headers["Last-Event-ID"] = last
        with self._client.stream("GET", path, headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield _events(answer)

    def told(self, path: str, last: str | None = None) -> list[Told]:
        """All events of a stream that ends by itself."""
        with self.stream(path, last) as events:
            return list(events)


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    """Status and words of an error answer, in the one shape there is."""
    body = answer.json()
    assert set(body) <= {"error", "code", "timestamp", "details"}, body
    assert body["code"] == answer.status_code >= 400
    assert body["timestamp"].endswith("Z") or body["timestamp"].endswith("+00:00")
    assert isinstance(body["error"], str) and body["error"]
    assert "Traceback" not in answer.text
    for detail in body.get("details", []):
        assert set(detail) == {"field", "message"}
    return answer.status_code, body["error"]


def _events(answer: httpx2.Response) -> Generator[Told]:
    event_id: str | None = None
    event, data = "message", list[str]()
    for line in answer.iter_lines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield Told(event_id, event, json.loads("\n".join(data)))
        if not line:
            event, data = "message", []
        elif name == "id":
            event_id = value
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
