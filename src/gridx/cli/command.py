"""How a command is declared: its name, its examples, its options, and what an error looks like.

Options that several commands share are the fields of a frozen dataclass derived from `Options`; a
command that takes such a dataclass as a parameter has them all. A refusal ends a command with one
clear line and exit code 1, never with a traceback.
"""

import errno
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, get_type_hints

import typer

from gridx.cli import output
from gridx.domain.errors import GridError

O = TypeVar("O", bound="Options")  # noqa: E741
Run = Callable[..., int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Base of options that several commands share."""


def group(name: str, text: str, examples: Sequence[str]) -> typer.Typer:
    """A command with commands of its own; `text` says what it is for."""
    return typer.Typer(
        name=name, help=text, epilog=_epilog(examples), no_args_is_help=False, **_PLAIN
    )


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], rest: bool = False
) -> Callable[[Run], Run]:
    """Declare the decorated function as the command `name` of `app`.

    Its docstring is the help; `rest` hands everything after the first argument on as it is. It may
    return an exit code.
    """

    def declare(function: Run) -> Run:
        settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
        if rest:
            settings |= {"allow_interspersed_args": False}
        app.command(name, epilog=_epilog(examples), context_settings=settings)(runnable(function))
        return function

    return declare


def runnable(function: Run) -> Callable[..., None]:
    """`function` with its shared options spread out, and its errors told to the person."""
    signature = inspect.signature(function, eval_str=True)
    spread: dict[str, type[Options]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            spread[parameter.name] = kind
            parameters += _parameters_of(kind)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def run(**given: Any) -> None:
        for name, kind in spread.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        try:
            code = function(**given)
        except GridError as error:
            output.fail(error)
            code = 1
        except TimeoutError as error:
            output.complain(str(error))
            code = 1
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough
            where = f"{error.filename}: " if error.filename else ""
            output.complain(f"{where}{error.strerror or error}")
            code = 1
        if code:
            raise typer.Exit(code)

    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _parameters_of(kind: type[Options]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(kind)
    ]


def _epilog(examples: Sequence[str]) -> str:
    # \b keeps the lines as they are.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,  # rich takes longer to import than everything else together
    "pretty_exceptions_enable": False,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
