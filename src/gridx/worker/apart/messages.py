"""What agent and warden say to each other: MessagePack with a tag, nothing but plain data.

The agent numbers what it asks for; the warden's answers carry that number. `Program.outputs` does not
cross: files of jobs are not kept through a warden.
"""

import msgspec
from msgspec import Struct

from gridx.domain.sandbox import Backend, Enforcement
from gridx.worker.sandbox.base import Limits, Outcome, Program, Stream


class Message(Struct, frozen=True, tag=True, array_like=True):
    """Base of all of them."""


class Open(Message, frozen=True):
    """Make the sandboxes ready that were chosen at the start."""


class Run(Message, frozen=True):
    """Run a program."""

    number: int
    backend: Backend
    attempt_id: str
    program: Program
    limits: Limits


class Cancel(Message, frozen=True):
    """Have it told to end."""

    number: int


class GiveUp(Message, frozen=True):
    """Nobody waits for it any more: end it at once."""

    number: int


class Ask(Message, frozen=True):
    """Say whether what watches over an attempt answers."""

    number: int
    backend: Backend
    attempt_id: str


class Opened(Message, frozen=True):
    """These sandboxes are offered, the strongest first, and what each cannot enforce here."""

    lacks: dict[Backend, tuple[Enforcement, ...] | None]


class Refused(Message, frozen=True):
    """None is, for this reason."""

    message: str


class Piece(Message, frozen=True):
    """A piece of a program's output."""

    number: int
    stream: Stream
    data: bytes


class Ended(Message, frozen=True):
    """How a program ended; no piece comes after it."""

    number: int
    outcome: Outcome


class Answer(Message, frozen=True):
    """What an `Ask` was answered with."""

    number: int
    lives: bool


FromAgent = Open | Run | Cancel | GiveUp | Ask
FromWarden = Opened | Refused | Piece | Ended | Answer

encode = msgspec.msgpack.Encoder().encode
from_agent = msgspec.msgpack.Decoder(FromAgent).decode
from_warden = msgspec.msgpack.Decoder(FromWarden).decode
