"""From a command's options to a job: which program, in which language, with what limits."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gridx.cli.command import Options
from gridx.cli.remote import moment
from gridx.domain.errors import InvalidInput

if TYPE_CHECKING:
    from gridx.client.calls import JobRequest

LANGUAGE_OF_SUFFIX = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".sh": "bash",
    ".bash": "bash",
}
LANGUAGE_OF_INTERPRETER = {"python": "python", "node": "javascript", "bash": "bash", "sh": "bash"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFlags(Options):
    """What a job asks for; what is not given has the grid's default."""

    language: Annotated[
        str | None,
        typer.Option("--language", "-l", metavar="NAME", help="python, javascript or bash."),
    ] = None
    cpus: Annotated[float | None, typer.Option(metavar="N", help="CPUs (1).")] = None
    memory: Annotated[int | None, typer.Option(metavar="MB", help="Memory (256).")] = None
    gpus: Annotated[int | None, typer.Option(metavar="N", help="GPUs (0).")] = None
    disk: Annotated[int | None, typer.Option(metavar="MB", help="Space for files (256).")] = None
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time limit of an attempt (60).")
    ] = None
    output_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Output kept of each stream (1048576).")
    ] = None
    processes: Annotated[int | None, typer.Option(metavar="N", help="Processes (64).")] = None
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="K=V", help="A variable; may be repeated."),
    ] = None
    stdin: Annotated[
        str | None, typer.Option(metavar="FILE", help="The job's standard input; - is ours.")
    ] = None
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name to find it by.")] = None
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A tag; may be repeated.")
    ] = None
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="An image to run in, where workers offer it.")
    ] = None
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="What the worker must be, like label:site=lab-2."),
    ] = None
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="-100 to 100 among your own jobs (0).")
    ] = None
    max_attempts: Annotated[
        int | None, typer.Option(metavar="N", help="Attempts when workers fail (3).")
    ] = None
    retry_on_failure: Annotated[
        bool, typer.Option("--retry-on-failure", help="Try again when the program fails, too.")
    ] = False
    max_cost: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="Never pay more than this.")
    ] = None
    not_before: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Do not begin before 2h, or 2026-12-24T18:00:00Z."),
    ] = None
    deadline: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Give up unless it has begun by then.")
    ] = None

    def request(self, code: str, language: str, args: list[str]) -> "JobRequest":
        """The job: `code` with `args`, and everything that was asked for."""
        resources = {
            "cpus": self.cpus,
            "memory_mb": self.memory,
            "gpus": self.gpus,
            "disk_mb": self.disk,
        }
        limits = {
            "timeout_s": self.timeout,
            "output_bytes": self.output_bytes,
            "processes": self.processes,
        }
        fields: dict[str, Any] = {
            "code": code,
            "language": language,
            "args": args,
            "env": _pairs("--env", self.env),
            "stdin": read_source(self.stdin) if self.stdin else None,
            "name": self.name,
            "tags": self.tag,
            "resources": _given(resources),
            "limits": _given(limits),
            "image": self.image,
            "require": _pairs("--require", self.require),
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "retry_on_failure": self.retry_on_failure or None,
            "max_cost": self.max_cost,
            "not_before": moment(self.not_before),
            "deadline": moment(self.deadline),
        }
        return cast("JobRequest", _given(fields))


def program(code: str | None, words: list[str], language: str | None) -> tuple[str, str, list[str]]:
    """Code, language and arguments, from `-c CODE [ARGS]` or `FILE [ARGS]`."""
    if code is not None:
        return code, language or "python", words
    if not words:
        raise typer.BadParameter("give a FILE to run, or -c CODE")
    text = read_source(words[0])
    return text, language or language_of(words[0], text), words[1:]


def language_of(file: str, text: str) -> str:
    """The language by the file's ending, else by its first line."""
    suffix = Path(file).suffix.lower()
    if suffix in LANGUAGE_OF_SUFFIX:
        return LANGUAGE_OF_SUFFIX[suffix]
    first = text.split("\n", 1)[0]
    if first.startswith("#!"):
        words = first[2:].split()
        names = [Path(word).name.rstrip("0123456789.") for word in words]
        for name in names:
            if name in LANGUAGE_OF_INTERPRETER:
                return LANGUAGE_OF_INTERPRETER[name]
    raise InvalidInput(
        f"The language of {file} is not known: give --language python, javascript or bash"
    )


def read_source(file: str) -> str:
    """The text of a file, or of standard input for `-`."""
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(
            f"{file} is not text in UTF-8: a job's code and input are text"
        ) from None


def read_batch(file: str) -> "list[JobRequest]":
    """Jobs from JSON (a list of them, or `{"jobs": [...]}`) or from JSONL, one a line."""
    text = read_source(file)
    try:
        content = json.loads(text)
    except ValueError:
        content = _lines(file, text)
    if isinstance(content, dict):
        whole = cast("dict[str, Any]", content)
        content = whole["jobs"] if set(whole) == {"jobs"} else [whole]
    jobs = cast("list[object]", content) if isinstance(content, list) else []
    if not jobs or not all(isinstance(job, dict) for job in jobs):
        raise InvalidInput(f"{file} holds no jobs: it is a JSON list of them, or JSONL")
    return cast("list[JobRequest]", jobs)


def _lines(file: str, text: str) -> list[object]:
    found: list[object] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise InvalidInput(f"{file}, line {number}: no JSON: {error}") from None
    return found


def _pairs(flag: str, texts: list[str] | None) -> dict[str, str] | None:
    if not texts:
        return None
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{flag} takes NAME=VALUE, not {text!r}")
        pairs[name] = value
    return pairs


def _given(values: dict[str, Any]) -> dict[str, Any] | None:
    return {name: value for name, value in values.items() if value not in (None, [], {})} or None
