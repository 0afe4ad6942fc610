"""`gridx up`: a coordinator and a worker on this machine, in one command."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridx import __version__
from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.service.programs import Host, Port, TlsCert, TlsKey
from gridx.cli.service.store import (
    DataFolder,
    admin_password,
    default_data_folder,
    names_a_store,
)

if TYPE_CHECKING:
    from gridx.cli.service.local import WorkerChild
    from gridx.config import Settings
    from gridx.server.app import Serving

ADMIN = "admin"


def add_to(app: typer.Typer) -> None:
    """Declare the command."""
    command(
        app,
        "up",
        examples=[
            "gridx up",
            "gridx up --data /srv/grid --port 8090 --slots 4",
            "gridx up --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem --no-worker",
        ],
    )(up)


def up(
    *,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The data folder. Default: $XDG_DATA_HOME/gridx."),
    ] = None,
    host: Host = None,
    port: Port = None,
    slots: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="CPUs the local worker offers. Default: all."),
    ] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="No local worker.")] = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The authority the local worker trusts with TLS."),
    ] = None,
) -> int:
    """Start a grid on this machine: a coordinator and a worker.

    The first start makes the user admin and prints its password, once (or takes it from
    GRIDX_ADMIN_PASSWORD). Ctrl-C stops everything in order.
    """
    from gridx.cli.service import programs
    from gridx.cli.service.local import WorkerChild

    programs.need_coordinator()
    folder = DataFolder(data or default_data_folder(os.environ))
    child = None
    try:
        settings = programs.settings_of(
            storage_url=None if data is None and names_a_store() else folder.storage_url,
            server_host=host,
            server_port=port,
            server_tls_cert=tls_cert,
            server_tls_key=tls_key,
        )
        programs.start_log(settings, quiet_on_terminal=True)
        level = settings.log.level if "GRIDX_LOG__LEVEL" in os.environ else "warning"
        child = None if no_worker else WorkerChild(level, settings.log.format)
        grid = _Grid(folder, settings, slots, ca)
        return programs.run_to_end(grid.run(child))
    finally:
        if child is not None:
            child.close()
        folder.close()


class _Grid:
    """The grid that `up` runs, from its first word to its last."""

    def __init__(
        self, folder: DataFolder, settings: "Settings", slots: int | None, ca: Path | None
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._slots = slots
        self._ca = ca

    async def run(self, child: "WorkerChild | None") -> int:
        """Serve until cancelled, or until the worker could not start."""
        import asyncio

        from gridx.clock import SystemClock
        from gridx.server.app import serving

        await self._make_admin()
        async with serving(self._settings, SystemClock()) as it:
            if child is None:
                self._tell_ready(it.url)
                await asyncio.Event().wait()
                return 0
            try:
                await self._start_worker(it, child)
                self._tell_ready(it.url)
                code = await child.ended()
                output.warn(
                    f"the local worker has ended (exit code {code}); the coordinator goes on. "
                    "`gridx worker` starts another one"
                )
                await asyncio.Event().wait()
            finally:
                await child.leave()
        return 0

    async def _make_admin(self) -> None:
        from gridx.cli.service.coordinator import tell_admin
        from gridx.clock import SystemClock
        from gridx.coordinator.grid import initialise
        from gridx.server.policy import policy_of

        password, is_made_up = admin_password(None, os.environ)
        made = await initialise(policy_of(self._settings), SystemClock(), ADMIN, password)
        print(f"Grid-X {__version__}, data in {self._folder.path}", flush=True)
        if made:
            tell_admin(ADMIN, password if is_made_up else None)

    async def _start_worker(self, it: "Serving", child: "WorkerChild") -> None:
        from gridx.cli.service.local import Order
        from gridx.coordinator.grid import issue_local_token

        state = self._folder.worker_state
        token = await issue_local_token(it.grid, ADMIN)
        who = await it.grid.users.authenticate(token)
        is_known = (state / "identity.json").exists()
        worker_id = await child.start(
            Order(
                url=it.url,
                token=None if is_known else token,
                user_id=ADMIN,
                state_dir=str(state),
                slots=self._slots,
                ca=str(self._ca) if self._ca else None,
            )
        )
        # Its owner started the grid: it serves everybody, also where others wait for admission.
        await it.grid.workers.admit(who, worker_id)

    def _tell_ready(self, url: str) -> None:
        from gridx.client.login import DEFAULT_URL

        where = "" if url == DEFAULT_URL else f" --url {url}"
        print(f"Grid-X is ready at {url}\n", flush=True)
        output.show_fields(
            [
                ("log in", f"gridx login{where} --user {ADMIN}"),
                ("then", "gridx run -c 'print(6 * 7)'"),
                ("API", f"{url}/docs"),
                ("stop", "Ctrl-C"),
            ]
        )
        print(flush=True)
