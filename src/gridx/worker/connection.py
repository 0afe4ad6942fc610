"""Getting through to a coordinator: addresses, credentials, and what to say when it fails.

`connect` opens one socket, `Dialer` keeps at it: address after address, with backoff and full
jitter, until one answers. Every trouble is a `GridError` whose text is for the person at the
machine; whether it passes by itself is its `retryable`.
"""

import asyncio
import ipaddress
import itertools
import json
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from gridx.clock import Clock, share_of
from gridx.domain.errors import (
    Denied,
    GridError,
    InvalidInput,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from gridx.protocol.frames import FRAME_BYTES_MAX, SUBPROTOCOL
from gridx.protocol.problem import from_answer
from gridx.telemetry import get_logger

ANSWER_S = 4.0
PING_S = 10.0
TRY_AGAIN_S = 0.5
BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 5.0
"""Well below a lease: a coordinator that comes back in time finds its workers before it gives up on
their attempts. A thousand workers make two hundred tries a second of it.
"""
BACKOFF_UNWELCOMED_S = 1.0  # somebody waits at the terminal, and it gives up after 10 s
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator is: `base` is its HTTP address without a slash at the end."""

    base: str
    host: str
    secure: bool

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From `http(s)://`, `ws(s)://` or bare `host:port`; `InvalidInput` for anything else."""
        full = text.strip() if "://" in text else f"http://{text.strip()}"
        scheme, _, rest = full.partition("://")
        web = {"http": "http", "ws": "http", "https": "https", "wss": "https"}.get(scheme.lower())
        try:
            parts = urlsplit(f"{web}://{rest}")
            host, _ = parts.hostname, parts.port
        except ValueError:
            web = host = None
        if web is None or not host or "@" in rest or "?" in rest or "#" in rest:
            raise InvalidInput(
                f"{text!r} is no address of a coordinator: give one like https://grid.example:8081"
            )
        return cls(f"{web}://{rest}".rstrip("/"), host, web == "https")

    @property
    def socket(self) -> str:
        return f"ws{self.base.removeprefix('http')}/ws/worker"

    @property
    def loopback(self) -> bool:
        """Whether it is this machine, as far as the address itself tells."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def refuse_plain(addresses: Sequence[Address]) -> None:
    """Raise `Denied` where a password or token would cross a network for everybody to read."""
    for address in addresses:
        if not (address.secure or address.loopback):
            raise Denied(
                f"No password or token is sent to {address.host} over plain HTTP: use "
                "https://, or --insecure if you trust the whole network in between."
            )


def trust(ca: Path | None) -> ssl.SSLContext:
    """The machine's certificate authorities, and those in the file `ca`."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(f"--ca {ca} holds no certificates: {error}") from None
    return context


async def log_in(
    address: Address,
    user_id: str,
    password: str,
    tls: ssl.SSLContext,
    timeout_s: float = ANSWER_S,
) -> str:
    """Exchange a password for a user's token. Raises the `GridError` of the refusal."""
    import httpx2

    verify = tls if address.secure else True
    limits = httpx2.Timeout(timeout_s)
    try:
        async with httpx2.AsyncClient(
            verify=verify, timeout=limits, trust_env=not address.loopback
        ) as client:
            answer = await client.post(
                f"{address.base}/auth/token", json={"user_id": user_id, "password": password}
            )
    except httpx2.TimeoutException:
        raise _silent(address) from None
    except httpx2.TransportError as error:
        raise _unreachable(address, error) from None
    body = _parsed(answer.content)
    if answer.status_code == 200 and body is not None and isinstance(body.get("token"), str):
        return cast(str, body["token"])
    raise _refusal(address, answer.status_code, body, answer.headers.get("retry-after"))


async def log_in_somewhere(
    addresses: Sequence[Address],
    user_id: str,
    password: str,
    tls: ssl.SSLContext,
    *,
    clock: Clock,
    give_up_at: float,
) -> str:
    """A user's token from the first coordinator that answers before the loop's `give_up_at`.

    Raises the `GridError` of the last trouble then, of a refusal that will not pass at once.
    """
    loop = asyncio.get_running_loop()
    for address in itertools.cycle(addresses):
        left_s = max(0.1, give_up_at - loop.time())
        try:
            return await log_in(address, user_id, password, tls, min(ANSWER_S, left_s))
        except GridError as error:
            if not error.retryable or loop.time() + TRY_AGAIN_S >= give_up_at:
                raise
        await clock.sleep(TRY_AGAIN_S)
    raise AssertionError("there is always an address")


async def connect(address: Address, token: str, tls: ssl.SSLContext) -> ClientConnection:
    """An open socket that speaks our subprotocol. Raises `GridError`."""
    secure: dict[str, Any] = {"ssl": tls} if address.secure else {}
    try:
        socket = await websocket(
            address.socket,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None if address.loopback else True,
            open_timeout=ANSWER_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            close_timeout=1.0,
            max_size=FRAME_BYTES_MAX,
            **secure,
        )
    except TimeoutError:
        raise _silent(address) from None
    except InvalidStatus as error:
        answer = error.response
        body = _parsed(bytes(answer.body))
        retry_after = answer.headers.get("retry-after")
        raise _refusal(address, answer.status_code, body, retry_after) from None
    except InvalidMessage as error:
        if isinstance(error.__cause__, EOFError):
            raise _unreachable(address, error.__cause__) from None
        raise _foreign(address, f"{error}") from None
    except (InvalidHandshake, InvalidURI) as error:
        raise _foreign(address, f"{error}") from None
    except OSError as error:
        raise _unreachable(address, error) from None
    if socket.subprotocol != SUBPROTOCOL:
        await socket.close()
        raise _foreign(address, f"it does not speak {SUBPROTOCOL}")
    return socket


class Dialer:
    """Keeps trying; `token` may be changed between two tries."""

    def __init__(
        self, addresses: Sequence[Address], token: str, tls: ssl.SSLContext, clock: Clock
    ) -> None:
        self.token = token
        self.trouble: GridError | None = None
        self.welcomed = False
        self._addresses = list(addresses)
        self._tls = tls
        self._clock = clock
        self._tries = 0

    async def dial(self) -> tuple[Address, ClientConnection]:
        """The next open socket, however long it takes.

        Raises the `GridError` of a refusal that will not pass: any such before the first welcome,
        afterwards only when the worker itself is not wanted any more.
        """
        while True:
            await self._back_off()
            address = self._addresses[self._tries % len(self._addresses)]
            self._tries += 1
            try:
                socket = await connect(address, self.token, self._tls)
            except GridError as error:
                if self.trouble is None or error.message != self.trouble.message:
                    _log.info("not_connected", url=address.base, why=error.message)
                self.trouble = error
                if self._final(error):
                    raise
            else:
                return address, socket

    def accepted(self) -> None:
        """The coordinator on the newest socket welcomed the worker: start with it next time."""
        self.welcomed = True
        self.trouble = None
        self._addresses = [*self._addresses[self._newest :], *self._addresses[: self._newest]]
        self._tries = 0

    def lost(self, why: GridError) -> None:
        """The newest socket is gone; the next try is not made at once."""
        self.trouble = why
        self._tries = max(self._tries, len(self._addresses))

    @property
    def _newest(self) -> int:
        return (self._tries - 1) % len(self._addresses)

    def _final(self, error: GridError) -> bool:
        if self.welcomed:
            return isinstance(error, Unauthenticated | Denied)
        return not error.retryable

    async def _back_off(self) -> None:
        """Nothing within a round of the addresses, a growing random while before each new one."""
        rounds, place = divmod(self._tries, len(self._addresses))
        if place or not rounds:
            return
        bound = backoff_bound_s(rounds) if self.welcomed else BACKOFF_UNWELCOMED_S
        delay = bound * share_of(self._clock.new_id())
        if isinstance(self.trouble, RateLimited):
            delay = max(delay, min(self.trouble.retry_after_s, BACKOFF_MAX_S))
        await self._clock.sleep(delay)


def backoff_bound_s(rounds: int) -> float:
    """The longest wait before round `rounds` (from 1); it doubles.

    The wait is evenly from nothing to it ("full jitter" of M. Brooker, Exponential Backoff and
    Jitter, AWS 2015), so that a thousand workers whose coordinator is back at once come over
    seconds.
    """
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(rounds - 1, 20))


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return cast(dict[str, Any], body) if isinstance(body, dict) else None


def _refusal(
    address: Address, status: int, body: dict[str, Any] | None, retry_after: str | None
) -> GridError:
    if body is None and status not in (401, 403, 429) and status < 500:
        return _foreign(address, f"it answers {status}")
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
    error = from_answer(status, body, seconds)
    if isinstance(error, RateLimited):
        return RateLimited(
            f"The coordinator at {address.base} takes no more tries for now: {error.message}",
            error.retry_after_s,
        )
    if isinstance(error, Unavailable):
        return Unavailable(f"The coordinator at {address.base} cannot serve now: {error.message}")
    return type(error)(f"The coordinator refused this worker: {error.message}")


def _unreachable(address: Address, error: Exception) -> GridError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return InvalidInput(
                f"The certificate of {address.base} is not trusted ({cause.verify_message}): "
                "give the authority that signed it with --ca."
            )
        if isinstance(cause, OSError) and cause.errno:
            why = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
            break
    else:
        why = f"{error}"
    return Unavailable(
        f"No coordinator can be reached at {address.base} ({why}): is it running, and the "
        "address right?"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _silent(address: Address) -> GridError:
    return Unavailable(
        f"What listens at {address.base} does not answer: is it a coordinator, and is it healthy?"
    )


def _foreign(address: Address, why: str) -> GridError:
    return InvalidInput(
        f"What answers at {address.base} is no coordinator of this version of Grid-X ({why}): "
        "check the address, and update the older of the two."
    )
