"""Frames of the worker WebSocket, version 1.

One message a frame, a map whose `type` names its class here: MessagePack on the `gridx.v1`
subprotocol, JSON on `gridx.v1+json` (bytes as base64 there). A frame with an unknown type, a field
too many, or a field of the wrong type is refused as a whole; a new version gets a new subprotocol.

Life of a connection: the worker sends `hello`, gets `welcome` or `refused`; then the coordinator
sends `assign`, the worker answers each attempt with `started`, any number of `log` and one
`finished`, which it keeps until the `ack` of that attempt. `log` frames of an attempt are numbered
from 0; `keep` tells a worker that comes back how many of them are safe.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from gridx.domain.sandbox import WEAKEST_SANDBOX, Backend

SUBPROTOCOL = "gridx.v1"
SUBPROTOCOL_JSON = "gridx.v1+json"
FRAME_BYTES_MAX = 8 * 1024 * 1024
LOG_DATA_BYTES_MAX = 64 * 1024
CLOSE_POLICY = 1008

Id = Annotated[
    str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Meta(max_length=4096)]
Number = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
ReasonName = Literal[
    "exit_code",
    "timeout",
    "out_of_memory",
    "output_limit",
    "disk_limit",
    "process_limit",
    "sandbox_error",
    "cancelled",
]


class Frame(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of all frames: the class's name in lower case is its `type`."""


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A map inside a frame."""


class WireResources(_Part, frozen=True):
    """Amounts offered or free."""

    cpus: Annotated[float, Meta(ge=0, le=1024)] = 0.0
    memory_mb: Annotated[int, Meta(ge=0, le=16_777_216)] = 0
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    disk_mb: Annotated[int, Meta(ge=0, le=16_777_216)] = 0


class WireCapabilities(_Part, frozen=True):
    """What a worker offers: `resources` in all, language names, sandbox backends, GPU models.

    `images` are patterns of the images that jobs may name to run in, `lacks` the limits and walls that
    each sandbox cannot enforce on this machine.
    """

    resources: WireResources
    languages: Annotated[list[Name], Meta(max_length=32)] = []
    sandboxes: Annotated[list[Name], Meta(max_length=32)] = []
    gpus: Annotated[list[Name], Meta(max_length=64)] = []
    labels: Annotated[dict[Name, Name], Meta(max_length=64)] = {}
    os: Name = "linux"
    arch: Name = "unknown"
    images: Annotated[list[Name], Meta(max_length=256)] = []
    lacks: Annotated[
        dict[Name, Annotated[list[Name], Meta(max_length=32)]], Meta(max_length=32)
    ] = {}


class LeaseRef(_Part, frozen=True):
    """Which attempt of which job, under which lease."""

    job_id: Id
    attempt: Number
    lease: Id


class Kept(_Part, frozen=True):
    """A lease the worker keeps, with the number of its `log` frames that are committed."""

    job_id: Id
    attempt: Number
    lease: Id
    log_frames: int = 0


class WireUsage(_Part, frozen=True):
    """What an attempt used."""

    wall_s: Seconds = 0.0
    cpu_s: Seconds = 0.0
    peak_memory_mb: Seconds = 0.0


class WireSpec(_Part, frozen=True):
    """What a worker needs of a job to run it; `timeout_s` is the attempt's limit.

    It runs in the backend `sandbox` where that is named, and in none below `sandbox_at_least`.
    """

    language: Name
    code: str
    args: list[str]
    env: dict[str, str]
    stdin: str
    cpus: float
    memory_mb: int
    gpus: int
    disk_mb: int
    timeout_s: float
    output_bytes: int
    processes: int
    image: str | None = None
    sandbox: Name | None = None
    sandbox_at_least: Backend = WEAKEST_SANDBOX


class Assignment(_Part, frozen=True):
    """One attempt a worker is to run."""

    job_id: Id
    attempt: Number
    lease: Id
    spec: WireSpec
    traceparent: str | None = None


# ------------------------------------------------------------------ worker to coordinator


class Hello(Frame, frozen=True, tag="hello"):
    """The first frame: who this is, what it offers, and which leases it still holds."""

    name: Name
    version: Name
    capabilities: WireCapabilities
    worker_id: Id | None = None
    running: list[LeaseRef] = []
    unacknowledged: list[LeaseRef] = []


class Heartbeat(Frame, frozen=True, tag="heartbeat"):
    """The worker lives, and these attempts with it; `load` is that of the machine's last minute.

    What is less free than the attempts leave over is not given out; nothing free: no new work.
    """

    free: WireResources | None = None
    load: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    running: list[LeaseRef] = []


class State(Frame, frozen=True, tag="state"):
    """The owner paused or resumed the worker."""

    paused: bool


class Leaving(Frame, frozen=True, tag="leaving"):
    """The worker goes; every attempt it has not finished is handed over."""


class Started(Frame, frozen=True, tag="started"):
    """The attempt's program runs, in the named sandbox backend."""

    job_id: Id
    attempt: Number
    lease: Id
    sandbox: Name | None = None


class Log(Frame, frozen=True, tag="log"):
    """Some output of a running attempt: the `number`-th such frame, bytes of one stream."""

    job_id: Id
    attempt: Number
    lease: Id
    number: Annotated[int, Meta(ge=0, le=10_000_000)]
    stream: Literal["stdout", "stderr"]
    data: Annotated[bytes, Meta(max_length=LOG_DATA_BYTES_MAX)]


class Finished(Frame, frozen=True, tag="finished"):
    """The attempt ended; sent again until acknowledged. No reason means it ended by itself."""

    job_id: Id
    attempt: Number
    lease: Id
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    reason: ReasonName | None = None
    usage: WireUsage = WireUsage()
    detail: Text | None = None
    outputs: Annotated[dict[str, str], Meta(max_length=10_000)] = {}


# ------------------------------------------------------------------ coordinator to worker


class Welcome(Frame, frozen=True, tag="welcome"):
    """The worker is accepted; `worker_token` only when it came with a user's token."""

    worker_id: Id
    heartbeat_s: float
    lease_s: float
    keep: list[Kept] = []
    drop: list[LeaseRef] = []
    worker_token: str | None = None
    paused: bool = False
    draining: bool = False


class Refused(Frame, frozen=True, tag="refused"):
    """The worker is not accepted; `retry` says whether trying again later may help."""

    reason: str
    retry: bool = False


class Assign(Frame, frozen=True, tag="assign"):
    """Attempts to run."""

    attempts: list[Assignment]


class Ack(Frame, frozen=True, tag="ack"):
    """The attempt's end is committed: forget it."""

    job_id: Id
    attempt: Number
    lease: Id


class Drop(Frame, frozen=True, tag="drop"):
    """The lease is not (or no longer) the worker's: stop the attempt and forget it."""

    job_id: Id
    attempt: Number
    lease: Id


class TakeBack(Frame, frozen=True, tag="take_back"):
    """Give back an attempt that has not started; if it has, stop and forget it."""

    job_id: Id
    attempt: Number
    lease: Id


class Cancel(Frame, frozen=True, tag="cancel"):
    """End the attempt's program and report it as cancelled."""

    job_id: Id
    attempt: Number
    lease: Id


class Pause(Frame, frozen=True, tag="pause"):
    """Take no more work; what runs goes on."""


class Resume(Frame, frozen=True, tag="resume"):
    """Take work again."""


class Drain(Frame, frozen=True, tag="drain"):
    """Take no more work, finish what runs, then leave."""


class Broadcast(Frame, frozen=True, tag="broadcast"):
    """A word from an administrator to the person at the worker."""

    text: Text


class Disconnect(Frame, frozen=True, tag="disconnect"):
    """The connection ends; `retry` says whether the worker should come back."""

    reason: str
    retry: bool = True


FromWorker = Hello | Heartbeat | State | Leaving | Started | Log | Finished
FromCoordinator = (
    Welcome | Refused | Assign | Ack | Drop | TakeBack | Cancel
    | Pause | Resume | Drain | Broadcast | Disconnect
)  # fmt: skip

F = TypeVar("F")


class Codec:
    """Encodes and decodes frames of one connection, as its subprotocol says."""

    def __init__(self, subprotocol: str) -> None:
        """Raises `ValueError` for a subprotocol this version does not speak."""
        if subprotocol not in (SUBPROTOCOL, SUBPROTOCOL_JSON):
            raise ValueError(f"unknown subprotocol {subprotocol!r}")
        self.text = subprotocol == SUBPROTOCOL_JSON
        decoder = msgspec.json.Decoder if self.text else msgspec.msgpack.Decoder
        encoder = msgspec.json.Encoder if self.text else msgspec.msgpack.Encoder
        self._encode = encoder().encode
        self._from_worker = decoder(FromWorker)
        self._from_coordinator = decoder(FromCoordinator)

    def encode(self, frame: Frame) -> bytes:
        """The bytes of one message; JSON ones are UTF-8 text."""
        return self._encode(frame)

    def from_worker(self, data: bytes | str) -> FromWorker:
        """Raises `ValueError` (with what is wrong) for anything that is not such a frame."""
        return self._decode(self._from_worker, data)

    def from_coordinator(self, data: bytes | str) -> FromCoordinator:
        """Raises `ValueError` (with what is wrong) for anything that is not such a frame."""
        return self._decode(self._from_coordinator, data)

    def _decode(self, decoder: Any, data: bytes | str) -> Any:
        if isinstance(data, str) is not self.text:
            raise ValueError("text frames are for gridx.v1+json, binary ones for gridx.v1")
        try:
            return decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"not a frame of this protocol: {error}") from None


def split_assignments(assignments: Sequence[Assignment]) -> list[Assign]:
    """Frames that together carry `assignments`, none of them over `FRAME_BYTES_MAX`."""
    frames: list[Assign] = []
    batch: list[Assignment] = []
    size = 0
    for assignment in assignments:
        bytes_of_one = _size_bound(assignment)
        if batch and size + bytes_of_one > FRAME_BYTES_MAX - 1024:
            frames.append(Assign(batch))
            batch, size = [], 0
        batch.append(assignment)
        size += bytes_of_one
    if batch:
        frames.append(Assign(batch))
    return frames


def _size_bound(assignment: Assignment) -> int:
    # JSON may escape a control character into six bytes; small jobs need no exact count.
    spec = assignment.spec
    texts = [spec.code, spec.stdin, *spec.args, *spec.env, *spec.env.values()]
    characters = sum(map(len, texts))
    if characters < 16_384:
        return characters * 6 + 8 * len(texts) + 1024
    return len(msgspec.json.encode(assignment)) + 1024
