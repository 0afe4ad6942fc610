"""What programs that serve have in common: their settings, their log, their loop, their end."""

import os
import signal
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridx.domain.errors import GridError

if TYPE_CHECKING:
    from gridx.config import Settings

Host = Annotated[
    str | None, typer.Option(metavar="HOST", help="Listen on this address (127.0.0.1).")
]
Port = Annotated[
    int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Listen on this port (8081).")
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this chain.")
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's private key.")
]


def settings_of(**flags: Any) -> "Settings":
    """The settings with these flags (`server_host` for `server.host`) over everything else."""
    from gridx.config import load_settings

    return load_settings({name.replace("_", ".", 1): value for name, value in flags.items()})


def start_log(settings: "Settings", *, quiet_on_terminal: bool = False) -> None:
    """Log as the settings say; a person at a terminal is spared all but warnings if so asked."""
    from gridx.telemetry import configure_logging

    quiet = quiet_on_terminal and sys.stderr.isatty() and "GRIDX_LOG__LEVEL" not in os.environ
    configure_logging("warning" if quiet else settings.log.level, settings.log.format)


def run_to_end(work: Coroutine[Any, Any, int]) -> int:
    """Run a program until it ends; the first SIGINT or SIGTERM cancels it, so that it cleans up.

    Gives what it returns, 0 when it was ended by a signal.
    """
    import asyncio

    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(_cancelled_by_signals(work))


async def _cancelled_by_signals(work: Coroutine[Any, Any, int]) -> int:
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    told = False

    def end() -> None:
        nonlocal told
        if not told:
            told = True
            task.cancel()

    with _handled(end):
        try:
            return await work
        except asyncio.CancelledError:
            if not told:
                raise
            return 0


@contextmanager
def _handled(end: Any) -> Generator[None]:
    import asyncio

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _fast_loop() -> Any:
    if sys.platform == "win32":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def need_coordinator() -> None:
    """Raises `GridError` when the packages of a coordinator are not installed."""
    missing = [name for name in ("fastapi", "sqlalchemy", "uvicorn") if find_spec(name) is None]
    if missing:
        raise GridError(
            f"A coordinator needs more packages ({', '.join(missing)}): install them with "
            "pip install 'gridx-compute[coordinator,worker]'"
        )
