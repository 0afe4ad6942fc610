"""What a worker's process does before it is a worker: parts with root, if it has it.

`separate` comes before there are threads, an event loop or secrets, `run` when the options are known.
An ordinary user's worker stays one process. So does root's with `--sandbox none`, which becomes the
unprivileged user with its jobs: nothing of it needs root.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path

from gridx.domain.errors import GridError
from gridx.domain.sandbox import Backend
from gridx.telemetry import get_logger
from gridx.worker.agent import refused, run_worker
from gridx.worker.apart import privileges, warden
from gridx.worker.apart.proxies import Warden
from gridx.worker.console import Shell
from gridx.worker.identity import StateDir, default_state_dir
from gridx.worker.options import Prepared, WorkerOptions
from gridx.worker.sandbox.backends import Choice
from gridx.worker.sandbox.languages import find_interpreters

_log = get_logger(__name__)


def separate(choice: Choice, forget: Callable[[], None] | None = None) -> Warden | None:
    """Fork the warden of what is chosen, which first calls `forget`; None where nothing is to part."""
    if privileges.other_user() is None or Backend.NONE in choice.named:
        return None
    ours, theirs = socket.socketpair()
    agent_lives, lifeline = os.pipe()
    gc.collect()
    gc.freeze()  # so that both go on sharing what is there
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if forget is not None:
                forget()
            ours.close()
            os.close(lifeline)
            code = warden.main(theirs, agent_lives, choice)
        except BaseException as error:  # noqa: BLE001  (nothing may go on as if it were the agent)
            _log.error("warden_failed", exc_info=error)
        finally:
            os._exit(code)
    theirs.close()
    os.close(agent_lives)
    return Warden(ours, pid, lifeline)


def run(
    options: WorkerOptions,
    warden: Warden | None,
    shell: Shell | None = None,
    *,
    accepted: Callable[[str], None] | None = None,
) -> int:
    """`run_worker` in this process, as the unprivileged user if it is root's."""
    try:
        prepared = _prepare(options, warden)
    except GridError as refusal:
        return refused(refusal)
    return asyncio.run(run_worker(options, shell, accepted=accepted, prepared=prepared))


def _prepare(options: WorkerOptions, warden: Warden | None) -> Prepared:
    user = privileges.other_user()
    if user is None:
        if os.geteuid() == 0:
            _log.warning("root_kept", why="this root may not change to another user")
        return Prepared()
    needed = privileges.loaded() | ({options.ca} if options.ca else set[Path]())
    hidden = privileges.read_by_root_only(needed, user)
    if hidden and warden is None:
        # Its jobs would have to get the right to read everything: what is started inherits it.
        _log.warning("root_kept", why=f"{hidden[0]} can be read by root only")
        return Prepared()
    if hidden:
        _log.warning("right_to_read_kept", why=f"{hidden[0]} can be read by root only")
    languages = tuple(find_interpreters())  # as the warden sees them
    state = StateDir(options.state_dir or default_state_dir(os.environ))
    try:
        state.hand_over(user)
        privileges.give_up_root(user, keep_reading=bool(hidden))
    except BaseException:
        state.close()
        raise
    # The login of root is not for the agent, and where it lies it may not look.
    os.environ["GRIDX_CONFIG_DIR"] = "."
    if warden is None:
        return Prepared(state=state)
    return Prepared(warden.open_backends, state, languages)
