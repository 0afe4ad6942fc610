#!/usr/bin/env python3
"""Throw random and hostile requests at a running coordinator and see that nothing gives way.

Every answer must be below 500 and in the one error shape, and what may not have changed must not
have: the users, their balances, the ledger, the workers. What is well formed by chance is let
through only where it changes nothing.

    python scripts/fuzz_api.py --count 100000              a coordinator of its own on SQLite
    python scripts/fuzz_api.py --url URL --token TOKEN     one that runs already
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from gridx.clock import SystemClock
from gridx.config import load_settings
from gridx.coordinator.grid import initialise, issue_local_token
from gridx.server.app import policy_of, serving

ID = "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa"
ERROR_FIELDS = {"error", "code", "timestamp"}
HOSTILE_TEXTS = [
    "", "\0", "\ud800", "\uffff", "\U0010ffff", "\u202e", "\x1b[2J", "a" * 300, "é" * 5000,
    "'; DROP TABLE jobs; --", "' OR '1'='1", "%00", "%s%n", "../../etc/passwd", "${7*7}", "{{7*7}}",
    "<script>", "\r\nSet-Cookie: a=b", "NaN", "null", "true", "-1", "1e999", "0x1", "٣", ID,
]  # fmt: skip
HOSTILE_NUMBERS: list[Any] = [
    0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.1, -0.0, 1e308, 1e-308, True, False,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/users": {"user_id": "mallory", "password": "long enough", "invite": "x"},
    "/auth/token": {"user_id": "mallory", "password": "long enough"},
    "/auth/password": {"old": "long enough", "new": "long enough too"},
    "/invites": {"grant": "1", "expires_at": "2100-01-01T00:00:00Z"},
    "/auth/keys": {"name": "k", "scopes": ["jobs"], "expires_at": "2100-01-01T00:00:00Z"},
    "/jobs": {
        "code": "1", "language": "python", "args": ["a"], "env": {"K": "v"}, "stdin": "",
        "name": "n", "tags": ["t"], "resources": {"cpus": 1, "memory_mb": 256, "gpus": 0},
        "limits": {"timeout_s": 60, "output_bytes": 1, "processes": 1}, "require": {"os": "x"},
        "priority": 0, "max_attempts": 3, "retry_on_failure": False, "max_cost": "1",
    },
    "/workers/register": {
        "name": "w", "capabilities": {"resources": {"cpus": 1}, "labels": {"a": "b"}},
        "worker_id": ID, "owner_id": "mallory",
    },
    "/admin/broadcast": {"text": "hello"},
    "/credits/transfer": {"to": "mallory", "amount": "1", "memo": "m"},
    "/credits/grant": {"to": "mallory", "amount": "1", "memo": "m"},
}  # fmt: skip
GOOD["/jobs/batch"] = {"jobs": [GOOD["/jobs"], GOOD["/jobs"]]}
PATHS = [
    "/jobs/{}", "/jobs/{}/logs", "/jobs/{}/wait", "/jobs/{}/cancel", "/jobs/{}/retry",
    "/batches/{}/cancel", "/workers/{}", "/workers/{}/ban", "/auth/keys/{}", "/credits/{}",
    "/users/{}/unsuspend", "/{}", "/jobs?limit={}", "/jobs?cursor={}", "/jobs?{}=1",
    "/users?cursor={}", "/workers?cursor={}", "/jobs/" + ID + "/wait?timeout_s={}",
    "/jobs/" + ID + "/logs?stream={}", "/credits/admin/transactions?cursor={}",
]  # fmt: skip


@dataclass
class Request:
    """One request to try."""

    method: str
    path: str
    body: bytes
    headers: dict[str, bytes] = field(default_factory=dict[str, bytes])


class Generator:
    """Requests from a seed: always the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def request(self) -> Request:
        pick = self._random.random()
        if pick < 0.15:
            return self._address()
        path = self._random.choice(list(GOOD))
        body = self._bytes(path) if pick < 0.4 else self._mutant(path)
        headers: dict[str, bytes] = {}
        if self._random.random() < 0.1:
            headers["Idempotency-Key"] = self._header()
        if self._random.random() < 0.05:
            headers["Content-Type"] = self._header()
        return Request("POST", path, body, headers)

    def _address(self) -> Request:
        text = self._text().encode("utf-8", "surrogatepass")
        quoted = "".join(
            chr(b) if chr(b).isalnum() and b < 128 else f"%{b:02X}" for b in text[:2000]
        )
        method = self._random.choice(["GET", "GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
        path = self._random.choice(PATHS).format(quoted)
        return Request(method, path, b"")

    def _header(self) -> bytes:
        return bytes(self._random.choices(range(33, 127), k=self._random.choice([1, 200, 201])))

    def _bytes(self, path: str) -> bytes:
        raw = bytearray(json.dumps({**GOOD[path], "unknown": 1}).encode())
        match self._random.randrange(6):
            case 0:
                return self._random.randbytes(self._random.randrange(1, 200))
            case 1:
                return bytes(raw[: self._random.randrange(1, len(raw))])
            case 2:
                for _ in range(self._random.randrange(1, 8)):
                    raw[self._random.randrange(len(raw))] = self._random.randrange(256)
                return bytes(raw)
            case 3:
                depth = self._random.choice([10, 1000, 20_000])
                return b'{"a":' + self._random.choice([b"[", b'{"a":']) * depth
            case 4:
                at = self._random.randrange(len(raw))
                return bytes(raw[:at]) + self._random.randbytes(4) + bytes(raw[at:])
            case _:
                return bytes(raw) + self._random.choice([b"}", b"{}", b"\0", b" x", b",", b"\xff"])

    def _mutant(self, path: str) -> bytes:
        body = json.loads(json.dumps(GOOD[path]))
        for _ in range(self._random.choice([1, 1, 1, 2, 5])):
            self._mutate(body)
        # One field that nobody knows, so that what is well formed by chance changes nothing.
        if isinstance(body, dict):
            body["unknown"] = self._value(2)
        return json.dumps(body, ensure_ascii=self._random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )

    def _mutate(self, node: Any) -> None:
        while True:
            keys: list[Any] = [*node] if hasattr(node, "keys") else [*range(len(node))]
            if not keys:
                return
            key = self._random.choice(keys)
            if type(node[key]) in {dict, list} and self._random.random() < 0.6:
                node = node[key]
                continue
            match self._random.randrange(4):
                case 0 if hasattr(node, "keys"):
                    node[self._text()] = node.pop(key)
                case 1:
                    del node[key]
                case _:
                    node[key] = self._value(3)
            return

    def _value(self, depth: int) -> Any:
        makers: list[Callable[[], Any]] = [
            self._text,
            lambda: self._random.choice(HOSTILE_NUMBERS),
            lambda: None,
            lambda: self._random.randrange(-(10**6), 10**6),
        ]
        if depth:
            makers += [
                lambda: [self._value(depth - 1) for _ in range(self._random.randrange(5))],
                lambda: {self._text(): self._value(depth - 1) for _ in range(3)},
            ]
        return self._random.choice(makers)()

    def _text(self) -> str:
        if self._random.random() < 0.7:
            return self._random.choice(HOSTILE_TEXTS)
        return "".join(map(chr, self._random.choices(range(0x300), k=self._random.randrange(30))))


@dataclass
class Campaign:
    """What was sent and what came back."""

    answers: Counter[int] = field(default_factory=Counter[int])
    faults: list[str] = field(default_factory=list[str])

    def look_at(self, request: Request, answer: httpx2.Response) -> None:
        status = answer.status_code
        self.answers[status] += 1
        if status >= 500:
            self._fault(request, answer, "a server error")
        elif status in {200, 201, 204} and request.method == "POST":
            self._fault(request, answer, "taken, although it has an unknown field")
        elif status >= 400 and request.method != "HEAD":
            body: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                body = answer.json()
            if not ERROR_FIELDS <= set(body) <= ERROR_FIELDS | {"details"}:
                self._fault(request, answer, "not the error shape")
            elif body["code"] != status or "Traceback" in answer.text:
                self._fault(request, answer, "the wrong code or a stack trace")
            elif len(answer.content) > 20_000:
                self._fault(request, answer, "an answer as large as the question")

    def _fault(self, request: Request, answer: httpx2.Response, what: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(
                f"{what}: {answer.status_code} to {request.method} {request.path} "
                f"{request.body[:300]!r}: {answer.text[:300]}"
            )


async def attack(url: str, token: str, count: int, seed: int, clients: int = 8) -> Campaign:
    """Send `count` requests of `seed` to a coordinator, as an administrator."""
    campaign = Campaign()
    generator = Generator(seed)
    left = iter(range(count))
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        authorization = {"Authorization": f"Bearer {token}"}
        before = await fingerprint(client, authorization)

        async def one() -> None:
            for _ in left:
                request = generator.request()
                headers = {**authorization, **request.headers}
                answer = await client.request(
                    request.method, request.path, content=request.body,
                    headers=[(k.encode(), v if isinstance(v, bytes) else v.encode())
                             for k, v in headers.items()],
                )  # fmt: skip
                campaign.look_at(request, answer)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(one())
        after = await fingerprint(client, authorization)
    if before != after:
        campaign.faults.append(f"something changed: {before} is now {after}")
    return campaign


async def fingerprint(client: httpx2.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    """What must be the same before and after."""
    found: dict[str, Any] = {}
    for path in ("/users?limit=500", "/workers?limit=500", "/jobs?limit=500", "/auth/keys"):
        found[path] = (await client.get(path, headers=headers)).json()["items"]
    found["ledger"] = (await client.get("/admin/ledger/verify", headers=headers)).json()
    return found


@contextlib.asynccontextmanager
async def coordinator() -> AsyncGenerator[tuple[str, str]]:
    """A coordinator of one's own: its address and its administrator's token."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "storage.url": f"sqlite:///{Path(folder) / 'grid.db'}",
            "server.port": 0,
            "server.logins_per_minute_loopback": 10**9,
        }
        settings = load_settings(flags, environ={})
        await initialise(policy_of(settings), SystemClock(), "admin", "administrator")
        async with serving(settings, SystemClock()) as it:
            yield it.url, await issue_local_token(it.grid, "admin")


async def campaign_of(options: argparse.Namespace) -> Campaign:
    if options.url:
        return await attack(options.url, options.token, options.count, options.seed)
    async with coordinator() as (url, token):
        return await attack(url, token, options.count, options.seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="a coordinator that runs; else one is started")
    parser.add_argument("--token", help="an administrator's token there")
    options = parser.parse_args()
    found = asyncio.run(campaign_of(options))
    for status, times in sorted(found.answers.items()):
        print(f"{status}  {times:>8,}")
    for fault in found.faults:
        print(fault)
    print(f"{found.answers.total():,} requests, seed {options.seed}, {len(found.faults)} faults")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
