"""`gridx admin`: users, invitations, grants, and the grid's hand on workers."""

from typing import Annotated

import typer

from gridx.cli import output
from gridx.cli.command import command, group
from gridx.cli.money import Amount, Memo, To, show_transfer
from gridx.cli.remote import Json, Remote, moment
from gridx.cli.workers import add_change

UserId = Annotated[str, typer.Argument(metavar="USER", help="Whom it is about.")]


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    admin = group(
        "admin",
        "What an administrator does.",
        ["gridx admin users", "gridx admin grant alice 100", "gridx admin admit WORKER"],
    )
    command(admin, "users", examples=["gridx admin users", "gridx admin users --json"])(users)
    command(
        admin,
        "invite",
        examples=["gridx admin invite", "gridx admin invite --grant 50 --expires 7d"],
    )(invite)
    command(admin, "suspend", examples=["gridx admin suspend mallory"])(suspend)
    command(admin, "unsuspend", examples=["gridx admin unsuspend mallory"])(unsuspend)
    command(
        admin,
        "grant",
        examples=["gridx admin grant alice 100", "gridx admin grant alice 5 --memo 'thank you'"],
    )(grant)
    command(admin, "broadcast", examples=["gridx admin broadcast 'Maintenance at noon'"])(broadcast)
    for name, change, text in (
        ("admit", "admit", "Let a worker run the jobs of others than its owner."),
        ("suspend-worker", "suspend", "Give a worker no more work; what runs ends and is paid."),
        ("unsuspend-worker", "unsuspend", "Undo suspend-worker, or ban."),
        ("ban", "ban", "Cut a worker off; what it runs is lost and not paid."),
        ("disconnect", "disconnect", "Close a worker's connection; it may come back."),
    ):
        add_change(admin, name, text, change)
    app.add_typer(admin)


def users(json: Json = False, *, remote: Remote) -> None:
    """List all users."""
    from gridx.client import calls

    with remote.client() as client:
        found = list(client.each(lambda cursor: calls.users(cursor=cursor)))
    if json:
        output.show_json(found)
        return
    output.show_table(
        ("user", "role", "state", "balance", "since"),
        [
            (u.user_id, u.role, "suspended" if u.suspended else "", u.balance, u.created_at[:10])
            for u in found
        ],
        right=("balance",),
    )


def invite(
    grant: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="What the new user starts with.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="7d, 12h or a time; default: never.")
    ] = None,
    json: Json = False,
    *,
    remote: Remote,
) -> None:
    """Make an invitation for one new user and print it."""
    from gridx.client import calls

    with remote.client() as client:
        made = client.call(calls.invite(grant, moment(expires)))
    output.show_json(made) if json else print(made.invite)


def suspend(user: UserId, *, remote: Remote) -> None:
    """Suspend a user.

    Its logins and connections end, and its queued jobs are cancelled."""
    from gridx.client import calls

    with remote.client() as client:
        client.call(calls.suspend_user(user))
    output.note(f"{user} is suspended")


def unsuspend(user: UserId, *, remote: Remote) -> None:
    """Let a suspended user in again."""
    from gridx.client import calls

    with remote.client() as client:
        client.call(calls.unsuspend_user(user))
    output.note(f"{user} may log in again")


def grant(to: To, amount: Amount, memo: Memo = None, json: Json = False, *, remote: Remote) -> None:
    """Issue new credits to a user."""
    from gridx.client import calls

    with remote.client() as client:
        made = client.call(calls.grant(to, amount, memo, client.clock.new_id()))
    show_transfer(made, json=json)


def broadcast(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One line.")],
    json: Json = False,
    *,
    remote: Remote,
) -> None:
    """Show a word to whoever sits at the workers."""
    from gridx.client import calls

    with remote.client() as client:
        sent = client.call(calls.broadcast(text))
    output.show_json(sent) if json else print(f"sent to {sent.sent} workers")
