"""The client for asyncio: the same calls as the blocking one, awaited.

Every submission carries an idempotency key of its own, so that an answer lost on the way never
holds credits twice.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import TypeVar, Unpack

import httpx2
import stamina

from gridx import __version__
from gridx.client import calls, events, retry
from gridx.client.calls import Call, JobOptions, JobRequest, Listed
from gridx.client.login import Endpoint, find_endpoint, is_loopback
from gridx.client.sync import STREAM_SILENCE_S, WAIT_S
from gridx.clock import Clock, SystemClock
from gridx.protocol import http

T = TypeVar("T")


class AsyncClient:
    """A coordinator, for one event loop; arguments and errors are those of `Client`."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        ca: str | None = None,
        insecure: bool = False,
        retry_s: float = 30.0,
    ) -> None:
        self.endpoint = find_endpoint(url, token, ca=ca, insecure=insecure)
        self.clock: Clock = SystemClock()
        self._http = httpx2.AsyncClient(
            base_url=self.endpoint.url,
            headers={"User-Agent": f"gridx/{__version__}"},
            verify=self.endpoint.tls_context(),
            trust_env=not is_loopback(self.endpoint.url),
        )
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=None if retry_s else 1, timeout=retry_s or None, wait_jitter=0.5
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    # -------------------------------------------------------------- any call

    async def call(self, call: Call[T]) -> T:
        """Send a call of `gridx.client.calls` and give its answer."""

        async def send() -> T:
            answer = await self._http.request(
                call.method,
                call.path,
                params=dict(call.query),
                content=call.content,
                headers=call.headers
                | self.endpoint.authorization(carries_secret=call.carries_secret),
                timeout=httpx2.Timeout(call.timeout_s, connect=10.0),
            )
            return call.answer(
                answer.status_code, answer.content, answer.headers.get("retry-after")
            )

        try:
            return await self._retrying(lambda error: retry.worth_retrying(call, error), send)
        except httpx2.HTTPError as error:
            raise retry.as_refusal(error, self.endpoint.url) from None

    async def each(self, page: Callable[[str | None], Call[Listed[T]]]) -> AsyncIterator[T]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            answer = await self.call(page(cursor))
            for item in answer.items:
                yield item
            cursor = answer.next_cursor
            if cursor is None:
                return

    # -------------------------------------------------------------- jobs

    async def submit(
        self, code: str = "", language: str = "python", **options: Unpack[JobOptions]
    ) -> "AsyncJob":
        """Submit one job; its hold is taken at once, and what it does not use comes back."""
        request = calls.job_request(code, language, options)
        answer = await self.call(calls.submit(request, self.clock.new_id()))
        return AsyncJob(self, answer.job_id)

    async def submit_batch(self, jobs: Sequence[JobRequest]) -> list["AsyncJob"]:
        """Submit up to 10,000 jobs, all or none."""
        answer = await self.call(calls.submit_batch(jobs, self.clock.new_id()))
        return [AsyncJob(self, job_id) for job_id in answer.job_ids]

    def job(self, job_id: str) -> "AsyncJob":
        """A job submitted before, by its id; nothing is asked yet."""
        return AsyncJob(self, job_id)

    def jobs(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        batch_id: str | None = None,
    ) -> AsyncIterator[http.JobSummaryView]:
        """The caller's jobs, newest first, as many as there are."""
        return self.each(
            lambda cursor: calls.jobs(
                status=status, name=name, tag=tag, batch_id=batch_id, cursor=cursor
            )
        )

    async def wait(self, job_id: str, timeout_s: float | None = None) -> http.JobView:
        """The job once it is final; raises `TimeoutError` when it is not after `timeout_s`."""
        started = self.clock.monotonic()
        while True:
            left_s = WAIT_S
            if timeout_s is not None:
                left_s = min(WAIT_S, timeout_s - (self.clock.monotonic() - started))
            view = await self.call(calls.wait(job_id, max(0.0, left_s)))
            if calls.is_final(view.status):
                return view
            if left_s <= 0:
                raise TimeoutError(f"Job {job_id} is {view.status} after {timeout_s:.3g} s")

    async def follow_logs(self, job_id: str) -> AsyncIterator[events.LogPiece | events.LogEnd]:
        """What the job writes, as it writes it, and at last a `LogEnd`; survives a lost network."""
        async with aclosing(self._follow(calls.follow_logs(job_id))) as stream:
            async for event in stream:
                told = events.read_log(event)
                if told is not None:
                    yield told
                if isinstance(told, events.LogEnd):
                    return

    async def follow_events(self, job_id: str | None = None) -> AsyncIterator[events.JobEvent]:
        """Changes of state of one job, or of all the caller's, without end."""
        async with aclosing(self._follow(calls.follow_events(job_id))) as stream:
            async for event in stream:
                change = events.read_change(event)
                if change is not None:
                    yield change

    async def _follow(self, call: Call[bytes]) -> AsyncGenerator[events.Sent]:
        async with _Stream(self._http, self.endpoint, call) as stream:
            while True:
                try:
                    yield await self._retrying(
                        lambda error: retry.worth_retrying(call, error), stream.take
                    )
                except httpx2.HTTPError as error:
                    raise retry.as_refusal(error, self.endpoint.url) from None

    # -------------------------------------------------------------- workers and credits

    def workers(self) -> AsyncIterator[http.WorkerView]:
        """The workers of the grid that the caller may see."""
        return self.each(lambda cursor: calls.workers(cursor=cursor))

    async def caller(self) -> http.CallerView:
        """Who this client is to the grid."""
        return await self.call(calls.caller())

    async def balance(self, user_id: str | None = None) -> http.BalanceView:
        """The caller's own credits, or (as an administrator) another user's."""
        return await self.call(calls.balance(user_id or (await self.caller()).user_id))

    async def statement(self, user_id: str | None = None) -> AsyncIterator[http.StatementLineView]:
        """Every movement of the caller's (or that user's) credits, newest first."""
        whose = user_id or (await self.caller()).user_id
        async for line in self.each(lambda cursor: calls.statement(whose, cursor=cursor)):
            yield line

    async def transfer(self, to: str, amount: str, memo: str | None = None) -> http.TransferView:
        """Give `amount` credits (a decimal string) of the caller's own to another user."""
        return await self.call(calls.transfer(to, amount, memo, self.clock.new_id()))

    async def status(self) -> http.StatusView:
        return await self.call(calls.status())


class AsyncJob:
    """A submitted job: a handle that asks the coordinator each time."""

    def __init__(self, client: AsyncClient, job_id: str) -> None:
        self._client = client
        self.job_id = job_id

    def __repr__(self) -> str:
        return f"AsyncJob({self.job_id!r})"

    async def show(self) -> http.JobView:
        """The whole job as it is now."""
        return await self._client.call(calls.job(self.job_id))

    async def wait(self, timeout_s: float | None = None) -> http.JobView:
        """The whole job once it is final; `TimeoutError` when it is not after `timeout_s`."""
        return await self._client.wait(self.job_id, timeout_s)

    async def logs(self, stream: str | None = None) -> str:
        """What it wrote so far: both streams in order of arrival, or one of them."""
        return await self._client.call(calls.logs(self.job_id, stream))

    def follow(self) -> AsyncIterator[events.LogPiece | events.LogEnd]:
        """What it writes, as it writes it, until its end."""
        return self._client.follow_logs(self.job_id)

    async def cancel(self) -> http.CancelView:
        """Ask for its end; raises `Conflict` when it is final already."""
        return await self._client.call(calls.cancel(self.job_id))

    async def retry(self) -> "AsyncJob":
        """Submit it again as a new job; raises `Conflict` while it is not final."""
        answer = await self._client.call(calls.retry(self.job_id, self._client.clock.new_id()))
        return AsyncJob(self._client, answer.job_id)


class _Stream:
    """The events of one stream; opened again, after the last event seen, when it broke."""

    def __init__(self, client: httpx2.AsyncClient, endpoint: Endpoint, call: Call[bytes]) -> None:
        self._client = client
        self._endpoint = endpoint
        self._call = call
        self._open = AsyncExitStack()
        self._events: AsyncIterator[httpx2.ServerSentEvent] | None = None
        self._last_id = ""

    async def __aenter__(self) -> "_Stream":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def take(self) -> events.Sent:
        """The next event; a `TransportError` says that the stream broke, and may be tried again."""
        stream = self._events or await self._connect()
        try:
            event = await anext(stream)
        except StopAsyncIteration:
            await self._close()
            raise httpx2.RemoteProtocolError("the stream ended before its time") from None
        except BaseException:
            await self._close()
            raise
        self._last_id = event.id or self._last_id
        return events.Sent(event.event, event.data)

    async def _connect(self) -> AsyncIterator[httpx2.ServerSentEvent]:
        response = await self._open.enter_async_context(
            self._client.stream(
                self._call.method,
                self._call.path,
                params=dict(self._call.query),
                headers=self._endpoint.authorization(carries_secret=False)
                | calls.stream_headers(self._last_id),
                timeout=httpx2.Timeout(STREAM_SILENCE_S, connect=10.0),
            )
        )
        if response.status_code != 200:
            content = await response.aread()
            await self._close()
            raise calls.refusal(response.status_code, content, response.headers.get("retry-after"))
        self._events = aiter(httpx2.EventSource(response))
        return self._events

    async def _close(self) -> None:
        self._events = None
        await self._open.aclose()
