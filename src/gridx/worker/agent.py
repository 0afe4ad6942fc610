"""Puts a worker together and runs it from its first word to its last.

The order of things: the state folder is locked, the sandbox opened, the credentials found or
earned, then the connection is kept up until the owner, a signal or the coordinator ends it. What
was opened is closed in the reverse order, within ten seconds. The one place in the worker that
reads the environment.
"""

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from gridx import __version__
from gridx.clock import Clock, SystemClock
from gridx.domain.errors import (
    Denied,
    GridError,
    InvalidInput,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from gridx.domain.sandbox import Backend
from gridx.protocol.frames import WireCapabilities, WireResources
from gridx.tasks import Tasks
from gridx.telemetry import get_logger
from gridx.worker.attempts import AttemptState
from gridx.worker.connection import Address, Dialer, log_in_somewhere, refuse_plain, trust
from gridx.worker.console import Console, Lines, Shell
from gridx.worker.engine import Engine
from gridx.worker.events import Accepted, LeaveAsked, OwnerPaused
from gridx.worker.identity import Identity, StateDir, default_state_dir
from gridx.worker.options import Prepared, WorkerOptions, known_identity
from gridx.worker.probe import offered
from gridx.worker.sandbox.backends import Offered
from gridx.worker.session import Profile, Session
from gridx.worker.spool import Spool

WELCOME_WITHIN_S = 7.0
"""A worker that was not accepted by then ends, so that it has ended after ten seconds."""
PATIENCE_S = 4.0
"""So long it waits at least, where a busy machine took its time to make the sandboxes ready."""
ACKNOWLEDGED_WITHIN_S = 2.0
"""So long a leaving worker waits for results to be acknowledged; they stay in the spool anyway."""
STOPPED_WITHIN_S = 5.5
"""So long again it waits for programs that do not end when they are told to."""
STDIN = 0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = get_logger(__name__)
T = TypeVar("T")


async def run_worker(
    options: WorkerOptions,
    shell: Shell | None = None,
    *,
    accepted: Callable[[str], None] | None = None,
    prepared: Prepared | None = None,
) -> int:
    """Run a worker to its end and give its exit code: 0, or 1 with one line on standard error.

    `accepted` is called with the worker's id when the coordinator has first welcomed it. Cancelling
    this ends the worker in order, as SIGTERM does.
    """
    worker = Agent(options, shell, accepted or _ignore, prepared or Prepared())
    try:
        await worker.run()
    except GridError as refusal:
        return refused(refusal)
    return 0


def refused(refusal: GridError) -> int:
    """Tell the person why there is no worker (any more); the exit code."""
    print(f"gridx worker: {refusal.message}", file=sys.stderr, flush=True)  # noqa: T201
    return 1


class Agent:
    """One worker from start to end."""

    def __init__(
        self,
        options: WorkerOptions,
        shell: Shell | None,
        accepted: Callable[[str], None],
        prepared: Prepared,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._options = options
        self._shell = shell
        self._report_accepted = accepted
        self._prepared = prepared
        self._clock: Clock = SystemClock()
        self._tasks = Tasks()
        self._give_up_at = loop.time() + WELCOME_WITHIN_S
        self._accepted: asyncio.Future[None] = loop.create_future()
        self._stop: asyncio.Future[None] = loop.create_future()
        self._token_is_stored = False
        self._at: Address | None = None
        self._owner: str | None = None
        self._console: Console | None = None

    async def run(self) -> None:
        """Raises the `GridError` that ended the worker; returns when it was asked to end."""
        addresses = [Address.parse(url) for url in self._options.urls]
        if not addresses:
            raise InvalidInput("This worker knows no coordinator: give its address with --url.")
        if not self._options.insecure:
            refuse_plain(addresses)
        tls = trust(self._options.ca)
        prepared = self._prepared
        state = prepared.state or StateDir(self._options.state_dir or default_state_dir(os.environ))
        try:
            with self._signals():
                identity = known_identity(state, self._options)
                async with prepared.opens(self._clock, self._options.sandbox) as sandboxes:
                    opened_at = asyncio.get_running_loop().time()
                    self._give_up_at = max(self._give_up_at, opened_at + PATIENCE_S)
                    token = await self._token(addresses, tls, identity)
                    if token is not None:
                        dialer = Dialer(addresses, token, tls, self._clock)
                        await self._live(state, identity, sandboxes, dialer)
        finally:
            await self._tasks.close()
            state.close()

    async def _token(
        self, addresses: list[Address], tls: ssl.SSLContext, identity: Identity | None
    ) -> str | None:
        """The token to connect with; None when the worker was stopped meanwhile.

        A password that was given is checked, even where the state folder would do without.
        """
        options = self._options
        if options.token is not None:
            return options.token
        if options.password is None or options.user_id is None:
            assert identity is not None
            self._token_is_stored = True
            return identity.worker_token
        user = (options.user_id, options.password)
        work = log_in_somewhere(
            addresses, *user, tls, clock=self._clock, give_up_at=self._give_up_at
        )
        login = self._tasks.start("worker log-in", _refusal_as_value(work))
        await asyncio.wait((login, self._stop), return_when=asyncio.FIRST_COMPLETED)
        if not login.done():
            login.cancel()
            return None
        token = login.result()
        if isinstance(token, RateLimited) and identity is not None:
            return identity.worker_token
        if isinstance(token, GridError):
            raise token
        return token

    # ------------------------------------------------------------------------------- the life

    async def _live(
        self, state: StateDir, identity: Identity | None, sandboxes: Offered, dialer: Dialer
    ) -> None:
        spool = Spool(state.spool)
        try:
            results = spool.open()
        except OSError as error:
            raise InvalidInput(f"The spool {spool.folder} cannot be used: {error}") from None
        profile = Profile(
            self._options.name or socket.gethostname() or "worker",
            __version__,
            capabilities(self._options, sandboxes, self._prepared.languages),
            identity.worker_id if identity else None,
        )
        engine = Engine(
            Session(profile, results),
            sandboxes,
            spool,
            self._clock,
            accepted=lambda news: self._welcomed(news, state, dialer),
            tell=self._tell,
        )
        try:
            connecting = self._tasks.start(
                "worker connection", self._stay_connected(dialer, engine)
            )
            await self._until_accepted(engine, connecting, dialer)
            await self._until_over(engine, connecting)
        finally:
            await _leave(engine)
            await self._tasks.close()
            await engine.close()
            spool.close()
        if engine.ended.done() and (failure := engine.ended.result()) is not None:
            raise Denied(failure)

    async def _stay_connected(self, dialer: Dialer, engine: Engine) -> GridError:
        """Socket after socket; gives the `GridError` that makes another one pointless."""
        while True:
            dialled = await _refusal_as_value(dialer.dial())
            if isinstance(dialled, GridError):
                return dialled
            self._at, connection = dialled
            over = await engine.serve(connection)
            _log.info("connection_over", url=self._at.base, why=over.message)
            self._at = None
            if not (dialer.welcomed or over.retryable):
                return over
            dialer.lost(over)

    async def _until_accepted(
        self, engine: Engine, connecting: asyncio.Task[GridError], dialer: Dialer
    ) -> None:
        left_s = max(0.0, self._give_up_at - asyncio.get_running_loop().time())
        ends = (self._accepted, self._stop, engine.ended, connecting)
        done, _ = await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            raise self._advised(connecting.result())
        if done:
            return
        if self._at is not None:
            raise Unavailable(
                f"The coordinator at {self._at.base} took the connection but did not accept this "
                f"worker within {WELCOME_WITHIN_S:g} s: is it healthy?"
            )
        raise dialer.trouble or Unavailable("No coordinator answers: check the address.")

    def _advised(self, error: GridError) -> GridError:
        """With what helps where the token of the state folder holds no longer."""
        if isinstance(error, Unauthenticated) and self._token_is_stored:
            return Unauthenticated(
                f"{error.message} (if this is not the grid that the state folder's worker enrolled "
                "in, start it once with --user and a password to enrol again)"
            )
        return error

    async def _until_over(self, engine: Engine, connecting: asyncio.Task[GridError]) -> None:
        ends: set[asyncio.Future[Any]]
        ends = {self._stop, engine.ended, connecting}
        if self._accepted.done() and self._options.interactive:
            lines = Lines(STDIN)
            if not lines.is_empty():
                ends.add(self._tasks.start("worker console", self._converse(engine, lines)))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            raise connecting.result()

    async def _converse(self, engine: Engine, lines: Lines) -> None:
        owner = self._options.user_id or self._owner or "worker"
        self._console = Console(
            owner,
            Controls(engine, lambda: self._at),
            self._shell,
            mark=self._options.prompt_mark,
        )
        await self._console.run(lines)

    # ---------------------------------------------------------------------------------- news

    def _welcomed(self, news: Accepted, state: StateDir, dialer: Dialer) -> None:
        known = state.load()
        token = news.worker_token or (known.worker_token if known else dialer.token)
        owner = self._options.user_id or (known.user_id if known else None)
        identity = Identity(news.worker_id, token, owner)
        if identity != known:
            try:
                state.save(identity)
            except OSError as error:
                _log.error("identity_not_saved", why=error.strerror)
        dialer.token = token
        dialer.accepted()
        assert self._at is not None
        _log.info("worker_accepted", worker_id=news.worker_id, url=self._at.base)
        if not self._accepted.done():
            self._owner = owner
            self._accepted.set_result(None)
            self._report_accepted(news.worker_id)

    def _tell(self, text: str) -> None:
        if self._console is not None:
            self._console.tell(text)
        else:
            _log.info("worker_told", text=text)

    @contextmanager
    def _signals(self) -> Generator[None]:
        """The first TERM, INT or HUP ends the worker in order, the second at once.

        What whoever started it had it ignore (`nohup`) stays ignored.
        """
        loop = asyncio.get_running_loop()
        heeded = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        if not self._options.handle_signals:
            heeded = []
        for number in heeded:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.done():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            self._stop.set_result(None)


class Controls:
    """What the prompt does with its worker."""

    def __init__(self, engine: Engine, at: Callable[[], Address | None]) -> None:
        self._engine = engine
        self._at = at

    def pause(self) -> None:
        self._engine.handle(OwnerPaused(paused=True))

    def resume(self) -> None:
        self._engine.handle(OwnerPaused(paused=False))

    def status(self) -> str:
        """Where the worker is, what it does, what it has free."""
        at = self._at()
        return self._engine.session.status(at.base if at is not None else None)


def capabilities(
    options: WorkerOptions, sandboxes: Offered, languages: Sequence[str] | None = None
) -> WireCapabilities:
    """What the worker offers: so many CPUs, and of memory and disk the share that goes with them."""
    offer = offered(slots=options.slots)
    room = offer.resources
    return WireCapabilities(
        WireResources(room.cpus, room.memory_mb, room.gpus, room.disk_mb),
        list(offer.languages if languages is None else languages),
        [each.value for each in sandboxes],
        list(offer.gpus),
        dict(options.labels),
        offer.os,
        offer.arch,
        list(options.sandbox.images) if Backend.DOCKER in sandboxes else [],
        {each.value: [*(sandbox.lacks or ())] for each, sandbox in sandboxes.items()},
    )


async def _refusal_as_value(work: Coroutine[Any, Any, T]) -> T | GridError:
    """What `work` gives, or how it was refused: in the background that is no failure."""
    try:
        return await work
    except GridError as refusal:
        return refusal


async def _leave(engine: Engine) -> None:
    """Hand over what runs, wait until it has ended, and until the coordinator was told."""
    if not engine.ended.done():
        engine.handle(LeaveAsked())
    attempts = engine.session.attempts
    await asyncio.wait((engine.ended,), timeout=ACKNOWLEDGED_WITHIN_S)
    if attempts.count(AttemptState.STOPPING):
        await asyncio.wait((engine.ended,), timeout=STOPPED_WITHIN_S)
    if left := attempts.count(AttemptState.STOPPING):
        _log.error("programs_left", count=left, why="the sandbox did not end them in time")
    await engine.flush()


def _ignore(_worker_id: str) -> None:
    return
