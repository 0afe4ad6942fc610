"""Server-Sent Events: an answer that goes on until its source, its reader or its token ends.

One task sends what the source yields. Beside it run four small ones, each of which can end the
stream: one waits for the client to go, one for the server to end, one asks every few seconds whether
the token still holds, and one sends a comment when nothing was sent for a while, so that proxies do
not cut the line. Whatever ends first ends all of them.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from gridx.domain.errors import GridError, Unauthenticated
from gridx.server.operation import Call, Parts
from gridx.telemetry import get_logger

KEEP_ALIVE_S = 15.0
TOKEN_CHECK_S = 2.0
FIRST_ITEM_S = 0.05

_log = get_logger(__name__)


class _Over(Exception):
    """The stream is over, for a good reason."""


def event(name: str, data: Mapping[str, object], event_id: str | None = None) -> bytes:
    """One event as it goes over the wire."""
    head = f"event: {name}\n" if event_id is None else f"event: {name}\nid: {event_id}\n"
    return f"{head}data: {json.dumps(data)}\n\n".encode()


@dataclass(slots=True)
class EventStream:
    """The answer that sends what `source` yields, each item one or more whole events.

    A refusal of the source's first step is raised before anything is sent; a later one ends the
    stream.
    """

    call: Call
    source: AsyncIterator[bytes]
    _sent: int = 0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self.call.parts.streams.take():
            try:
                async with asyncio.TaskGroup() as group:
                    first = group.create_task(_first(self.source))
                    await asyncio.wait({first}, timeout=FIRST_ITEM_S)
                    if first.done():
                        first.result()
                    await self._start(send)
                    group.create_task(self._until_gone(receive))
                    group.create_task(self._until_closing())
                    group.create_task(self._until_revoked())
                    group.create_task(self._keep_alive(send))
                    await self._pump(await first, send)
                    raise _Over
            except* _Over:
                pass
            except* GridError as refusals:
                refusal = _refusal(refusals)
                if not self._sent:
                    raise refusal from None
                _log.info("stream_ended", refusal=refusal.message)
            finally:
                await _close(self.source)
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send) -> None:
        self._sent = 1
        headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})

    async def _pump(self, item: bytes | None, send: Send) -> None:
        while item is not None:
            self._sent += 1
            await send({"type": "http.response.body", "body": item, "more_body": True})
            item = await _first(self.source)

    async def _keep_alive(self, send: Send) -> None:
        while True:
            before = self._sent
            await self.call.parts.clock.sleep(KEEP_ALIVE_S)
            if self._sent == before:
                body = b": keep-alive\n\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise _Over

    async def _until_closing(self) -> None:
        await self.call.parts.closing.wait()
        raise _Over

    async def _until_revoked(self) -> None:
        await until_revoked(self.call.parts, self.call.token)
        raise _Over


async def until_revoked(parts: Parts, token: str) -> None:
    """Return once the token no longer holds; a store that is away proves nothing."""
    while True:
        await parts.clock.sleep(TOKEN_CHECK_S)
        try:
            await parts.grid.users.authenticate(token)
        except Unauthenticated:
            return
        except GridError:
            continue


def _refusal(group: ExceptionGroup[GridError]) -> GridError:
    first = group.exceptions[0]
    return first if isinstance(first, GridError) else _refusal(first)


async def _first(source: AsyncIterator[bytes]) -> bytes | None:
    return await anext(source, None)


async def _close(source: AsyncIterator[bytes]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
