"""Answers as bytes: of what was asked for, and of everything that went wrong, in its one shape."""

import json
import math
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from gridx.clock import to_rfc3339
from gridx.domain.errors import Detail, GridError, InvalidInput, RateLimited, Unavailable
from gridx.protocol.http import UUID4
from gridx.protocol.problem import status_of, to_body
from gridx.protocol.spec import AMOUNT, ENV_NAME, NO_CONTROL, NO_NUL, REQUIRE_NAME, USER_ID

JSON = b"application/json"
NO_PATH = "There is no such path: see /docs"
DETAILS_MAX = 20
_CHARACTERS_MAX = 200

_PATTERNS = {
    NO_CONTROL: "control characters are not allowed here",
    NO_NUL: "the character NUL is not allowed here",
    UUID4: "a UUID version 4",
    USER_ID: "1 to 64 of the characters A-Z a-z 0-9 _ -",
    ENV_NAME: "a name of letters, digits and _, not beginning with a digit",
    AMOUNT: "a string of digits, at most twelve before the point and six after it, like '12.5'",
    REQUIRE_NAME: "unknown; it may be os, arch, sandbox, gpu or label:<name>",
}
_TYPES = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "model_type": "a JSON object is expected here",
    "dict_type": "a JSON object is expected here",
    "list_type": "a list is expected here",
    "string_unicode": "not valid Unicode text",
}
_UNION_VARIANTS = frozenset({"line", "words"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready to be sent: to a request, or to a WebSocket that is not let in."""

    status: int
    body: bytes = b""
    media_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        headers = list(self.headers)
        if self.status != 204:
            headers.append((b"content-type", self.media_type))
            headers.append((b"content-length", b"%d" % len(self.body)))
        kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        await send({"type": f"{kind}.start", "status": self.status, "headers": headers})
        await send({"type": f"{kind}.body", "body": self.body})


NOTHING = Answer(204)


def of_view(view: BaseModel, status: int = 200) -> Answer:
    """The answer that shows `view`."""
    return Answer(status, view.__pydantic_serializer__.to_json(view, by_alias=True))


def of_problem(
    status: int,
    message: str,
    now: int,
    details: tuple[Detail, ...] = (),
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    """An error answer in the one shape; `now` in microseconds since the epoch."""
    body = to_body(status, _printable(message), to_rfc3339(now), details)
    return Answer(status, json.dumps(body).encode(), headers=headers)


def of_refusal(error: GridError, now: int) -> Answer:
    """The error answer of a refusal."""
    status = status_of(error)
    headers: list[tuple[bytes, bytes]] = []
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, RateLimited):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    elif isinstance(error, Unavailable):
        headers.append((b"retry-after", b"1"))
    return of_problem(status, error.message, now, error.details, tuple(headers))


def invalid(error: ValidationError, *within: str | int) -> InvalidInput:
    """The refusal of a body or a query that breaks its rules; `within` is where it stands."""
    found = error.errors(include_url=False, include_input=False)
    details: list[Detail] = []
    for one in found[:DETAILS_MAX]:
        place = [str(part) for part in (*within, *one["loc"])]
        context = one.get("ctx", {})
        message = one["msg"].removeprefix("Value error, ")
        match one["type"]:
            case "rule":
                place.append(str(context.get("field", "")))
            case "string_pattern_mismatch":
                message = _PATTERNS.get(str(context.get("pattern")), message)
            case kind:
                message = _TYPES.get(kind, message)
        details.append(Detail(_field(place), _printable(message)))
    return of_details(details)


def of_details(details: list[Detail]) -> InvalidInput:
    """The refusal that names each field at fault."""
    first = details[0]
    where = f"{first.field}: " if first.field else ""
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return InvalidInput(f"{where}{first.message}{more}", details)


def _field(place: list[str]) -> str:
    parts = [part for part in place if part and part not in _UNION_VARIANTS and part != "[key]"]
    return _printable(".".join(parts))


def _printable(text: str) -> str:
    """`text` cut to a bearable length, without what no log or terminal should be given."""
    cut = text if len(text) <= 2 * _CHARACTERS_MAX else text[:_CHARACTERS_MAX] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in cut)
