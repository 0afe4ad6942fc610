"""Bodies of HTTP requests and answers, shared by server, SDK and CLI.

Requests are strict: no field too many, no string where a number belongs, no control character where
no text of a program is meant. What a limit of the grid's settings bounds (time, output, processes)
is checked by the coordinator; what nobody may pass is checked here.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gridx.domain.ids import is_user_id, is_uuid4
from gridx.domain.job import JobSpec, Limits
from gridx.domain.matching import REQUIRE_KEYS
from gridx.domain.money import parse_credits
from gridx.domain.resources import Resources

CODE_BYTES_MAX = 1_048_576
STDIN_BYTES_MAX = 1_048_576
ARGUMENT_BYTES_MAX = 120 * 1024
ARGUMENTS_BYTES_MAX = 1_048_576
BATCH_JOBS_MAX = 10_000
SPEC_BYTES_MAX = 4 * 1024 * 1024
NOT_YET = (
    "inputs", "outputs", "requirements", "image", "network", "after", "not_before", "deadline",
)  # fmt: skip
"""Fields of a spec that this version refuses by name."""

_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"
_NO_NUL = r"^[^\x00]*$"


def _bytes_at_most(limit: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise ValueError(f"at most {limit:,} bytes as UTF-8")
        return text

    return AfterValidator(check)


def _amount(text: str) -> str:
    parse_credits(text)
    return text


def _user_id(text: str) -> str:
    if not is_user_id(text):
        raise ValueError("1 to 64 of the characters A-Z a-z 0-9 _ -")
    return text


UserId = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$"),
    AfterValidator(_user_id),
]
Password = Annotated[str, Field(min_length=8, max_length=128, pattern=_NO_NUL)]
Amount = Annotated[
    str,
    Field(max_length=23, pattern=r"^[0-9]{1,15}(\.[0-9]{1,6})?$", examples=["12.500000"]),
    AfterValidator(_amount),
]
ShortText = Annotated[str, Field(max_length=200, pattern=_NO_CONTROL)]
Memo = Annotated[str, Field(max_length=500, pattern=_NO_CONTROL)]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_CONTROL)]
Code = Annotated[
    str, Field(min_length=1, max_length=CODE_BYTES_MAX, pattern=_NO_NUL),
    _bytes_at_most(CODE_BYTES_MAX),
]  # fmt: skip
Stdin = Annotated[
    str, Field(max_length=STDIN_BYTES_MAX, pattern=_NO_NUL), _bytes_at_most(STDIN_BYTES_MAX)
]
Argument = Annotated[
    str, Field(max_length=ARGUMENT_BYTES_MAX, pattern=_NO_NUL), _bytes_at_most(ARGUMENT_BYTES_MAX)
]
EnvName = Annotated[str, Field(max_length=1024, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
CommandLine = Annotated[
    str, Field(min_length=1, max_length=CODE_BYTES_MAX, pattern=_NO_NUL),
    _bytes_at_most(CODE_BYTES_MAX),
]  # fmt: skip


class Body(BaseModel):
    """Base of request bodies: strict, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class View(BaseModel):
    """Base of answers; a client ignores what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


# ------------------------------------------------------------------ jobs: requests


class ResourcesBody(Body):
    """What one attempt is given."""

    cpus: Annotated[float, Field(ge=0.01, le=1024)] = 1.0
    memory_mb: Annotated[int, Field(ge=16, le=16_777_216)] = 256
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    disk_mb: Annotated[int, Field(ge=1, le=16_777_216)] = 256


class LimitsBody(Body):
    """Where an attempt is ended; the grid's ceilings apply besides."""

    timeout_s: Annotated[float, Field(ge=0.1)] = 60.0
    output_bytes: Annotated[int, Field(ge=1)] = 1_048_576
    processes: Annotated[int, Field(ge=1)] = 64


class JobBody(Body):
    """`POST /jobs`: only `code` or `command` is required."""

    code: Code = ""
    language: Literal["python", "javascript", "node", "bash"] = "python"
    command: CommandLine | Annotated[list[Argument], Field(min_length=1, max_length=10_000)] = ""
    args: Annotated[list[Argument], Field(max_length=10_000)] = []
    env: Annotated[dict[EnvName, Argument], Field(max_length=10_000)] = {}
    stdin: Stdin = ""
    name: ShortText = ""
    tags: Annotated[list[Tag], Field(max_length=32)] = []
    user_id: UserId = ""
    resources: ResourcesBody = ResourcesBody()
    limits: LimitsBody = LimitsBody()
    require: Annotated[dict[Tag, Tag], Field(max_length=32)] = {}
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    retry_on_failure: bool = False
    max_cost: Amount | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in NOT_YET:
                if name in data:
                    raise ValueError(f"{name} is not supported by this version of Grid-X")
        return data

    @model_validator(mode="after")
    def _together(self) -> "JobBody":
        if bool(self.code) == bool(self.command):
            raise ValueError("give either code or command")
        if self.command and self.model_fields_set & {"language", "args"}:
            raise ValueError("command takes the place of code, language and args")
        size = 0
        for argument in (*self.args, *(self.command if isinstance(self.command, list) else ())):
            size += len(argument.encode()) + 1
        for name, value in self.env.items():
            pair = len(name) + len(value.encode()) + 2
            if pair > ARGUMENT_BYTES_MAX:
                raise ValueError(f"env: {name[:64]} and its value are over 120 KiB together")
            size += pair
        if size > ARGUMENTS_BYTES_MAX:
            raise ValueError("args and env are over 1 MiB together")
        for key in self.require:
            if key not in REQUIRE_KEYS and not key.startswith("label:"):
                known = ", ".join(REQUIRE_KEYS)
                raise ValueError(f"require: {key} is unknown; it may name {known} or label:<name>")
        return self

    def to_spec(self) -> JobSpec:
        """The job in the domain's words."""
        words = tuple(self.command) if isinstance(self.command, list) else self.command or None
        language = "bash" if self.command else self.language
        r, limits = self.resources, self.limits
        return JobSpec(
            code=self.code,
            language="javascript" if language == "node" else language,
            command=words,
            args=tuple(self.args),
            env=self.env,
            stdin=self.stdin,
            name=self.name or None,
            tags=tuple(self.tags),
            resources=Resources(float(r.cpus), r.memory_mb, r.gpus, r.disk_mb),
            limits=Limits(float(limits.timeout_s), limits.output_bytes, limits.processes),
            require=self.require,
            priority=self.priority,
            max_attempts=self.max_attempts,
            retry_on_failure=self.retry_on_failure,
            max_cost=None if self.max_cost is None else parse_credits(self.max_cost),
        )


class BatchBody(Body):
    """`POST /jobs/batch`: specs one by one, or one template with the arguments of each job."""

    jobs: Annotated[list[JobBody], Field(min_length=1, max_length=BATCH_JOBS_MAX)] = []
    template: JobBody | None = None
    args: Annotated[
        list[Annotated[list[Argument], Field(max_length=10_000)]],
        Field(min_length=1, max_length=BATCH_JOBS_MAX),
    ] = []

    @model_validator(mode="after")
    def _one_form(self) -> "BatchBody":
        if bool(self.jobs) == (self.template is not None):
            raise ValueError("give either jobs, or template with args")
        if (self.template is None) != (not self.args):
            raise ValueError("args goes with template, and template with args")
        return self


# ------------------------------------------------------------------ jobs: answers


class UsageView(View):
    wall_s: float
    cpu_s: float
    peak_memory_mb: float


class AttemptView(View):
    """One attempt of a job."""

    number: int
    worker_id: str
    status: str
    reason: str | None
    started_at: str | None
    finished_at: str | None
    exit_code: int | None
    usage: UsageView | None
    sandbox: str | None = None


class ReceiptView(View):
    """Who paid what for a final job, and why; amounts as decimal strings."""

    price_per_second: str
    billed_s: float
    held: str
    cost: str
    released: str
    reward: str
    fee: str
    fault: Literal["none", "submitter", "worker", "grid"]
    why: str


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
    resources: dict[str, float]
    limits: dict[str, float]
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
    invite: Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROL)] = ""


class LoginBody(Body):
    """`POST /auth/token`."""

    user_id: UserId
    password: Password


class PasswordBody(Body):
    """`POST /auth/password`."""

    old: Password
    new: Password


Scope = Literal["jobs", "workers", "credits:read", "credits:transfer", "metrics", "admin"]
Moment = Annotated[str, Field(max_length=40, pattern=r"^[0-9]{4}-[0-9:TZ.+\- ]+$")]


class InviteBody(Body):
    """`POST /invites`."""

    grant: Amount | None = None
    expires_at: Moment | None = None


class KeyBody(Body):
    """`POST /auth/keys`."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=_NO_CONTROL)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=6)]
    expires_at: Moment | None = None


class UserView(View):
    user_id: str
    role: Literal["user", "admin"]
    balance: str


class UserListItemView(View):
    user_id: str
    role: str
    suspended: bool
    created_at: str
    balance: str


class UserListView(View):
    items: list[UserListItemView]
    next_cursor: str | None


class TokenView(View):
    token: str
    token_type: Literal["bearer"]
    expires_at: str


class InviteView(View):
    invite: str


class KeyView(View):
    """An API key; `key` itself only in the answer that made it."""

    key_id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    key: str | None = None


class KeyListView(View):
    items: list[KeyView]
    next_cursor: str | None


# ------------------------------------------------------------------ workers


class CapabilitiesBody(Body):
    """What a worker offers."""

    resources: ResourcesBody = ResourcesBody()
    languages: Annotated[list[Tag], Field(max_length=32)] = []
    sandboxes: Annotated[list[Tag], Field(max_length=32)] = []
    gpus: Annotated[list[ShortText], Field(max_length=64)] = []
    labels: Annotated[dict[Tag, ShortText], Field(max_length=64)] = {}
    os: Tag = "linux"
    arch: Tag = "unknown"


def _uuid4(text: str) -> str:
    if not is_uuid4(text):
        raise ValueError("a UUID version 4")
    return text.lower()


Uuid4 = Annotated[str, Field(min_length=36, max_length=36), AfterValidator(_uuid4)]


class RegisterBody(Body):
    """`POST /workers/register`."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROL)]
    capabilities: CapabilitiesBody
    worker_id: Uuid4 = ""
    owner_id: UserId = ""


class RegisteredView(View):
    worker_id: str
    worker_token: str


class BroadcastBody(Body):
    """`POST /admin/broadcast`."""

    text: Annotated[str, Field(min_length=1, max_length=1000, pattern=_NO_CONTROL)]


class WorkerView(View):
    """A worker: state, what it offers, what is taken of it."""

    worker_id: str
    name: str
    owner_id: str
    status: str
    admitted: bool
    resources: dict[str, float]
    free: dict[str, float]
    load: float | None
    running: int
    languages: list[str]
    sandboxes: list[str]
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
