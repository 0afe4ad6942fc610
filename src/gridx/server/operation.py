"""One operation of the API: how it is declared, and the order in which a request to it is checked.

An endpoint is a coroutine whose signature says what it takes: the `Call`, ids of the path, a query
model, a body model. FastAPI reads the same signature for the OpenAPI document; the checking is done
here, because a framework that parses a body before it knows who sent it cannot keep our order:
404 and 405, then 401, 413, 400, and what the coordinator finds (403 or 404, 409, 402). What comes
with a request to an operation that takes no body must be an empty object, whatever the method: a
field that nobody reads is a field that somebody believes in.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Path
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gridx.clock import Clock
from gridx.coordinator.grid import Grid
from gridx.coordinator.idempotency import IdempotencyKey
from gridx.domain.errors import Detail, GridError, InvalidInput
from gridx.domain.ids import is_user_id, is_uuid4
from gridx.domain.user import Principal
from gridx.protocol.http import UUID4, ErrorView
from gridx.protocol.spec import USER_ID, BatchBody, Body
from gridx.server import answers
from gridx.server.auth import Addresses, bearer_token, is_loopback, rate_key
from gridx.server.bodies import (
    canonical_hash,
    has_body,
    parse_batch,
    parse_body,
    parse_query,
    read_body,
)
from gridx.server.lifetime import Closing, Room, Slots

_KEY = re.compile(rb"[\x21-\x7e]{1,200}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

MEANING = {
    400: "Something that was sent breaks a rule; `details` names the field",
    401: "No token, or not one that holds",
    402: "The available credits do not cover it",
    403: "The caller may not do this",
    404: "There is no such thing",
    409: "The state of the thing does not allow it",
    413: "The body is over its limit",
    422: "The Idempotency-Key came before with another body",
    429: "Too many tries; `Retry-After` says when to try again",
    500: "The coordinator failed; its log has the story under the `X-Request-ID` of this answer",
    503: "The coordinator cannot serve this now; try again",
}


class NoBody(Body):
    """The body of a request to an operation that takes none: absent, or an object without fields."""


@dataclass(frozen=True, slots=True)
class IdRule:
    """What an id in a path must look like."""

    kind: str
    holds: Callable[[str], bool]


def _path_of(kind: str) -> Any:
    return Path(pattern=UUID4, description=f"UUID version 4 of the {kind}")


JobId = Annotated[str, _path_of("job"), IdRule("job", is_uuid4)]
BatchId = Annotated[str, _path_of("batch"), IdRule("batch", is_uuid4)]
KeyId = Annotated[str, _path_of("key"), IdRule("key", is_uuid4)]
WorkerId = Annotated[str, _path_of("worker"), IdRule("worker", is_uuid4)]
UserPathId = Annotated[
    str, Path(min_length=1, max_length=64, pattern=USER_ID), IdRule("user", is_user_id)
]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may send, and how often one may try to log in."""

    body_bytes: int
    batch_bytes: int
    logins_per_minute: int
    logins_per_minute_loopback: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What the server is made of: the grid it speaks for and what its connections share."""

    grid: Grid
    clock: Clock
    limits: Limits
    heartbeat_s: float
    lease_s: float
    addresses: Addresses
    closing: Closing
    streams: Slots
    sockets: Slots
    bodies: Room


class Call(Request):
    """One request: who asks, from where, and through what it is answered."""

    parts: Parts
    who: Principal
    raw: bytes = b""
    body_hash: str = ""
    path: str = ""
    token: str = ""

    @property
    def grid(self) -> Grid:
        return self.parts.grid

    def header(self, name: bytes) -> bytes:
        """The first header of that (lower-case) name, empty when there is none."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")

    def idempotency_key(self) -> IdempotencyKey | None:
        """What makes this request one of a kind, if its client said so."""
        key = self.header(b"idempotency-key")
        if not key:
            return None
        body_hash = self.body_hash or canonical_hash(self.raw)
        return IdempotencyKey(self.who.user_id, self.path, key.decode(), body_hash)

    def traceparent(self) -> str | None:
        """The W3C trace context that the client sent, if it is well formed."""
        value = self.header(b"traceparent")
        return value.decode() if _TRACEPARENT.fullmatch(value) else None

    async def limit_tries(self, what: str, user_id: str) -> None:
        """Raises `RateLimited` when this address or for this user `what` was tried too often."""
        address = self.parts.addresses.client(self.scope)
        await limit_tries(self.parts, what, address, user_id)


async def limit_tries(parts: Parts, what: str, address: str, user_id: str | None) -> None:
    """Count a try of `what` against the address and, if known, against the user."""
    limits, local = parts.limits, is_loopback(address)
    per_minute = limits.logins_per_minute_loopback if local else limits.logins_per_minute
    await parts.grid.users.rate_limit(f"{what}-address:{rate_key(address)}", per_minute)
    if user_id is not None:
        await parts.grid.users.rate_limit(f"{what}-user:{user_id}", per_minute)


Endpoint = Callable[..., Awaitable[BaseModel | ASGIApp]]


@dataclass(frozen=True, slots=True)
class Declaration:
    """An operation as its module declares it."""

    method: str
    path: str
    endpoint: Endpoint
    answer: type[BaseModel] | None
    status: int
    tag: str
    is_open: bool
    idempotent: bool
    refusals: Sequence[int]
    media_types: Sequence[str]
    away: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations of one module, declared by decorating their endpoints."""

    tag: str
    declared: list[Declaration] = field(default_factory=list[Declaration])

    def add(
        self,
        method: str,
        path: str,
        answer: type[BaseModel] | None = None,
        *,
        status: int = 200,
        is_open: bool = False,
        idempotent: bool = False,
        refusals: Sequence[int] = (),
        media_types: Sequence[str] = (),
        away: type[BaseModel] = ErrorView,
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare `method path`; `refusals` are the statuses its use case may answer besides those
        that follow from its signature, `media_types` what it answers when that is not JSON, `away`
        its answer while the store cannot be reached.
        """

        def declare(endpoint: Endpoint) -> Endpoint:
            made = Declaration(
                method=method,
                path=path,
                endpoint=endpoint,
                answer=answer,
                status=status,
                tag=self.tag,
                is_open=is_open,
                idempotent=idempotent,
                refusals=refusals,
                media_types=media_types,
                away=away,
            )
            self.declared.append(made)
            return endpoint

        return declare


@dataclass(frozen=True, slots=True)
class _Signature:
    """What an endpoint takes, by the names of its parameters."""

    ids: Mapping[str, IdRule]
    query: tuple[str, type[BaseModel]] | None
    body: tuple[str, type[BaseModel]] | None


def _signature(endpoint: Endpoint) -> _Signature:
    ids: dict[str, IdRule] = {}
    query: tuple[str, type[BaseModel]] | None = None
    body: tuple[str, type[BaseModel]] | None = None
    for name, hint in get_type_hints(endpoint, include_extras=True).items():
        if get_origin(hint) is Annotated:
            inner, *marks = get_args(hint)
            rule = next((mark for mark in marks if isinstance(mark, IdRule)), None)
            if rule:
                ids[name] = rule
            else:
                query = (name, inner)
        elif name != "return" and issubclass(hint, BaseModel):
            body = (name, hint)
    return _Signature(ids, query, body)


class Operation(APIRoute):
    """The route of a declared operation: documented by FastAPI, checked and answered here."""

    def __init__(self, declared: Declaration, parts: Parts) -> None:
        self.declared = declared
        self.parts = parts
        self.takes = _signature(declared.endpoint)
        super().__init__(
            declared.path,
            declared.endpoint,
            methods=[declared.method],
            response_model=declared.answer,
            status_code=declared.status,
            tags=[declared.tag],
            name=declared.endpoint.__name__,
            operation_id=declared.endpoint.__name__,
            response_class=Response if declared.media_types else JSONResponse,
            responses=self._responses(),
            openapi_extra=self._documented(),
        )
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request in our order and answer it; refusals become error answers."""
        call = Call(scope, receive, send)
        call.parts = self.parts
        try:
            answer = await self._answer(call)
            await answer(scope, receive, send)
        except GridError as refusal:
            self.parts.grid.metrics.count_refused(refusal.code)
            await answers.of_refusal(refusal, self.parts.clock.now())(scope, receive, send)

    async def _answer(self, call: Call) -> ASGIApp:
        headers = dict(call.scope["headers"])
        if not self.declared.is_open:
            call.token = bearer_token(headers)
            call.who = await self.parts.grid.users.authenticate(call.token)
        if not has_body(headers):
            return await self._checked(call)
        with self.parts.bodies.share() as take:
            call.raw = await read_body(call.receive, headers, self._bytes_max(), take)
            if self.takes.body:
                return await self._checked(call)
            parse_body(call.raw, NoBody)
        # It says nothing: it need not take room for as long as the answer takes.
        call.raw = b""
        return await self._checked(call)

    async def _checked(self, call: Call) -> ASGIApp:
        declared, takes = self.declared, self.takes
        scope = call.scope
        ids = {name: _id(rule, scope["path_params"][name]) for name, rule in takes.ids.items()}
        call.path = declared.path.format(**ids)
        given: dict[str, object] = dict(ids)
        query = parse_query(scope["query_string"], takes.query[1] if takes.query else None)
        if takes.query:
            given[takes.query[0]] = query
        hashing = declared.idempotent and _has_key(call)
        if takes.body:
            name, model = takes.body
            if model is BatchBody:
                given[name], call.body_hash = await parse_batch(call.raw, call.parts.clock, hashing)
            else:
                given[name] = parse_body(call.raw, model)
        result = await declared.endpoint(call, **given)
        if isinstance(result, BaseModel):
            return answers.of_view(result, declared.status)
        return result

    def _bytes_max(self) -> int:
        batch = self.takes.body is not None and self.takes.body[1] is BatchBody
        return self.parts.limits.batch_bytes if batch else self.parts.limits.body_bytes

    def accepts_ids(self, path_params: Mapping[str, str]) -> bool:
        """Whether every id of the path is well formed."""
        return all(rule.holds(path_params[name]) for name, rule in self.takes.ids.items())

    # -------------------------------------------------------------- what the document says

    def _responses(self) -> dict[int | str, dict[str, Any]]:
        declared = self.declared
        statuses = {*declared.refusals, 400, 413, 500, 503}
        if not declared.is_open:
            statuses |= {401, 403}
        if declared.idempotent:
            statuses.add(422)
        found: dict[int | str, dict[str, Any]] = {
            status: _error_answer(status, declared.away if status == 503 else ErrorView)
            for status in sorted(statuses)
        }
        if declared.media_types:
            content = {media: {"schema": {"type": "string"}} for media in declared.media_types}
            found[declared.status] = {"content": content}
        return found

    def _documented(self) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if not self.declared.is_open:
            extra["security"] = [{"bearer": []}]
        if self.takes.body and _may_be_left_out(self.takes.body[1]):
            extra["requestBody"] = {"required": False}
        headers: list[dict[str, Any]] = []
        if self.declared.idempotent:
            headers.append(
                _header("Idempotency-Key", 200, "The same key and body, the same answer")
            )
        if "text/event-stream" in self.declared.media_types:
            headers.append(_header("Last-Event-ID", 200, "The last event that the client has seen"))
        if headers:
            extra["parameters"] = headers
        return extra


def _may_be_left_out(model: type[BaseModel]) -> bool:
    if model is BatchBody:
        return False
    try:
        model()
    except ValidationError:
        return False
    return True


def _error_answer(status: int, shape: type[BaseModel]) -> dict[str, Any]:
    # By name, because FastAPI would build the shape anew for each status of each operation.
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    content = {"application/json": {"schema": schema}}
    return {"description": MEANING[status], "content": content}


def _header(name: str, length: int, description: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": length, "pattern": "^[!-~]*$"}
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _id(rule: IdRule, text: str) -> str:
    if not rule.holds(text):
        message = f"Invalid {rule.kind} ID format"
        raise InvalidInput(message, [Detail(f"{rule.kind}_id", message)])
    return text if rule.kind == "user" else text.lower()


def _has_key(call: Call) -> bool:
    given = [value for name, value in call.scope["headers"] if name == b"idempotency-key"]
    if given and (len(given) > 1 or not _KEY.fullmatch(given[0])):
        message = "one header of 1 to 200 visible ASCII characters"
        raise InvalidInput(f"Idempotency-Key: {message}", [Detail("Idempotency-Key", message)])
    return bool(given)
