"""The system call filter as a program: well formed for every processor it is made for."""

import struct

import pytest

from gridx.worker.sandbox.inside import filter as calls

_JUMPS = {0x15, 0x35, 0x45}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_path_through_it_ends_in_an_answer(machine: str) -> None:
    program = list(struct.iter_unpack("=HBBI", calls.compile_filter(machine)))
    assert len(program) < 4096
    for index, (code, then, other, _) in enumerate(program):
        if code in _JUMPS:
            assert index + 1 + max(then, other) < len(program)
    assert program[-1][0] == 0x06


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_denied_call_is_refused_and_others_are_not(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    tag = 0xC000003E if machine == "x86_64" else 0xC00000B7
    program = calls.compile_filter(machine)
    denied = {pair[column] for pair in calls.DENIED.values()} - {None}
    assert len(denied) > 50
    for number in range(600):
        answer = _run(program, tag, number)
        if number in denied or number == 435:
            assert answer & 0xFFFF0000 == 0x00050000, number
        elif number not in {16, 29, 41, 198, 56, 220, 135, 92}:
            assert answer == 0x7FFF0000, number
    assert _run(program, 0x40000003, 1) == 0x80000000


def test_what_is_refused_depends_on_the_arguments_of_some() -> None:
    program = calls.compile_filter("x86_64")
    allow, tag = 0x7FFF0000, 0xC000003E
    assert _run(program, tag, 56, 0x01200011) == allow
    assert _run(program, tag, 56, 0x10000011) != allow
    assert _run(program, tag, 41, 2, 1, 6) == allow
    assert _run(program, tag, 41, 40, 1, 0) == 0x00050000 | 97
    assert _run(program, tag, 41, 2, 1, 132) == 0x00050000 | 93
    assert _run(program, tag, 16, 0, 0x5412) != allow
    assert _run(program, tag, 16, 0, 0x5413) == allow
    assert _run(program, tag, 135, 0xFFFFFFFF) == allow
    assert _run(program, tag, 0x40000000 + 39) != allow


def test_a_processor_nobody_knows() -> None:
    assert calls.supported("x86_64")
    assert not calls.supported("riscv64")


def _run(program: bytes, tag: int, number: int, *arguments: int) -> int:
    """What the kernel would answer: the program run by hand on one call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    call = struct.pack("=IIQ6Q", number, tag, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = loaded = 0
    while True:
        code, then, other, value = instructions[at]
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", call, value)
        elif code == 0x06:
            return value
        else:
            tests = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            at += then if tests[code] else other
