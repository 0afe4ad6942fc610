"""The blocking client: sends the calls, tries again what may be, follows streams across breaks.

A `Client` may be shared by threads. Every submission carries an idempotency key of its own, so that
an answer lost on the way never holds credits twice.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar, Unpack

import httpx2
import stamina

from gridx import __version__
from gridx.client import calls, events, retry
from gridx.client.calls import Call, JobOptions, JobRequest, Listed
from gridx.client.login import Endpoint, find_endpoint, is_loopback
from gridx.clock import Clock, SystemClock
from gridx.protocol import http

T = TypeVar("T")
WAIT_S = 30.0
STREAM_SILENCE_S = 60.0


class Client:
    """A coordinator, as its caller sees it.

    `url` and `token` default to GRIDX_URL and GRIDX_TOKEN, then to what `gridx login` stored; `ca`
    is a file with the authority of the grid's certificate; `insecure` allows secrets over plain
    HTTP to another machine. What may be sent again is tried for `retry_s` seconds. Everything
    raises `GridError` for a refusal, `Unavailable` when nobody can be reached.
    """

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
        self._http = httpx2.Client(
            base_url=self.endpoint.url,
            headers={"User-Agent": f"gridx/{__version__}"},
            verify=self.endpoint.tls_context(),
            trust_env=not is_loopback(self.endpoint.url),
        )
        self.retry_for(retry_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def retry_for(self, seconds: float) -> None:
        """From now on try again for so long what may be sent again; 0 is not at all."""
        self._retrying = stamina.RetryingCaller(
            attempts=None if seconds else 1, timeout=seconds or None, wait_jitter=0.5
        )

    # -------------------------------------------------------------- any call

    def call(self, call: Call[T]) -> T:
        """Send a call of `gridx.client.calls` and give its answer."""

        def send() -> T:
            answer = self._http.request(
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
            return self._retrying(lambda error: retry.worth_retrying(call, error), send)
        except httpx2.HTTPError as error:
            raise retry.as_refusal(error, self.endpoint.url) from None

    def each(self, page: Callable[[str | None], Call[Listed[T]]]) -> Iterator[T]:
        """Every item of a list, page by page: `client.each(lambda c: calls.jobs(cursor=c))`."""
        cursor: str | None = None
        while True:
            answer = self.call(page(cursor))
            yield from answer.items
            cursor = answer.next_cursor
            if cursor is None:
                return

    # -------------------------------------------------------------- jobs

    def submit(
        self, code: str = "", language: str = "python", **options: Unpack[JobOptions]
    ) -> "Job":
        """Submit one job; its hold is taken at once, and what it does not use comes back."""
        answer = self.call(
            calls.submit(calls.job_request(code, language, options), self.clock.new_id())
        )
        return Job(self, answer.job_id)

    def submit_batch(self, jobs: Sequence[JobRequest]) -> list["Job"]:
        """Submit up to 10,000 jobs, all or none."""
        answer = self.call(calls.submit_batch(jobs, self.clock.new_id()))
        return [Job(self, job_id) for job_id in answer.job_ids]

    def job(self, job_id: str) -> "Job":
        """A job submitted before, by its id; nothing is asked yet."""
        return Job(self, job_id)

    def jobs(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        batch_id: str | None = None,
    ) -> Iterator[http.JobSummaryView]:
        """The caller's jobs, newest first, as many as there are."""
        return self.each(
            lambda cursor: calls.jobs(
                status=status, name=name, tag=tag, batch_id=batch_id, cursor=cursor
            )
        )

    def wait(self, job_id: str, timeout_s: float | None = None) -> http.JobView:
        """The job once it is final; raises `TimeoutError` when it is not after `timeout_s`."""
        started = self.clock.monotonic()
        while True:
            left_s = WAIT_S
            if timeout_s is not None:
                left_s = min(WAIT_S, timeout_s - (self.clock.monotonic() - started))
            view = self.call(calls.wait(job_id, max(0.0, left_s)))
            if calls.is_final(view.status):
                return view
            if left_s <= 0:
                raise TimeoutError(f"Job {job_id} is {view.status} after {timeout_s:.3g} s")

    def follow_logs(self, job_id: str) -> Iterator[events.LogPiece | events.LogEnd]:
        """What the job writes, as it writes it, and at last a `LogEnd`; survives a lost network."""
        for event in self._follow(calls.follow_logs(job_id)):
            told = events.read_log(event)
            if told is not None:
                yield told
            if isinstance(told, events.LogEnd):
                return

    def follow_events(self, job_id: str | None = None) -> Iterator[events.JobEvent]:
        """Changes of state of one job, or of all the caller's, without end."""
        for event in self._follow(calls.follow_events(job_id)):
            change = events.read_change(event)
            if change is not None:
                yield change

    def _follow(self, call: Call[bytes]) -> Iterator[events.Sent]:
        with _Stream(self._http, self.endpoint, call) as stream:
            while True:
                try:
                    yield self._retrying(
                        lambda error: retry.worth_retrying(call, error), stream.take
                    )
                except httpx2.HTTPError as error:
                    raise retry.as_refusal(error, self.endpoint.url) from None

    # -------------------------------------------------------------- workers and credits

    def workers(self) -> Iterator[http.WorkerView]:
        """The workers of the grid that the caller may see."""
        return self.each(lambda cursor: calls.workers(cursor=cursor))

    def caller(self) -> http.CallerView:
        """Who this client is to the grid."""
        return self.call(calls.caller())

    def balance(self, user_id: str | None = None) -> http.BalanceView:
        """The caller's own credits, or (as an administrator) another user's."""
        return self.call(calls.balance(user_id or self.caller().user_id))

    def statement(self, user_id: str | None = None) -> Iterator[http.StatementLineView]:
        """Every movement of the caller's (or that user's) credits, newest first."""
        whose = user_id or self.caller().user_id
        return self.each(lambda cursor: calls.statement(whose, cursor=cursor))

    def transfer(self, to: str, amount: str, memo: str | None = None) -> http.TransferView:
        """Give `amount` credits (a decimal string) of the caller's own to another user."""
        return self.call(calls.transfer(to, amount, memo, self.clock.new_id()))

    def status(self) -> http.StatusView:
        return self.call(calls.status())


class Job:
    """A submitted job: a handle that asks the coordinator each time."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self.job_id = job_id

    def __repr__(self) -> str:
        return f"Job({self.job_id!r})"

    @property
    def status(self) -> str:
        """Where it stands now."""
        return self.show().status

    def show(self) -> http.JobView:
        """The whole job as it is now."""
        return self._client.call(calls.job(self.job_id))

    def wait(self, timeout_s: float | None = None) -> http.JobView:
        """The whole job once it is final; `TimeoutError` when it is not after `timeout_s`."""
        return self._client.wait(self.job_id, timeout_s)

    def logs(self, stream: str | None = None) -> str:
        """What it wrote so far: both streams in order of arrival, or one of them."""
        return self._client.call(calls.logs(self.job_id, stream))

    def follow(self) -> Iterator[events.LogPiece | events.LogEnd]:
        """What it writes, as it writes it, until its end."""
        return self._client.follow_logs(self.job_id)

    def cancel(self) -> http.CancelView:
        """Ask for its end; raises `Conflict` when it is final already."""
        return self._client.call(calls.cancel(self.job_id))

    def retry(self) -> "Job":
        """Submit it again as a new job; raises `Conflict` while it is not final."""
        answer = self._client.call(calls.retry(self.job_id, self._client.clock.new_id()))
        return Job(self._client, answer.job_id)


class _Stream:
    """The events of one stream; opened again, after the last event seen, when it broke."""

    def __init__(self, client: httpx2.Client, endpoint: Endpoint, call: Call[bytes]) -> None:
        self._client = client
        self._endpoint = endpoint
        self._call = call
        self._open = ExitStack()
        self._events: Iterator[httpx2.ServerSentEvent] | None = None
        self._last_id = ""

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def take(self) -> events.Sent:
        """The next event; a `TransportError` says that the stream broke, and may be tried again."""
        stream = self._events or self._connect()
        try:
            event = next(stream)
        except StopIteration:
            self._close()
            raise httpx2.RemoteProtocolError("the stream ended before its time") from None
        except BaseException:
            self._close()
            raise
        self._last_id = event.id or self._last_id
        return events.Sent(event.event, event.data)

    def _connect(self) -> Iterator[httpx2.ServerSentEvent]:
        response = self._open.enter_context(
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
            content = response.read()
            self._close()
            raise calls.refusal(response.status_code, content, response.headers.get("retry-after"))
        self._events = iter(httpx2.EventSource(response))
        return self._events

    def _close(self) -> None:
        self._events = None
        self._open.close()
