"""Bodies of HTTP requests and answers, shared by server, SDK and CLI.

Jobs and batches, and the rules of all fields, stand in `spec`; here are the bodies about people,
workers and credits, and every answer.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from gridx.domain.ids import is_uuid4
from gridx.protocol.spec import (
    NO_CONTROL,
    NO_NUL,
    Amount,
    Body,
    Moment,
    ResourcesBody,
    ShortText,
    Tag,
    UserId,
)

Password = Annotated[str, Field(min_length=8, max_length=128, pattern=NO_NUL)]
Memo = Annotated[str, Field(max_length=500, pattern=NO_CONTROL)]


class View(BaseModel):
    """Base of answers; a client ignores what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ------------------------------------------------------------------ jobs: answers


class UsageView(View):
    wall_s: float
    cpu_s: float
    peak_memory_mb: float


Fault = Literal["none", "submitter", "worker", "grid"]


class AttemptView(View):
    """One attempt of a job; `fault` and `why` say whose its end was, and who pays for it."""

    number: int
    worker_id: str
    status: str
    reason: str | None
    started_at: str | None
    finished_at: str | None
    exit_code: int | None
    usage: UsageView | None
    sandbox: str | None = None
    billed_s: float = 0.0
    fault: Fault | None = None
    why: str | None = None


class ReceiptView(View):
    """Who paid what for a final job, and why; amounts as decimal strings."""

    price_per_second: str
    billed_s: float
    held: str
    cost: str
    released: str
    reward: str
    fee: str
    fault: Fault
    why: str


class ResourcesView(TypedDict):
    cpus: float
    memory_mb: int
    gpus: int
    disk_mb: int


class LimitsView(TypedDict):
    timeout_s: float
    output_bytes: int
    processes: int


class JobSummaryView(View):
    """A job as lists show it: without its texts, its output and its attempts."""

    job_id: str
    user_id: str
    status: str
    reason: str | None
    exit_code: int | None
    name: str | None
    tags: list[str]
    language: str
    batch_id: str | None
    resources: ResourcesView
    limits: LimitsView
    require: dict[str, str]
    priority: int
    max_attempts: int
    retry_on_failure: bool
    max_cost: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    queued_s: float | None
    run_s: float | None
    worker_id: str | None
    held: str
    cost: str | None
    cancel_requested: bool
    retry_of: str | None
    traceparent: str | None


class JobView(JobSummaryView):
    """A whole job: its spec, where it stands, what it wrote, what it cost."""

    code: str
    command: str | list[str] | None
    args: list[str]
    env: dict[str, str]
    stdin: str
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    result: Any = None
    inputs: dict[str, str] = {}
    outputs: list[str] = []
    requirements: list[str] = []
    image: str | None
    network: bool = False
    after: list[str] = []
    not_before: str | None = None
    deadline: str | None = None
    attempts: list[AttemptView]
    receipt: ReceiptView | None


class SubmittedView(View):
    """`POST /jobs`: the job's id, the credits held for it, the limit of one attempt."""

    job_id: str
    status: str
    held: str
    timeout_s: float


class BatchView(View):
    batch_id: str
    job_ids: list[str]


class CancelView(View):
    job_id: str
    status: str
    cancel_requested: bool


class BatchCancelView(View):
    cancelled: int


class JobListView(View):
    items: list[JobSummaryView]
    next_cursor: str | None


# ------------------------------------------------------------------ people and keys


class UserBody(Body):
    """`POST /users`."""

    user_id: UserId
    password: Password
    invite: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL)] = ""


class LoginBody(Body):
    """`POST /auth/token`."""

    user_id: UserId
    password: Password


class PasswordBody(Body):
    """`POST /auth/password`."""

    old: Password
    new: Password


Scope = Literal["jobs", "workers", "credits:read", "credits:transfer", "metrics", "admin"]


class InviteBody(Body):
    """`POST /invites`."""

    grant: Amount | None = None
    expires_at: Moment | None = None


class KeyBody(Body):
    """`POST /auth/keys`."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_CONTROL)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=6)]
    expires_at: Moment | None = None


class UserView(View):
    user_id: str
    role: Literal["user", "admin"]
    balance: str


class UserStateView(View):
    """A user, as suspending and the opposite leave them."""

    user_id: str
    role: str
    suspended: bool
    created_at: str


class UserListItemView(UserStateView):
    balance: str


class UserListView(View):
    items: list[UserListItemView]
    next_cursor: str | None


class TokenView(View):
    token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_at: str


class CallerView(View):
    """Who a token belongs to, and what it may do; `expires_at` is null for a key without end."""

    user_id: str
    role: str
    scopes: list[str]
    expires_at: str | None


class InviteView(View):
    invite: str


class KeyView(View):
    """An API key; `key` itself only in the answer that made it."""

    key_id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    key: Annotated[str | None, Field(exclude_if=lambda key: key is None)] = None


class KeyListView(View):
    items: list[KeyView]
    next_cursor: str | None


# ------------------------------------------------------------------ workers


class CapabilitiesBody(Body):
    """What a worker offers."""

    resources: ResourcesBody = ResourcesBody()
    languages: Annotated[list[Tag], Field(max_length=32, default_factory=list)]
    sandboxes: Annotated[list[Tag], Field(max_length=32, default_factory=list)]
    gpus: Annotated[list[ShortText], Field(max_length=64, default_factory=list)]
    labels: Annotated[dict[Tag, ShortText], Field(max_length=64, default_factory=dict)]
    os: Tag = "linux"
    arch: Tag = "unknown"
    images: Annotated[list[ShortText], Field(max_length=256, default_factory=list)]
    lacks: Annotated[
        dict[Tag, Annotated[list[Tag], Field(max_length=32)]],
        Field(max_length=32, default_factory=dict),
    ]


UUID4 = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$"


def _uuid4(text: str) -> str:
    if not is_uuid4(text):
        raise ValueError("a UUID version 4")
    return text.lower()


Uuid4 = Annotated[str, Field(min_length=36, max_length=36, pattern=UUID4), AfterValidator(_uuid4)]


class RegisterBody(Body):
    """`POST /workers/register`."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL)]
    capabilities: CapabilitiesBody
    worker_id: Uuid4 = ""
    owner_id: UserId = ""


class RegisteredView(View):
    worker_id: str
    worker_token: str


class BroadcastBody(Body):
    """`POST /admin/broadcast`."""

    text: Annotated[str, Field(min_length=1, max_length=1000, pattern=NO_CONTROL)]


class WorkerView(View):
    """A worker: state, what it offers, what is taken of it.

    `lacks` has, for each sandbox, what it cannot enforce there. `unsandboxed` workers run programs without any sandbox. `serves_others` says whether it is
    admitted and offers a sandbox as strong as the grid demands; if not, it runs its owner's jobs only.
    """

    worker_id: str
    name: str
    owner_id: str
    status: str
    admitted: bool
    resources: ResourcesView
    free: ResourcesView
    load: float | None
    why: str | None = None
    running: int
    languages: list[str]
    sandboxes: list[str]
    images: list[str]
    lacks: dict[str, list[str]]
    unsandboxed: bool
    serves_others: bool
    gpus: list[str]
    labels: dict[str, str]
    os: str
    arch: str
    version: str
    created_at: str
    seen_at: str | None


class WorkerListView(View):
    items: list[WorkerView]
    next_cursor: str | None


class SentView(View):
    """To how many workers a word went."""

    sent: int


# ------------------------------------------------------------------ credits


class TransferBody(Body):
    """`POST /credits/transfer` and `/credits/grant`."""

    to: UserId
    amount: Amount
    memo: Memo = ""


class TransferView(View):
    """A movement of credits; `from` is null for a grant."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    id: str
    source: Annotated[str | None, Field(alias="from")]
    to: str
    amount: str
    memo: str | None
    at: str


class BalanceView(View):
    user_id: str
    balance: str
    held: str
    available: str


class StatementLineView(View):
    """One line of a statement: `amount` is signed, `available_after` what could be spent then."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    id: str
    at: str
    kind: str
    amount: str
    available_after: str
    job_id: str | None
    counterpart: Annotated[str | None, Field(alias="with")]
    memo: str | None


class StatementView(View):
    items: list[StatementLineView]
    next_cursor: str | None


class LedgerReportView(View):
    """What a verification of the ledger found; `ok` when `differences` is empty."""

    ok: bool
    accounts: int
    transfers: int
    holds: int
    differences: list[str]


# ------------------------------------------------------------------ service


class HealthView(View):
    status: Literal["healthy", "unhealthy"]
    service: Literal["grid-x-coordinator"]
    timestamp: str


class WorkerCountView(View):
    total: int
    active: int


class StatusView(View):
    service: Literal["Grid-X Coordinator"]
    version: str
    uptime_s: float
    workers: WorkerCountView
    queue_size: int
    running: int
    coordinators: int


class ErrorDetailView(View):
    field: str
    message: str


class ErrorView(View):
    """Every error answer."""

    error: str
    code: int
    timestamp: str
    details: list[ErrorDetailView] = []
