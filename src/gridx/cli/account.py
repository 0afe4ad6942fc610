"""Commands about who you are: login, logout, register, whoami, password, key."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command, group
from gridx.cli.remote import (
    Json,
    PasswordSource,
    Remote,
    ask_secret,
    check_names,
    first_line,
    moment,
)
from gridx.domain.errors import GridError, InvalidInput, Unauthenticated

if TYPE_CHECKING:
    from gridx.client.sync import Client

User = Annotated[
    str | None, typer.Option("--user", "-u", metavar="NAME", help="Default: GRIDX_USER, or asked.")
]
KEY_SCOPES = ("jobs", "workers", "credits:read", "credits:transfer", "metrics", "admin")


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(
        app,
        "login",
        examples=[
            "gridx login",
            "gridx login --url https://grid.example.org --user alice",
            "gridx login --url https://grid.lan:8081 --ca ca.pem --password-file ~/.grid-password",
        ],
    )(login)
    command(
        app,
        "register",
        examples=[
            "gridx register --user alice",
            "gridx register --url https://grid.example.org --user alice --invite CODE",
        ],
    )(register)
    command(app, "logout", examples=["gridx logout"])(logout)
    command(app, "whoami", examples=["gridx whoami", "gridx whoami --json"])(whoami)
    command(
        app, "password", examples=["gridx password", "gridx password --new-password-file FILE"]
    )(password)
    keys = group("key", "API keys for programs.", ["gridx key create ci --scope jobs"])
    command(
        keys,
        "create",
        examples=[
            "gridx key create ci --scope jobs --expires 90d",
            "gridx key create prometheus --scope metrics",
        ],
    )(create_key)
    command(keys, "list", examples=["gridx key list", "gridx key list --json"])(list_keys)
    command(keys, "delete", examples=["gridx key delete KEY"])(delete_key)
    app.add_typer(keys)


def login(user: User = None, *, source: PasswordSource, remote: Remote) -> None:
    """Log in, and remember it on this machine."""
    user_id = _user(user)
    with _stranger(remote) as client:
        client.endpoint.need_safe()
        _log_in(client, user_id, source.read(f"Password of {user_id}"))


def register(
    user: User = None,
    invite: Annotated[
        str | None, typer.Option(metavar="CODE", help="An invitation, where the grid wants one.")
    ] = None,
    *,
    source: PasswordSource,
    remote: Remote,
) -> None:
    """Make an account on the grid and log in to it."""
    from gridx.client import calls

    user_id = _user(user)
    with _stranger(remote) as client:
        client.endpoint.need_safe()
        password = source.read("Choose a password (8 to 128 characters)", twice=True)
        made = client.call(calls.register(user_id, password, invite))
        output.note(f"{made.user_id} has an account with {made.balance} credits")
        _log_in(client, user_id, password)


def logout(*, remote: Remote) -> None:
    """End the stored login."""
    from gridx.client import calls
    from gridx.client.login import read_login, remove_login

    if read_login() is None:
        output.note("nobody was logged in")
        return
    try:
        with remote.client() as client:
            client.call(calls.log_out())
    except Unauthenticated:
        pass  # the token had ended already
    except GridError as error:
        output.warn(f"the coordinator was not told: {error.message}")
    remove_login()
    output.note("logged out")


def whoami(json: Json = False, *, remote: Remote) -> None:
    """Show who you are, where, and what you may do."""
    with remote.client() as client:
        who = client.caller()
        where = client.endpoint.url
    if json:
        output.show_json({"url": where, **who.model_dump()})
        return
    output.show_fields(
        [
            ("user", who.user_id),
            ("role", who.role),
            ("grid", where),
            ("may", ", ".join(who.scopes)),
            ("until", who.expires_at or "it is deleted"),
        ]
    )


def password(
    new_password_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the new password from this file.")
    ] = None,
    *,
    source: PasswordSource,
    remote: Remote,
) -> None:
    """Change your password.

    Every other login of yours ends."""
    from pathlib import Path

    from gridx.client import calls

    with remote.client() as client:
        old = source.read("Present password")
        new = (
            first_line(Path(new_password_file))
            if new_password_file
            else ask_secret("New password", twice=True)
        )
        client.call(calls.change_password(old, new))
    output.note("the password is changed; your other logins have ended")


def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help=f"May be repeated: {', '.join(KEY_SCOPES)} (jobs)."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="30d, 12h or a time; default: never.")
    ] = None,
    json: Json = False,
    *,
    remote: Remote,
) -> None:
    """Make an API key and print it, this once."""
    from gridx.client import calls

    unknown = set(scope or ()) - set(KEY_SCOPES)
    if unknown:
        raise typer.BadParameter(f"--scope is one of {', '.join(KEY_SCOPES)}")
    with remote.client() as client:
        made = client.call(calls.create_key(name, scope or ["jobs"], moment(expires)))
    if json:
        output.show_json(made)
        return
    print(made.key)
    output.note("This is shown once: keep it safe, and give it to programs as GRIDX_TOKEN")


def list_keys(json: Json = False, *, remote: Remote) -> None:
    """List your API keys, without their secrets."""
    from gridx.client import calls

    with remote.client() as client:
        found = list(client.each(lambda cursor: calls.keys(cursor=cursor)))
    if json:
        output.show_json(found)
        return
    output.show_table(
        ("key", "name", "scopes", "created", "expires"),
        [
            (k.key_id, k.name, " ".join(k.scopes), k.created_at, k.expires_at or "never")
            for k in found
        ],
    )


def delete_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="A key's id, from `key list`.")],
    *,
    remote: Remote,
) -> None:
    """Delete an API key; what uses it is refused from now on."""
    from gridx.client import calls

    with remote.client() as client:
        client.call(calls.delete_key(key_id))
    output.note("the key is deleted")


def _stranger(remote: Remote) -> "Client":
    """A client that shows no token: who logs in has none worth showing."""
    from stamina.instrumentation import set_on_retry_hooks

    from gridx.client.login import Endpoint
    from gridx.client.sync import Client

    set_on_retry_hooks([])
    check_names()
    client = Client(remote.url, ca=remote.ca, insecure=remote.insecure, retry_s=2.0)
    seen = client.endpoint
    client.endpoint = Endpoint(seen.url, None, None, seen.ca, remote.insecure)
    return client


def _log_in(client: "Client", user_id: str, password: str) -> None:
    from pathlib import Path

    from gridx.client import calls
    from gridx.client.login import Login, write_login

    answer = client.call(calls.log_in(user_id, password))
    ca = client.endpoint.ca
    path = write_login(
        Login(
            url=client.endpoint.url,
            user_id=user_id,
            token=answer.token,
            expires_at=answer.expires_at,
            ca=str(Path(ca).absolute()) if ca else None,
            insecure=client.endpoint.insecure,
        )
    )
    output.note(f"{user_id} is logged in to {client.endpoint.url} (kept in {path})")


def _user(given: str | None) -> str:
    if user_id := given or os.environ.get("GRIDX_USER"):
        return user_id
    import sys

    if not sys.stdin.isatty():
        raise InvalidInput("Say who you are: give --user NAME or set GRIDX_USER")
    return str(typer.prompt("User", err=True))
