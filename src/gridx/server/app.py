"""The composition root: settings become a grid and the application that serves it.

`create_app` puts the operations together; `serving` is a coordinator from its opening to its end in
order: streams and sockets are told first, so that they end by themselves, then the listener waits
for the rest, then the grid closes.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass
from typing import cast

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gridx import __version__
from gridx.clock import Clock
from gridx.config import Settings
from gridx.coordinator.grid import Grid, served_alone
from gridx.server import answers
from gridx.server.api import accounts, jobs, keys, output, service, users, workers
from gridx.server.auth import Addresses
from gridx.server.documents import add_documents
from gridx.server.front import Dispatch, Envelope, Table
from gridx.server.lifetime import Closing, Room, Slots
from gridx.server.listener import Listener, Tls
from gridx.server.operation import Limits, Operation, Operations, Parts
from gridx.server.policy import policy_of
from gridx.server.worker_socket import PATH, WorkerSocket
from gridx.tasks import Tasks
from gridx.telemetry import get_logger

DESCRIPTION = (
    "Run Python, JavaScript and Bash jobs on other people's machines, sandboxed and paid by the "
    "second. Times are RFC 3339 in UTC, credits are decimal strings with six places, durations "
    "are seconds. Every error has the shape of ErrorView."
)

BODIES_BYTES_MAX = 512 * 1024 * 1024
"""How much all bodies that are being read may take together."""

FAREWELL_S = 3.0
"""How long streams and sockets may take to end by themselves."""

_log = get_logger(__name__)


def create_app(settings: Settings, grid: Grid, clock: Clock) -> FastAPI:
    """The application for an open `grid`; `app.state.parts.closing` ends its long answers."""
    parts = Parts(
        grid=grid,
        clock=clock,
        limits=Limits(
            body_bytes=settings.server.body_bytes_max,
            batch_bytes=settings.server.batch_bytes_max,
            logins_per_minute=settings.server.logins_per_minute,
            logins_per_minute_loopback=settings.server.logins_per_minute_loopback,
        ),
        heartbeat_s=settings.leases.heartbeat_s,
        lease_s=settings.leases.lease_s,
        addresses=Addresses(settings.server.trusted_proxies),
        closing=Closing(),
        streams=Slots("streams", settings.server.streams_max),
        sockets=Slots("worker sockets", settings.server.sockets_max),
        bodies=Room(BODIES_BYTES_MAX),
    )
    app = FastAPI(
        title="Grid-X",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "operation_spans": False, "logs": False},
    )
    app.state.parts = parts
    table = Table()
    groups = (
        jobs.operations,
        output.operations,
        users.operations,
        keys.operations,
        workers.operations,
        accounts.operations,
        service.operations,
        service.metrics_operations(settings.server.metrics_open),
    )
    for operation in _all(groups, parts):
        app.router.routes.append(operation)
        table.add(operation)
    add_documents(app)

    async def answer_http_error(_request: Request, error: Exception) -> Response:
        status = cast("HTTPException", error).status_code
        message = answers.NO_PATH if status == 404 else _phrase(error)
        answer = answers.of_problem(status, message, clock.now())
        headers = cast("HTTPException", error).headers
        return Response(answer.body, status, headers, "application/json")

    app.add_exception_handler(HTTPException, answer_http_error)
    # The one that is added last is outermost.
    app.add_middleware(Dispatch, table=table, sockets={PATH: WorkerSocket(parts)}, clock=clock)
    app.add_middleware(Envelope, clock=clock)
    return app


def _all(groups: tuple[Operations, ...], parts: Parts) -> Iterator[Operation]:
    for group in groups:
        for declared in group.declared:
            yield Operation(declared, parts)


def _phrase(error: Exception) -> str:
    status = cast("HTTPException", error).status_code
    return "This path does not know the method" if status == 405 else "The request was refused"


@dataclass(frozen=True, slots=True)
class Serving:
    """A coordinator that serves: where, and its grid."""

    url: str
    grid: Grid
    parts: Parts


@contextlib.asynccontextmanager
async def serving(settings: Settings, clock: Clock) -> AsyncGenerator[Serving]:
    """A coordinator that serves while inside.

    Migrates and opens the store, then listens. Raises `GridError` when the grid cannot be opened,
    `Unavailable` when the port cannot. Signals are the caller's to handle.
    """
    policy = policy_of(settings)
    with served_alone(policy):
        async with _listening(settings, Grid(policy, clock), clock) as it:
            yield it


@contextlib.asynccontextmanager
async def _listening(settings: Settings, grid: Grid, clock: Clock) -> AsyncGenerator[Serving]:
    await grid.open()
    tasks = Tasks()
    try:
        app = create_app(settings, grid, clock)
        parts: Parts = app.state.parts
        server = settings.server
        tls = Tls(server.tls_cert, server.tls_key) if server.tls_cert and server.tls_key else None
        rest_s = max(1.0, server.shutdown_s - FAREWELL_S)
        listener = Listener(app, server.host, server.port, tls, shutdown_s=rest_s)
        task = tasks.start("listener", listener.run_until_told())
        try:
            await listener.serves()
            _warn(settings, listener.url)
            _log.info("ready", url=listener.url)
            with _collecting_rarely():
                yield Serving(listener.url, grid, parts)
        finally:
            parts.closing.begin()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await parts.streams.none_taken()
                    await parts.sockets.none_taken()
            listener.should_exit = True
            await asyncio.wait({task})
    finally:
        await tasks.close()
        await grid.close()


@contextlib.contextmanager
def _collecting_rarely() -> Generator[None]:
    """Spare the garbage collector what lives as long as the server does.

    Requests make many objects and few cycles; walking over all modules again and again because of
    them took half of the time of each request.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _warn(settings: Settings, url: str) -> None:
    host = settings.server.host
    local = host.startswith("127.") or host in {"::1", "localhost"}
    if not local and settings.server.tls_cert is None:
        _log.warning(
            "no_tls",
            listening=f"{host}:{url.rpartition(':')[2]}",
            danger="passwords, tokens and jobs can be read and changed on the network",
            advice="give --tls-cert and --tls-key, or put a proxy with TLS in front",
        )
