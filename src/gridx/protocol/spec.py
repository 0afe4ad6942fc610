"""What a submitter may ask for: the body of a job, of a batch, and the rules of their fields.

Requests are strict: no field too many, no string where a number belongs, no control character where
no text of a program is meant. What a limit of the grid's settings bounds (time, output, processes)
is checked by the coordinator; what nobody may pass is checked here.
"""

from typing import Annotated, Any, Literal, cast

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from gridx.clock import from_rfc3339
from gridx.domain.ids import is_user_id
from gridx.domain.job import JobSpec, Limits
from gridx.domain.matching import REQUIRE_KEYS
from gridx.domain.money import parse_credits
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend, Enforcement

CODE_BYTES_MAX = 1_048_576
STDIN_BYTES_MAX = 1_048_576
ARGUMENT_BYTES_MAX = 120 * 1024
ARGUMENTS_BYTES_MAX = 1_048_576
BATCH_JOBS_MAX = 10_000
SPEC_BYTES_MAX = 4 * 1024 * 1024
NOT_YET = (
    "inputs", "outputs", "requirements", "network", "after",
)  # fmt: skip
"""Fields of a spec that this version refuses by name."""
BACKENDS = tuple(each.value for each in Backend)
LIMITS = tuple(each.value for each in Enforcement)

NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"
NO_NUL = r"^[^\x00]*$"
USER_ID = r"^[A-Za-z0-9_-]+$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
AMOUNT = r"^[0-9]{1,12}(\.[0-9]{1,6})?$"
_IMAGE_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/"
_IMAGE_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE_DIGEST = "@sha256:[0-9a-f]{64}"
IMAGE = rf"^({_IMAGE_HOST})?{_IMAGE_PART}(/{_IMAGE_PART})*({_IMAGE_TAG})?({_IMAGE_DIGEST})?$"
"""An OCI image reference: a registry, a name, a tag, a digest; only the name is required."""
REQUIRE_NAME = rf"^({'|'.join(REQUIRE_KEYS)}|label:[^\x00-\x1f\x7f-\x9f]+)$"


def wrong(field: str, message: str) -> PydanticCustomError:
    """What a check of several fields raises: it names the field at fault."""
    return PydanticCustomError("rule", "{message}", {"message": message, "field": field})


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


def _moment(text: str) -> str:
    from_rfc3339(text)
    return text


Moment = Annotated[
    str, Field(max_length=40, json_schema_extra={"format": "date-time"}), AfterValidator(_moment)
]
UserId = Annotated[
    str, Field(min_length=1, max_length=64, pattern=USER_ID), AfterValidator(_user_id)
]
Amount = Annotated[
    str,
    Field(
        pattern=AMOUNT,
        examples=["12.500000"],
        # Above 0: said to readers only, because the validator's expressions cannot look ahead.
        json_schema_extra={"pattern": r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,6})?$"},
    ),
    AfterValidator(_amount),
]
ShortText = Annotated[str, Field(max_length=200, pattern=NO_CONTROL)]
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL)]
Code = Annotated[
    str, Field(min_length=1, max_length=CODE_BYTES_MAX, pattern=NO_NUL),
    _bytes_at_most(CODE_BYTES_MAX),
]  # fmt: skip
Stdin = Annotated[
    str, Field(max_length=STDIN_BYTES_MAX, pattern=NO_NUL), _bytes_at_most(STDIN_BYTES_MAX)
]
Argument = Annotated[
    str, Field(max_length=ARGUMENT_BYTES_MAX, pattern=NO_NUL), _bytes_at_most(ARGUMENT_BYTES_MAX)
]
Arguments = Annotated[list[Argument], Field(max_length=10_000)]
EnvName = Annotated[str, Field(max_length=ARGUMENT_BYTES_MAX, pattern=ENV_NAME)]
ImageName = Annotated[str, Field(min_length=1, max_length=255, pattern=IMAGE)]
RequireName = Annotated[str, Field(min_length=1, max_length=70, pattern=REQUIRE_NAME)]


def _form_of_command(value: object) -> str:
    return "words" if isinstance(value, list) else "line"


Command = Annotated[
    Annotated[Code, pydantic.Tag("line")]
    | Annotated[
        Annotated[list[Argument], Field(min_length=1, max_length=10_000)], pydantic.Tag("words")
    ],
    Discriminator(_form_of_command),
]


def _schema_of_job(schema: dict[str, Any]) -> None:
    """Say to readers what the validator checks besides: no empty defaults, one of two fields."""
    properties = schema["properties"]
    for name in ("code", "command", "user_id"):
        properties[name].pop("default", None)
    for name in ("env", "require"):
        properties[name]["additionalProperties"] = False
    properties["require"]["properties"] = {"sandbox": {"enum": list(BACKENDS)}}
    only_code = {"required": ["code"], "not": {"required": ["command"]}}
    without = [{"required": [name]} for name in ("code", "language", "args")]
    schema["oneOf"] = [only_code, {"required": ["command"], "not": {"anyOf": without}}]


class Body(BaseModel):
    """Base of request bodies: strict, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ResourcesBody(Body):
    """What one attempt is given."""

    cpus: Annotated[float, Field(ge=0.01, le=1024)] = 1.0
    memory_mb: Annotated[int, Field(ge=16, le=16_777_216)] = 256
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    disk_mb: Annotated[int, Field(ge=1, le=16_777_216)] = 256


_USUAL = Limits()


class LimitsBody(Body):
    """Where an attempt is ended; above the grid's ceilings is refused, defaults keep below them."""

    timeout_s: Annotated[float, Field(ge=0.1)] = _USUAL.timeout_s
    output_bytes: Annotated[int, Field(ge=1)] = _USUAL.output_bytes
    processes: Annotated[int, Field(ge=1)] = _USUAL.processes

    def beside(self, usual: Limits) -> Limits:
        """What was asked for, and the `usual` where nothing was."""
        asked = self.model_fields_set
        return Limits(
            float(self.timeout_s) if "timeout_s" in asked else usual.timeout_s,
            self.output_bytes if "output_bytes" in asked else usual.output_bytes,
            self.processes if "processes" in asked else usual.processes,
        )


class JobBody(Body):
    """`POST /jobs`: only `code` or `command` is required, and only one of them may be given.

    `command` is one shell line or the words of a command; it takes the place of `code`, `language`
    and `args`.
    """

    model_config = ConfigDict(json_schema_extra=_schema_of_job)

    code: Code = ""
    language: Literal["python", "javascript", "node", "bash"] = "python"
    command: Command = ""
    args: Arguments = Field(default_factory=list[str])
    env: Annotated[dict[EnvName, Argument], Field(max_length=10_000)] = Field(
        default_factory=dict[str, str]
    )
    stdin: Stdin = ""
    name: ShortText = ""
    tags: Annotated[list[Tag], Field(max_length=32)] = Field(default_factory=list[str])
    user_id: UserId = ""
    resources: ResourcesBody = ResourcesBody()
    limits: LimitsBody = LimitsBody()
    image: ImageName | None = None
    require: Annotated[dict[RequireName, Tag], Field(max_length=32)] = Field(
        default_factory=dict[str, str]
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    retry_on_failure: bool = False
    max_cost: Amount | None = None
    not_before: Moment | None = None
    deadline: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, data: object) -> object:
        if isinstance(data, dict):
            for name in NOT_YET:
                if name in cast("dict[str, object]", data):
                    raise wrong(name, f"{name} is not supported by this version of Grid-X")
        return cast("object", data)

    @model_validator(mode="after")
    def _together(self) -> "JobBody":
        if bool(self.code) == bool(self.command):
            raise wrong("code", "give either code or command")
        if self.command:
            for name in ("language", "args"):
                if name in self.model_fields_set:
                    raise wrong(name, "command takes the place of code, language and args")
        if self.require.get("sandbox", Backend.NONE) not in BACKENDS:
            raise wrong("require.sandbox", f"one of {', '.join(BACKENDS)}")
        asked = self.require.get("enforces", Enforcement.MEMORY)
        if not all(word.strip() in LIMITS for word in asked.split(",")):
            raise wrong("require.enforces", f"of {', '.join(LIMITS)}, with commas between")
        if self.image and self.require.get("sandbox", Backend.DOCKER) != Backend.DOCKER:
            raise wrong("require.sandbox", "only docker runs jobs in an image of their own")
        if self.args or self.env or self.command:
            words = self.command if isinstance(self.command, list) else ()
            check_arguments((*self.args, *words), self.env)
        if self.not_before and self.deadline:
            if from_rfc3339(self.deadline) <= from_rfc3339(self.not_before):
                raise wrong("deadline", "it must be after not_before")
        return self

    def to_spec(self, usual: Limits = _USUAL) -> JobSpec:
        """The job in the domain's words; with the `usual` limits where it asks for none."""
        words = tuple(self.command) if isinstance(self.command, list) else self.command or None
        language = "bash" if self.command else self.language
        r = self.resources
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
            limits=self.limits.beside(usual),
            image=self.image,
            require=self.require,
            priority=self.priority,
            max_attempts=self.max_attempts,
            retry_on_failure=self.retry_on_failure,
            max_cost=None if self.max_cost is None else parse_credits(self.max_cost),
            not_before=None if self.not_before is None else from_rfc3339(self.not_before),
            deadline=None if self.deadline is None else from_rfc3339(self.deadline),
        )


def check_arguments(args: tuple[str, ...], env: dict[str, str]) -> None:
    """Raises (as `wrong` does) when a variable, or all of `args` and `env`, are too long."""
    size = sum(len(argument.encode()) for argument in args)
    for name, value in env.items():
        pair = len(name) + len(value.encode())
        if pair > ARGUMENT_BYTES_MAX:
            raise wrong(f"env.{name[:64]}", "name and value are over 120 KiB together")
        size += pair
    if size > ARGUMENTS_BYTES_MAX:
        raise wrong("args", "args and env are over 1 MiB together")


def _schema_of_batch(schema: dict[str, Any]) -> None:
    schema["properties"]["template"] = {"$ref": schema["properties"]["jobs"]["items"]["$ref"]}
    one_by_one = {"required": ["jobs"], "maxProperties": 1}
    schema["oneOf"] = [one_by_one, {"required": ["template", "args"], "maxProperties": 2}]


class BatchBody(Body):
    """`POST /jobs/batch`: specs one by one, or one template with the arguments of each job.

    Each list in `args` takes the place of the template's own; to a template with the words of a
    `command` it is appended, to one with a shell line it gives `$1`, `$2` and so on.
    """

    model_config = ConfigDict(json_schema_extra=_schema_of_batch)

    jobs: Annotated[list[JobBody], Field(min_length=1, max_length=BATCH_JOBS_MAX)] = []
    template: JobBody | None = None
    args: Annotated[list[Arguments], Field(min_length=1, max_length=BATCH_JOBS_MAX)] = []
