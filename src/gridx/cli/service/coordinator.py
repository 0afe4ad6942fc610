"""`gridx coordinator` and `gridx init`: the service alone, and the store made ready for it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command
from gridx.cli.service.programs import Host, Port, TlsCert, TlsKey
from gridx.cli.service.store import admin_password, storage_url

Admin = Annotated[str, typer.Option(metavar="NAME", help="The first administrator's user id.")]


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(
        app,
        "coordinator",
        examples=[
            "gridx coordinator",
            "GRIDX_STORAGE__URL=postgresql://grid@db/grid gridx coordinator",
            "gridx coordinator --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem",
        ],
    )(coordinator)
    command(
        app,
        "init",
        examples=[
            "gridx init --data /var/lib/gridx",
            "GRIDX_STORAGE__URL=postgresql://grid@db/grid gridx init --admin-password-file FILE",
            "gridx init --migrate-only          # before an upgrade's first start",
        ],
    )(init)


def coordinator(
    host: Host = None, port: Port = None, tls_cert: TlsCert = None, tls_key: TlsKey = None
) -> int:
    """Run the coordinator alone.

    Its store and everything else come from settings: `gridx config` lists them.
    """
    from gridx.cli.service import programs

    settings = programs.settings_of(
        server_host=host, server_port=port, server_tls_cert=tls_cert, server_tls_key=tls_key
    )
    programs.start_log(settings)
    programs.need_coordinator()

    async def serve() -> int:
        import asyncio

        from gridx.clock import SystemClock
        from gridx.server.app import serving

        async with serving(settings, SystemClock()):
            await asyncio.Event().wait()
        return 0

    return programs.run_to_end(serve())


def init(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A data folder. Default: the store of the settings."),
    ] = None,
    admin: Admin = "admin",
    admin_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its password. Default: one is made up.")
    ] = None,
    migrate_only: Annotated[
        bool, typer.Option("--migrate-only", help="Only bring the store to this version.")
    ] = False,
) -> None:
    """Make a store with its administrator, or migrate one."""
    import asyncio

    from gridx.cli.service import programs
    from gridx.clock import SystemClock

    programs.need_coordinator()
    from gridx.coordinator import grid
    from gridx.server.policy import policy_of

    if data is not None:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = programs.settings_of(storage_url=None if data is None else storage_url(data))
    programs.start_log(settings, quiet_on_terminal=True)
    policy = policy_of(settings)
    if migrate_only:
        grid.migrate(policy)
        output.note("the store is at this version")
        return
    password, is_made_up = admin_password(admin_password_file, os.environ)
    if not asyncio.run(grid.initialise(policy, SystemClock(), admin, password)):
        output.note("the store has users already: nothing was changed but its version")
        return
    tell_admin(admin, password if is_made_up else None)


def tell_admin(admin: str, password: str | None) -> None:
    """Print the first administrator, and the password if it was made up here: this once."""
    if password is None:
        print(f"The administrator is {admin!r}, with the password you gave.", flush=True)
        return
    print(f"The administrator is {admin!r}. Its password, shown this once:\n", flush=True)
    print(f"    {output.paint(password, 'bold')}\n", flush=True)
