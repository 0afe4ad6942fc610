"""Output gathered into pieces, and failures that stay one attempt's."""

import asyncio
from collections.abc import Callable

import pytest

from gridx.domain.attempt import Reason, Usage
from gridx.protocol.frames import LOG_DATA_BYTES_MAX
from gridx.worker.events import StreamName
from gridx.worker.executor import PIECES_MAX, Gather, execute, finished
from gridx.worker.sandbox.base import Emit, Limits, Outcome, Program, Report, Stream
from tests.worker.frames import assignment, new_key, spec

Piece = tuple[StreamName, bytes]


class Sink:
    """Keeps what is passed on, and says when something comes."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.came = asyncio.Event()

    def __call__(self, stream: StreamName, data: bytes) -> None:
        self.pieces.append((stream, data))
        self.came.set()

    def text(self, stream: StreamName) -> bytes:
        return b"".join(data for name, data in self.pieces if name == stream)


async def test_small_pieces_travel_together_soon() -> None:
    sink = Sink()
    gather = Gather(sink, 1000)
    for _ in range(10):
        gather.take(Stream.STDOUT, b"ab")
    assert sink.pieces == []
    async with asyncio.timeout(20):
        await sink.came.wait()
    assert sink.pieces == [("stdout", b"ab" * 10)]


async def test_the_order_of_both_streams_is_kept() -> None:
    sink = Sink()
    gather = Gather(sink, 1000)
    gather.take(Stream.STDOUT, b"1")
    gather.take(Stream.STDERR, b"2")
    gather.take(Stream.STDOUT, b"3")
    gather.close()
    assert sink.pieces == [("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3")]


async def test_a_full_frame_does_not_wait_and_none_is_larger() -> None:
    sink = Sink()
    gather = Gather(sink, 10_000_000)
    gather.take(Stream.STDOUT, bytes(3 * LOG_DATA_BYTES_MAX + 1))
    assert [len(data) for _, data in sink.pieces] == [LOG_DATA_BYTES_MAX] * 3 + [1]


async def test_streams_that_alternate_make_few_frames_and_lose_nothing() -> None:
    sink = Sink()
    gather = Gather(sink, 10_000_000)
    for number in range(10_000):
        gather.take((Stream.STDOUT, Stream.STDERR)[number % 2], b"%d," % number)
    gather.close()
    assert len(sink.pieces) <= PIECES_MAX
    assert sink.text("stdout") == b"".join(b"%d," % n for n in range(0, 10_000, 2))
    assert sink.text("stderr") == b"".join(b"%d," % n for n in range(1, 10_000, 2))


async def test_no_stream_passes_its_bound() -> None:
    sink = Sink()
    gather = Gather(sink, 5)
    gather.take(Stream.STDOUT, b"abc")
    gather.take(Stream.STDERR, b"xyz")
    gather.take(Stream.STDOUT, b"defg")
    gather.take(Stream.STDOUT, b"h")
    gather.close()
    gather.take(Stream.STDERR, b"late")
    assert (sink.text("stdout"), sink.text("stderr")) == (b"abcde", b"xyz")


class Backend:
    """A sandbox that does one thing, for what no real one does on demand."""

    name = "planted"
    lacks = ()

    def __init__(self, do: Callable[[Emit], Outcome | None]) -> None:
        self._do = do

    async def probe(self) -> Report:
        return Report(self.name, works=True)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def answers(self, attempt_id: str) -> bool:
        return True

    async def run(
        self,
        attempt_id: str,
        program: Program,
        limits: Limits,
        emit: Emit,
        cancel: asyncio.Event,
    ) -> Outcome:
        outcome = self._do(emit)
        if outcome is None:
            await asyncio.Event().wait()
        assert outcome is not None
        return outcome


def raise_bug(emit: Emit) -> Outcome:
    emit(Stream.STDOUT, b"before")
    raise RuntimeError("a bug in a backend")


async def test_a_bug_in_a_backend_is_a_sandbox_error_and_keeps_the_output() -> None:
    sink, key = Sink(), new_key()
    end = await execute(Backend(raise_bug), assignment(key), sink, asyncio.Event())
    assert (end.reason, end.exit_code, end.lease) == ("sandbox_error", None, key.lease)
    assert sink.text("stdout") == b"before"


async def test_a_backend_that_never_ends_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridx.worker.executor.OVERDUE_S", 0.0)
    what = assignment(new_key(), spec(timeout_s=0.05))
    end = await execute(Backend(lambda emit: None), what, Sink(), asyncio.Event())
    assert end.reason == "sandbox_error"


@pytest.mark.parametrize(
    ("outcome", "exit_code", "reason"),
    [
        (Outcome(0, None), 0, None),
        (Outcome(137, Reason.EXIT_CODE), 137, "exit_code"),
        (Outcome(None, Reason.TIMEOUT), None, "timeout"),
        (Outcome(1, Reason.PROCESS_LIMIT), 1, "process_limit"),
        (Outcome(None, Reason.CANCELLED), None, "cancelled"),
    ],
)
def test_an_outcome_on_the_wire(outcome: Outcome, exit_code: int, reason: str) -> None:
    frame = finished(new_key(), outcome)
    assert (frame.exit_code, frame.reason, frame.detail) == (exit_code, reason, None)


def test_a_report_never_breaks_the_frame() -> None:
    odd = Outcome(0, None, Usage(-1.0, -0.5, -3.0), "x" * 100_000)
    frame = finished(new_key(), odd)
    assert (frame.usage.wall_s, frame.usage.cpu_s, frame.usage.peak_memory_mb) == (0.0, 0.0, 0.0)
    assert len(frame.detail or "") <= 4096
