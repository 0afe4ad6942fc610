"""Frames and keys that the worker's tests are written with."""

from collections.abc import Sequence

from gridx.clock import ManualClock
from gridx.protocol.frames import (
    Ack,
    Assign,
    Assignment,
    Cancel,
    Drop,
    Finished,
    Kept,
    LeaseRef,
    TakeBack,
    Welcome,
    WireCapabilities,
    WireResources,
    WireSpec,
    WireUsage,
)
from gridx.worker.events import LeaseKey
from gridx.worker.session import Profile

_ids = ManualClock(seed=7)
WORKER = _ids.new_id()


def new_key(attempt: int = 1) -> LeaseKey:
    return LeaseKey(_ids.new_id(), attempt, _ids.new_id())


def spec(
    code: str = "print(1)",
    *,
    language: str = "python",
    cpus: float = 1.0,
    timeout_s: float = 20.0,
    output_bytes: int = 100_000,
) -> WireSpec:
    return WireSpec(
        language, code, [], {}, "",
        cpus, 64, 0, 16, timeout_s, output_bytes, 64,
    )  # fmt: skip


def assignment(key: LeaseKey, what: WireSpec | None = None) -> Assignment:
    return Assignment(*key, what or spec())


def assign(*keys: LeaseKey, cpus: float = 1.0) -> Assign:
    return Assign([assignment(key, spec(cpus=cpus)) for key in keys])


def finished(key: LeaseKey, exit_code: int = 0) -> Finished:
    return Finished(*key, exit_code=exit_code, usage=WireUsage(0.5, 0.25, 10.0))


def ack(key: LeaseKey) -> Ack:
    return Ack(*key)


def drop(key: LeaseKey) -> Drop:
    return Drop(*key)


def take_back(key: LeaseKey) -> TakeBack:
    return TakeBack(*key)


def cancel(key: LeaseKey) -> Cancel:
    return Cancel(*key)


def kept(key: LeaseKey, log_frames: int) -> Kept:
    return Kept(*key, log_frames)


def welcome(
    *,
    heartbeat_s: float = 10.0,
    keep: Sequence[Kept] = (),
    drop: Sequence[LeaseRef] = (),
    worker_token: str | None = None,
    paused: bool = False,
) -> Welcome:
    return Welcome(WORKER, heartbeat_s, 30.0, list(keep), list(drop), worker_token, paused)


def offer(cpus: float = 2.0) -> WireCapabilities:
    return WireCapabilities(WireResources(cpus, 1024, 0, 1024), ["python", "bash"], ["bubblewrap"])


def profile(cpus: float = 2.0) -> Profile:
    return Profile("desk", "1.0", offer(cpus))
