"""Between frames and what the coordinator knows: reports in, orders out."""

from collections.abc import Iterator, Sequence

from gridx.clock import MICROSECONDS
from gridx.coordinator.sessions import (
    AssignedAttempt,
    AssignOrder,
    ControlOrder,
    DisconnectOrder,
    FinishedReport,
    Greeting,
    HeartbeatReport,
    LeaseKey,
    LeaseOrder,
    LeavingReport,
    LogReport,
    Order,
    Report,
    StartedReport,
    StateReport,
)
from gridx.domain.attempt import Reason
from gridx.domain.matching import shape_of
from gridx.domain.resources import Resources
from gridx.domain.worker import Capabilities
from gridx.protocol import frames
from gridx.protocol.frames import Frame, FromWorker, LeaseRef, WireResources

_LEASE_FRAMES = {
    "ack": frames.Ack,
    "drop": frames.Drop,
    "take_back": frames.TakeBack,
    "cancel": frames.Cancel,
}


def greeting(hello: frames.Hello) -> Greeting:
    """What a worker's first frame says."""
    offer = hello.capabilities
    capabilities = Capabilities(
        _resources(offer.resources),
        tuple(offer.languages),
        tuple(offer.sandboxes),
        tuple(offer.gpus),
        offer.labels,
        offer.os,
        offer.arch,
        tuple(offer.images),
        {sandbox: tuple(limits) for sandbox, limits in offer.lacks.items()},
    )
    return Greeting(
        hello.worker_id,
        hello.name,
        hello.version,
        capabilities,
        tuple(_key(ref) for ref in hello.running),
        tuple(_key(ref) for ref in hello.unacknowledged),
    )


def report(frame: FromWorker) -> Report:
    """What a later frame reports; raises `ValueError` for a second `hello`."""
    match frame:
        case frames.Log():
            return LogReport(_key(frame), frame.number, frame.stream, frame.data)
        case frames.Started():
            return StartedReport(_key(frame), frame.sandbox)
        case frames.Finished():
            usage = frame.usage
            return FinishedReport(
                _key(frame),
                frame.exit_code,
                None if frame.reason is None else Reason(frame.reason),
                usage.wall_s,
                usage.cpu_s,
                usage.peak_memory_mb,
                frame.detail,
            )
        case frames.Heartbeat():
            running = tuple(_key(ref) for ref in frame.running)
            free = None if frame.free is None else _resources(frame.free)
            return HeartbeatReport(free, frame.load, running)
        case frames.State():
            return StateReport(frame.paused)
        case frames.Leaving():
            return LeavingReport()
        case frames.Hello():
            raise ValueError("hello comes once, as the first frame")


def ordered(orders: Sequence[Order]) -> Iterator[Frame]:
    """The frames that carry `orders`; assignments that follow each other go together."""
    assigned: list[frames.Assignment] = []
    for order in orders:
        if isinstance(order, AssignOrder):
            assigned.extend(_assignment(attempt) for attempt in order.attempts)
            continue
        yield from frames.split_assignments(assigned)
        assigned.clear()
        yield _frame(order)
    yield from frames.split_assignments(assigned)


def lease_ref(key: LeaseKey) -> LeaseRef:
    """A lease as frames name it."""
    return LeaseRef(key.job_id, key.attempt, key.lease)


def _frame(order: LeaseOrder | ControlOrder | DisconnectOrder) -> Frame:
    match order:
        case LeaseOrder(kind, key):
            return _LEASE_FRAMES[kind](key.job_id, key.attempt, key.lease)
        case DisconnectOrder(reason, retry):
            return frames.Disconnect(reason, retry)
        case ControlOrder("pause"):
            return frames.Pause()
        case ControlOrder("resume"):
            return frames.Resume()
        case ControlOrder("drain"):
            return frames.Drain()
        case ControlOrder(_, text):
            return frames.Broadcast(text or "")


def _assignment(attempt: AssignedAttempt) -> frames.Assignment:
    key = attempt.key
    spec = _wire_spec(attempt)
    return frames.Assignment(key.job_id, key.attempt, key.lease, spec, attempt.traceparent)


def _wire_spec(attempt: AssignedAttempt) -> frames.WireSpec:
    spec = attempt.spec
    language, code, args = spec.language, spec.code, list(spec.args)
    if isinstance(spec.command, str):
        language, code = "bash", spec.command
    elif spec.command is not None:
        # The words of a command are run as they are, without a shell's reading of them.
        language, code, args = "bash", 'exec "$@"\n', list(spec.command)
    return frames.WireSpec(
        language=language,
        code=code,
        args=args,
        env=dict(spec.env),
        stdin=spec.stdin,
        cpus=spec.resources.cpus,
        memory_mb=spec.resources.memory_mb,
        gpus=spec.resources.gpus,
        disk_mb=spec.resources.disk_mb,
        timeout_s=attempt.limit_us / MICROSECONDS,
        output_bytes=spec.limits.output_bytes,
        processes=spec.limits.processes,
        image=spec.image,
        sandbox=shape_of(spec).sandbox,
        sandbox_at_least=attempt.sandbox_at_least,
    )


def _key(ref: LeaseRef | frames.Started | frames.Log | frames.Finished) -> LeaseKey:
    return LeaseKey(ref.job_id, ref.attempt, ref.lease)


def _resources(offer: WireResources) -> Resources:
    return Resources(offer.cpus, offer.memory_mb, offer.gpus, offer.disk_mb)
