"""The prompt: what it answers, when it ends, and from where it reads."""

import asyncio
import io
import os
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

from gridx.domain.errors import NotFound
from gridx.worker.console import Console, Lines


class Desk:
    """A worker's controls that remember."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def status(self) -> str:
        return "paused" if self.paused else "at work"


class Client:
    """A shell with three commands."""

    async def run(self, line: str) -> str | None:
        match line.split():
            case ["jobs"]:
                return "no jobs"
            case ["log", job_id]:
                raise NotFound(f"There is no job {job_id}")
            case ["submit", *_]:
                raise RuntimeError("a bug")
            case _:
                return None


@pytest.fixture
def pipe() -> Generator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


async def talk(text: str, shell: Client | None = None) -> tuple[str, Desk]:
    """What a console prints for commands that then end."""
    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    out, desk = io.StringIO(), Desk()
    async with asyncio.timeout(20):
        await Console("alice", desk, shell, out).run(Lines(read))
    os.close(read)
    return out.getvalue(), desk


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("status", "at work"),
        ("pause", "Paused"),
        ("jobs", "no jobs"),
        ("log 7", "There is no job 7"),
        ("submit x", "The command failed"),
        ("dance now", "There is no command 'dance'"),
        ("help", "credits"),
    ],
)
async def test_a_command_and_its_answer(line: str, answer: str) -> None:
    printed, _ = await talk(f"{line}\n", Client())
    assert printed.startswith("alice> ")
    assert answer in printed
    assert printed.endswith("alice> \n")


async def test_without_a_client_only_the_workers_own_commands() -> None:
    printed, _ = await talk("jobs\nhelp\n")
    assert "There is no command 'jobs'" in printed
    assert "credits" not in printed


async def test_pause_and_resume_reach_the_worker() -> None:
    assert (await talk("pause\n"))[1].paused
    assert not (await talk("pause\nresume\n"))[1].paused
    assert "paused" in (await talk("pause\nstatus\n"))[0]


async def test_quit_ends_before_what_follows() -> None:
    printed, desk = await talk("quit\npause\n")
    assert printed == "alice> "
    assert not desk.paused


async def test_a_last_line_without_its_end_counts() -> None:
    assert (await talk("pause"))[1].paused


async def test_a_message_comes_between_and_cannot_forge_a_terminal() -> None:
    out = io.StringIO()
    console = Console("alice", Desk(), None, out)
    console.tell("hello \x1b[31mred\x07")
    assert out.getvalue() == "hello  [31mred \n"


async def test_lines_come_as_they_are_written(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0])
    waiting = asyncio.get_running_loop().create_task(lines.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    os.write(pipe[1], "ein\nzw\xe4".encode("latin-1"))
    assert await waiting == "ein"
    os.write(pipe[1], b"i\n")
    assert await lines.next() == "zw\ufffdi"
    os.close(pipe[1])
    assert await lines.next() is None


async def test_a_plain_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "commands").write_text("one\ntwo\n")
    with (tmp_path / "commands").open("rb") as file:
        lines = Lines(file.fileno())
        assert [await lines.next(), await lines.next(), await lines.next()] == ["one", "two", None]


def test_only_an_input_that_ended_before_it_began_is_empty(pipe: tuple[int, int]) -> None:
    with Path("/dev/null").open("rb") as null:
        assert Lines(null.fileno()).is_empty()
    lines = Lines(pipe[0])
    assert not lines.is_empty(), "somebody may still write"
    os.write(pipe[1], b"status\n")
    assert not lines.is_empty()
    os.close(pipe[1])
    assert Lines(pipe[0]).is_empty()
    terminal, other = os.openpty()
    assert not Lines(other).is_empty()
    os.close(other)
    assert Lines(other).is_empty(), "a closed descriptor is no input"
    os.close(terminal)


async def test_waiting_for_a_line_can_be_ended(pipe: tuple[int, int]) -> None:
    waiting = asyncio.get_running_loop().create_task(Lines(pipe[0]).next())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
