"""Frames: both encodings carry the same, nothing else gets through, and no frame is too large."""

import msgspec
import pytest

from gridx.protocol import frames
from gridx.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_JSON, Codec, Frame

ID = "9b2f0f5a-8f4f-4a0e-9d38-0a52b0f6f3aa"
REF = frames.LeaseRef(ID, 1, ID)
FROM_WORKER: list[frames.FromWorker] = [
    frames.Hello("w", "1", frames.WireCapabilities(frames.WireResources(1.5, 16, 0, 1)), ID, [REF]),
    frames.Heartbeat(frames.WireResources(cpus=0.5), 1.25, [REF]),
    frames.State(paused=True),
    frames.Leaving(),
    frames.Started(ID, 1, ID, "bubblewrap"),
    frames.Log(ID, 1, ID, 0, "stdout", b"\x00\xff\n"),
    frames.Finished(ID, 1, ID, 3, "exit_code", frames.WireUsage(1.0, 0.5, 12.5), "ä"),
]
FROM_COORDINATOR: list[frames.FromCoordinator] = [
    frames.Welcome(ID, 10.0, 30.0, [frames.Kept(ID, 1, ID, 5)], [REF], "token"),
    frames.Refused("no", retry=True),
    frames.Ack(ID, 1, ID),
    frames.Drop(ID, 1, ID),
    frames.TakeBack(ID, 1, ID),
    frames.Cancel(ID, 1, ID),
    frames.Pause(),
    frames.Resume(),
    frames.Drain(),
    frames.Broadcast("hello"),
    frames.Disconnect("bye", retry=False),
]


def on_wire(codec: Codec, frame: Frame) -> bytes | str:
    data = codec.encode(frame)
    return data.decode() if codec.text else data


@pytest.mark.parametrize("subprotocol", [SUBPROTOCOL, SUBPROTOCOL_JSON])
def test_every_frame_comes_through_as_it_was(subprotocol: str) -> None:
    codec = Codec(subprotocol)

    for frame in FROM_WORKER:
        assert codec.from_worker(on_wire(codec, frame)) == frame
    for frame in FROM_COORDINATOR:
        assert codec.from_coordinator(on_wire(codec, frame)) == frame


def test_a_side_does_not_take_what_only_the_other_says() -> None:
    codec = Codec(SUBPROTOCOL)

    for frame in FROM_COORDINATOR:
        with pytest.raises(ValueError, match="not a frame"):
            codec.from_worker(codec.encode(frame))
    for frame in FROM_WORKER:
        with pytest.raises(ValueError, match="not a frame"):
            codec.from_coordinator(codec.encode(frame))


def test_every_type_is_the_words_of_its_class() -> None:
    types = [msgspec.msgpack.decode(msgspec.msgpack.encode(f))["type"] for f in FROM_COORDINATOR]

    assert types == [
        "welcome", "refused", "ack", "drop", "take_back", "cancel", "pause", "resume", "drain",
        "broadcast", "disconnect",
    ]  # fmt: skip


def test_text_and_bytes_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="text frames"):
        Codec(SUBPROTOCOL).from_worker('{"type":"leaving"}')
    with pytest.raises(ValueError, match="text frames"):
        Codec(SUBPROTOCOL_JSON).from_worker(b'{"type":"leaving"}')
    with pytest.raises(ValueError, match="unknown subprotocol"):
        Codec("gridx.v2")


def assignment(code: str, args: list[str] | None = None) -> frames.Assignment:
    spec = frames.WireSpec("python", code, args or [], {}, "", 1.0, 256, 0, 256, 60.0, 1024, 64)
    return frames.Assignment(ID, 1, ID, spec)


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        [assignment("1")] * 10_000,
        [assignment("x" * 1_048_576)] * 20,
        [assignment("\x01" * 1_048_576)] * 3,
        [assignment("é" * 524_288, ["\\" * 120_000] * 8)] * 12,
        [assignment("1", [""] * 10_000)] * 100,
    ],
    ids=["none", "small", "large", "escaped", "mixed", "many"],
)
def test_no_frame_of_assignments_is_over_the_limit(assignments: list[frames.Assignment]) -> None:
    found = frames.split_assignments(assignments)

    assert [one for frame in found for one in frame.attempts] == assignments
    for subprotocol in (SUBPROTOCOL, SUBPROTOCOL_JSON):
        for frame in found:
            assert len(Codec(subprotocol).encode(frame)) <= frames.FRAME_BYTES_MAX
