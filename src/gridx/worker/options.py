"""What a worker is started with, and whether that fits the state folder it is started on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gridx.domain.errors import InvalidInput
from gridx.worker.identity import Identity, StateDir
from gridx.worker.sandbox.backends import Choice, OpenBackends, open_backends


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker is started with.

    Either `password` (with `user_id`) or `token` enrols it; a state folder that knows a worker
    already needs neither. `slots` is how many CPUs it offers, by default all of the machine's.
    `prompt_mark` stands before each prompt.
    """

    urls: tuple[str, ...]
    user_id: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    state_dir: Path | None = None
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    slots: int | None = None
    sandbox: Choice = Choice()
    prompt_mark: str = ""
    ca: Path | None = None
    insecure: bool = False
    interactive: bool = True
    handle_signals: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made ready before there was a worker; by default it does all of that itself.

    `opens` opens its sandboxes, in which `languages` run (None: those this process finds); `state` is
    its folder, open.
    """

    opens: OpenBackends = open_backends
    state: StateDir | None = None
    languages: tuple[str, ...] | None = None


def known_identity(state: StateDir, options: WorkerOptions) -> Identity | None:
    """Who the state folder says this worker is.

    Raises `InvalidInput` when that is another user's, or nobody and there is nothing to enrol with.
    """
    identity = state.load()
    if options.password is not None and options.user_id is None:
        raise InvalidInput("A password needs its user: give --user.")
    if identity is None and options.password is None and options.token is None:
        raise InvalidInput(
            "This worker is not enrolled yet: start it once with --user and --password-file "
            "(or GRIDX_PASSWORD), or with --token."
        )
    owner = identity.user_id if identity else None
    if owner is not None and options.user_id not in (None, owner):
        raise InvalidInput(
            f"The state folder {state.path} belongs to a worker of {owner}: "
            f"give the one of {options.user_id} its own with --state-dir."
        )
    return identity
