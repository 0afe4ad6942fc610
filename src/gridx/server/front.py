"""What every request passes first: its envelope, and the table that finds its operation.

`Envelope` gives each answer its headers and its request id, and turns what nobody expected into a
500 of our shape. `Dispatch` finds the operation of a path and a method, and knows 404 from 405.
A WebSocket that is not let in is answered like any other request.
"""

import itertools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from gridx.clock import Clock
from gridx.server import answers
from gridx.server.operation import Operation
from gridx.telemetry import bound, get_logger

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_log = get_logger(__name__)


class Envelope:
    """Gives each answer its headers and request id, and each bug a 500 and a line in the log."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        # A name of this start of the server and a count: unlike fresh randomness, that is free.
        self._start = clock.new_id()[:18]
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
        if _REQUEST_ID.fullmatch(given):
            request_id = given.decode()
        else:
            request_id = f"{self._start}-{next(self._count):08x}"
        status = 0

        async def send_in_envelope(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                headers = [*message["headers"], *_HEADERS, (b"x-request-id", request_id.encode())]
                if not any(name == _POLICY[0] for name, _ in message["headers"]):
                    headers.append(_POLICY)
                message["headers"] = headers
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        method = scope.get("method", "GET")
        with bound(request_id=request_id):
            try:
                await self._app(scope, receive, send_in_envelope)
            except ClientDisconnected:
                pass  # before its WebSocket was open, or denied
            except Exception:
                _log.exception("request_failed", method=method, path=scope["path"][:200])
                if status:
                    raise
                answer = answers.of_problem(
                    500,
                    "The coordinator failed: its log has the story under this request's id",
                    self._clock.now(),
                )
                await answer(scope, receive, send_in_envelope)
            if logging.root.isEnabledFor(logging.DEBUG):
                path = scope["path"][:200]
                _log.debug("request", method=method, path=path, status=status)


@dataclass(slots=True)
class Table:
    """All operations by path: a tree of segments, with one branch for an id."""

    branches: dict[str, "Table"] = field(default_factory=dict[str, "Table"])
    any_id: "Table | None" = None
    operations: dict[str, Operation] = field(default_factory=dict[str, Operation])
    names: tuple[str, ...] = ()

    def add(self, operation: Operation) -> None:
        """Put an operation at its path."""
        node = self
        names: list[str] = []
        for segment in operation.path[1:].split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.any_id = node.any_id or Table()
                node = node.any_id
            else:
                node = node.branches.setdefault(segment, Table())
        node.names = tuple(names)
        node.operations[operation.declared.method] = operation

    def find(self, path: str) -> list[tuple["Table", tuple[str, ...]]]:
        """The places that `path` may mean, each with its ids; a fixed path comes first.

        Where a fixed path and one with an id both fit, the latter does only if its id is well
        formed: `/jobs/batch` is no job, but `/credits/transfer` may be a user's balance.
        """
        found: list[tuple[Table, tuple[str, ...]]] = [(self, ())]
        for segment in path[1:].split("/"):
            step: list[tuple[Table, tuple[str, ...]]] = []
            for node, ids in found:
                if (branch := node.branches.get(segment)) is not None:
                    step.append((branch, ids))
                if node.any_id is not None and segment:
                    step.append((node.any_id, (*ids, segment)))
            found = step
        found = [place for place in found if place[0].operations]
        return found if len(found) < 2 else [p for p in found if not p[1] or _well_formed(*p)]


def _well_formed(node: Table, ids: tuple[str, ...]) -> bool:
    operation = next(iter(node.operations.values()))
    return operation.accepts_ids(dict(zip(node.names, ids, strict=True)))


class Dispatch:
    """Hands each request to its operation; what the table does not know goes on to FastAPI."""

    def __init__(
        self, app: ASGIApp, table: Table, sockets: Mapping[str, ASGIApp], clock: Clock
    ) -> None:
        """`sockets` are the applications behind WebSockets, by path."""
        self._app = app
        self._table = table
        self._sockets = sockets
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            socket = self._sockets.get(scope["path"]) or self._no_path()
            await socket(scope, receive, send)
            return
        places = self._table.find(scope["path"])
        if not places:
            await self._app(scope, receive, send)
            return
        for node, ids in places:
            operation = node.operations.get(scope["method"])
            if operation is not None:
                scope["path_params"] = dict(zip(node.names, ids, strict=True))
                await operation.app(scope, receive, send)
                return
        allowed = sorted(places[0][0].operations)
        answer = answers.of_problem(
            405,
            f"This path knows {', '.join(allowed)} only",
            self._clock.now(),
            headers=((b"allow", ", ".join(allowed).encode()),),
        )
        await answer(scope, receive, send)

    def _no_path(self) -> ASGIApp:
        return answers.of_problem(404, answers.NO_PATH, self._clock.now())
