"""`gridx demo`: a whole grid in a temporary folder, real work by three users, and the proof."""

import typer


def add_to(app: typer.Typer) -> None:
    pass
