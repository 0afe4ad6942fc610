"""Logs: one structured line an event, with the ids of what it is about.

`configure_logging` is called once by each program. A line is plain and coloured on a terminal, JSON
otherwise. Modules log through `get_logger`; ids of the request, job, attempt or worker at hand are
bound with `bound`, so that every line inside carries them. Code, output and secrets are never logged.
"""

import logging
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["auto", "plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def get_logger(name: str) -> "FilteringBoundLogger":
    """The structured logger of the module called `name`."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


def bound(**ids: str | int) -> AbstractContextManager[object]:
    """Every line logged inside (also by what is awaited) carries these ids."""
    return structlog.contextvars.bound_contextvars(**ids)


def configure_logging(
    level: LogLevel = "info", form: LogFormat = "auto", stream: TextIO | None = None
) -> None:
    """Send all logs, those of libraries too, through one formatter to `stream` (standard error)."""
    out = stream or sys.stderr
    plain = form == "plain" or (form == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [
            # Not the default traceback: that shows local variables, code and secrets among them.
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if plain
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx2", "httpcore2", "websockets", "alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=False,
    )
