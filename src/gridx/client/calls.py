"""What can be asked of a coordinator: each request and how its answer is read, written once.

Pure: a `Call` is a value. `sync` and `aio` send it; nothing here opens a connection.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypedDict, TypeVar, cast
from urllib.parse import quote

from gridx.domain.errors import GridError, InvalidInput, Unavailable
from gridx.protocol import http, problem

T_co = TypeVar("T_co", covariant=True)
STATE_CHANGES = ("pause", "resume", "drain", "suspend", "unsuspend", "ban", "disconnect", "admit")
"""What can be done to a worker: `POST /workers/{id}/<this>`."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One request, and `read`, which makes its answer's body a value.

    `key` is its Idempotency-Key. `carries_secret` says that a password is in the body, `repeats`
    that doing a POST twice is the same as once.
    """

    method: str
    path: str
    read: Callable[[bytes], T_co]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: object = None
    key: str | None = None
    carries_secret: bool = False
    repeats: bool = False
    timeout_s: float = 30.0

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when it is not known if the first arrived."""
        return self.method in ("GET", "HEAD", "PUT") or self.repeats or self.key is not None

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.key is None else {"Idempotency-Key": self.key}
        return headers if self.body is None else headers | {"Content-Type": "application/json"}

    @property
    def content(self) -> bytes | None:
        """The body as JSON; raises `InvalidInput` for what JSON cannot say."""
        if self.body is None:
            return None
        try:
            return json.dumps(self.body, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"This cannot be sent as JSON: {error}") from None

    def answer(self, status: int, content: bytes, retry_after: str | None) -> T_co:
        """The answer's value; raises the coordinator's refusal, or `Unavailable` for nonsense."""
        if not 200 <= status < 300:
            raise refusal(status, content, retry_after)
        try:
            return self.read(content)
        except ValueError:
            raise Unavailable(
                f"The answer to {self.method} {self.path} is not one of this version of Grid-X: "
                "check that the address is a coordinator's, and that its version is yours"
            ) from None


class Listed(Protocol[T_co]):
    """A page of a list, as every list answers."""

    @property
    def items(self) -> Sequence[T_co]: ...
    @property
    def next_cursor(self) -> str | None: ...


class JobOptions(TypedDict, total=False):
    """The fields of a job besides `code` and `language`; each is optional, in the API's own form."""

    command: str | Sequence[str]
    args: Sequence[str]
    env: Mapping[str, str]
    stdin: str
    name: str
    tags: Sequence[str]
    user_id: str
    resources: Mapping[str, float]
    limits: Mapping[str, float]
    image: str
    require: Mapping[str, str]
    priority: int
    max_attempts: int
    retry_on_failure: bool
    max_cost: str
    not_before: str
    deadline: str


class JobRequest(JobOptions, total=False):
    """A whole job, for batches."""

    code: str
    language: str


def refusal(status: int, content: bytes, retry_after: str | None) -> GridError:
    """The error behind an answer that is not 2xx, of the class the coordinator raised."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    try:
        wait_s = float(retry_after) if retry_after else None
    except ValueError:
        wait_s = None
    shaped = cast("dict[str, Any]", body) if isinstance(body, dict) else None
    return problem.from_answer(status, shaped, wait_s)


def job_request(code: str, language: str, options: JobOptions) -> JobRequest:
    """The body of a submission; a `command` brings its own language."""
    request: JobRequest = {**options}
    if code or "command" not in options:
        request["code"] = code
        request["language"] = language
    return request


def is_final(status: str) -> bool:
    """Whether a job's state never changes again."""
    return status in ("succeeded", "failed", "cancelled")


def stream_headers(last_id: str) -> dict[str, str]:
    """What opens a stream, after the event `last_id` if one was seen."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return headers | ({"Last-Event-ID": last_id} if last_id else {})


# ------------------------------------------------------------------ jobs


def submit(job: JobRequest, key: str) -> Call[http.SubmittedView]:
    """Submit one job; sent again with the same `key` it is the same job, held once."""
    read = http.SubmittedView.model_validate_json
    return Call("POST", "/jobs", read, body=job, key=key)


def submit_batch(jobs: Sequence[JobRequest], key: str) -> Call[http.BatchView]:
    """Submit up to 10,000 jobs, all or none."""
    read = http.BatchView.model_validate_json
    return Call("POST", "/jobs/batch", read, body={"jobs": list(jobs)}, key=key, timeout_s=120)


def submit_each(
    template: JobRequest, args: Sequence[Sequence[str]], key: str
) -> Call[http.BatchView]:
    """Submit one job for each list of arguments, all or none."""
    body = {"template": template, "args": [list(words) for words in args]}
    read = http.BatchView.model_validate_json
    return Call("POST", "/jobs/batch", read, body=body, key=key, timeout_s=120)


def job(job_id: str) -> Call[http.JobView]:
    return Call("GET", f"/jobs/{_part(job_id)}", http.JobView.model_validate_json)


def jobs(
    *,
    status: str | None = None,
    name: str | None = None,
    tag: str | None = None,
    batch_id: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Call[http.JobListView]:
    """A page of the caller's jobs, newest first."""
    query = _query(status=status, name=name, tag=tag, batch_id=batch_id, limit=limit, cursor=cursor)
    return Call("GET", "/jobs", http.JobListView.model_validate_json, query)


def wait(job_id: str, timeout_s: float) -> Call[http.JobView]:
    """The job when it is final, or after `timeout_s` (at most 60)."""
    path = f"/jobs/{_part(job_id)}/wait"
    query = _query(timeout_s=f"{timeout_s:g}")
    return Call("GET", path, http.JobView.model_validate_json, query, timeout_s=timeout_s + 30)


def cancel(job_id: str) -> Call[http.CancelView]:
    return Call("POST", f"/jobs/{_part(job_id)}/cancel", http.CancelView.model_validate_json)


def cancel_batch(batch_id: str) -> Call[http.BatchCancelView]:
    path = f"/batches/{_part(batch_id)}/cancel"
    return Call("POST", path, http.BatchCancelView.model_validate_json, repeats=True)


def retry(job_id: str, key: str) -> Call[http.SubmittedView]:
    """Submit a final job again, as a new one."""
    path = f"/jobs/{_part(job_id)}/retry"
    return Call("POST", path, http.SubmittedView.model_validate_json, key=key)


def logs(job_id: str, stream: str | None = None) -> Call[str]:
    """What the job wrote so far; both streams in order of arrival unless one is named."""
    return Call("GET", f"/jobs/{_part(job_id)}/logs", _text, _query(stream=stream))


def raw_logs(job_id: str, stream: str | None = None) -> Call[bytes]:
    """The same, byte by byte as the program wrote it."""
    return Call("GET", f"/jobs/{_part(job_id)}/logs", bytes, _query(stream=stream, raw="true"))


def follow_logs(job_id: str) -> Call[bytes]:
    """Server-Sent Events `stdout`, `stderr` and at last `end`; see `gridx.client.events`."""
    return Call("GET", f"/jobs/{_part(job_id)}/logs", bytes, _query(follow="true"))


def follow_events(job_id: str | None = None) -> Call[bytes]:
    """Server-Sent Events of state changes, of one job or of all the caller's."""
    path = "/events" if job_id is None else f"/jobs/{_part(job_id)}/events"
    return Call("GET", path, bytes)


# ------------------------------------------------------------------ people, keys, invitations


def register(user_id: str, password: str, invite: str | None = None) -> Call[http.UserView]:
    body = {"user_id": user_id, "password": password, **({"invite": invite} if invite else {})}
    return Call("POST", "/users", http.UserView.model_validate_json, body=body, carries_secret=True)


def log_in(user_id: str, password: str) -> Call[http.TokenView]:
    body = {"user_id": user_id, "password": password}
    read = http.TokenView.model_validate_json
    return Call("POST", "/auth/token", read, body=body, carries_secret=True)


def caller() -> Call[http.CallerView]:
    """Whose token it is, and what it may do."""
    return Call("GET", "/auth/me", http.CallerView.model_validate_json)


def log_out() -> Call[None]:
    return Call("DELETE", "/auth/token", _nothing)


def change_password(old: str, new: str) -> Call[None]:
    body = {"old": old, "new": new}
    return Call("POST", "/auth/password", _nothing, body=body, carries_secret=True)


def keys(*, limit: int = 100, cursor: str | None = None) -> Call[http.KeyListView]:
    query = _query(limit=limit, cursor=cursor)
    return Call("GET", "/auth/keys", http.KeyListView.model_validate_json, query)


def create_key(name: str, scopes: Sequence[str], expires_at: str | None) -> Call[http.KeyView]:
    body = {"name": name, "scopes": list(scopes), "expires_at": expires_at}
    return Call("POST", "/auth/keys", http.KeyView.model_validate_json, body=body)


def delete_key(key_id: str) -> Call[None]:
    return Call("DELETE", f"/auth/keys/{_part(key_id)}", _nothing)


def invite(grant: str | None, expires_at: str | None) -> Call[http.InviteView]:
    body = {"grant": grant, "expires_at": expires_at}
    return Call("POST", "/invites", http.InviteView.model_validate_json, body=body)


def users(*, limit: int = 100, cursor: str | None = None) -> Call[http.UserListView]:
    query = _query(limit=limit, cursor=cursor)
    return Call("GET", "/users", http.UserListView.model_validate_json, query)


def suspend_user(user_id: str) -> Call[None]:
    return Call("POST", f"/users/{_part(user_id)}/suspend", _nothing, repeats=True)


def unsuspend_user(user_id: str) -> Call[None]:
    return Call("POST", f"/users/{_part(user_id)}/unsuspend", _nothing, repeats=True)


# ------------------------------------------------------------------ workers


def workers(*, limit: int = 100, cursor: str | None = None) -> Call[http.WorkerListView]:
    query = _query(limit=limit, cursor=cursor)
    return Call("GET", "/workers", http.WorkerListView.model_validate_json, query)


def worker(worker_id: str) -> Call[http.WorkerView]:
    return Call("GET", f"/workers/{_part(worker_id)}", http.WorkerView.model_validate_json)


def change_worker(worker_id: str, change: str) -> Call[http.WorkerView]:
    """`change` is one of `STATE_CHANGES`."""
    assert change in STATE_CHANGES
    path = f"/workers/{_part(worker_id)}/{change}"
    return Call("POST", path, http.WorkerView.model_validate_json, repeats=True)


def broadcast(text: str) -> Call[http.SentView]:
    read = http.SentView.model_validate_json
    return Call("POST", "/admin/broadcast", read, body={"text": text})


# ------------------------------------------------------------------ credits


def balance(user_id: str) -> Call[http.BalanceView]:
    return Call("GET", f"/credits/{_part(user_id)}", http.BalanceView.model_validate_json)


def statement(
    user_id: str, *, limit: int = 100, cursor: str | None = None
) -> Call[http.StatementView]:
    path = f"/credits/{_part(user_id)}/transactions"
    query = _query(limit=limit, cursor=cursor)
    return Call("GET", path, http.StatementView.model_validate_json, query)


def transfer(to: str, amount: str, memo: str | None, key: str) -> Call[http.TransferView]:
    """Move the caller's own credits; `amount` is a decimal string."""
    return _movement("/credits/transfer", to, amount, memo, key)


def grant(to: str, amount: str, memo: str | None, key: str) -> Call[http.TransferView]:
    """Issue new credits, as an administrator."""
    return _movement("/credits/grant", to, amount, memo, key)


def _movement(
    path: str, to: str, amount: str, memo: str | None, key: str
) -> Call[http.TransferView]:
    body = {"to": to, "amount": amount, **({"memo": memo} if memo else {})}
    return Call("POST", path, http.TransferView.model_validate_json, body=body, key=key)


def verify_ledger() -> Call[http.LedgerReportView]:
    read = http.LedgerReportView.model_validate_json
    return Call("GET", "/admin/ledger/verify", read, timeout_s=600)


# ------------------------------------------------------------------ service


def status() -> Call[http.StatusView]:
    return Call("GET", "/status", http.StatusView.model_validate_json)


def health() -> Call[http.HealthView]:
    return Call("GET", "/health", http.HealthView.model_validate_json)


def _part(text: str) -> str:
    return quote(text, safe="")


def _query(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")


def _nothing(content: bytes) -> None:
    """For answers whose body says no more than their status."""
