"""Logs: one line a thing that happened, and no code or secret in any of them."""

import io
import json
import logging
from collections.abc import Generator

import pytest
import structlog

from gridx.telemetry import LogFormat, bound, configure_logging, get_logger


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    """Logging is the process's: leave it as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def run_a_job(code: str) -> None:
    raise RuntimeError(f"a job of {len(code)} characters broke something")


@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_traceback_shows_no_local_variables(form: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging("info", form, stream)
    secret = "s3" + "cret"
    try:
        run_a_job(secret)
    except RuntimeError as error:
        get_logger("gridx.test").error("it_broke", exc_info=error)
    assert "a job of 6 characters broke something" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_lines_for_programs_are_json_and_carry_what_is_bound() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    with bound(job="j", worker="w"):
        get_logger("gridx.test").info("started", attempt=1)
    get_logger("gridx.test").debug("too fine")
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert {name: fields[name] for name in ("event", "job", "worker", "attempt", "level")} == {
        "event": "started", "job": "j", "worker": "w", "attempt": 1, "level": "info",
    }  # fmt: skip
