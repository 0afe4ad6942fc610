"""The state folder: the lock, and an identity that is whole and private."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gridx.domain.errors import Conflict, InvalidInput
from gridx.worker.identity import Identity, StateDir, default_state_dir
from tests.worker.frames import WORKER

ALICE = Identity(WORKER, "secret", "alice")


def test_an_identity_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a" / "worker")
    assert state.load() is None
    state.save(Identity(WORKER, "older", None))
    state.save(ALICE)
    state.close()
    again = StateDir(state.path)
    assert again.load() == ALICE
    again.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.path.iterdir()}
    assert modes == {"identity.json": 0o600, "lock": 0o600}
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_a_second_worker_is_kept_out_and_told_the_flag(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with pytest.raises(Conflict, match="--state-dir"):
        StateDir(tmp_path)
    state.close()
    StateDir(tmp_path).close()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from gridx.worker.identity import StateDir;"
        "state = StateDir(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lock").exists()
    StateDir(tmp_path).close()


def test_a_torn_identity_is_refused_with_advice(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    (tmp_path / "identity.json").write_text('{"worker_id": ')
    with pytest.raises(InvalidInput, match="remove it"):
        state.load()
    state.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="--state-dir"):
        StateDir(tmp_path / "file" / "worker")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_STATE_HOME": "/state"}, Path("/state/gridx/worker")),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/gridx/worker"),
        ({}, Path.home() / ".local/state/gridx/worker"),
    ],
)
def test_where_the_state_is(environ: dict[str, str], folder: Path) -> None:
    assert default_state_dir(environ) == folder


def test_what_is_handed_over_is_a_workers_and_nothing_else(tmp_path: Path) -> None:
    """As root, who alone can: whoever had the folder may have left links in it."""
    outside = tmp_path / "outside"
    outside.write_text("")
    state = StateDir(tmp_path / "state")
    state.save(Identity("w", "t"))
    state.spool.mkdir()
    (state.spool / "result").write_text("")
    (state.spool / "link").hardlink_to(outside)
    before = Path.cwd()
    try:
        state.hand_over(4321)
        assert state.load() == Identity("w", "t")
        state.save(Identity("v", "t"))
        assert Path("identity.json").exists()
        assert state.spool == Path("spool")
    finally:
        os.chdir(before)
        state.close()
    owners = {each.name: each.stat().st_uid for each in state.path.rglob("*")}
    assert owners.pop("link") == os.getuid()
    assert owners.pop("identity.json") == os.getuid(), "written by this test as the user it is"
    assert set(owners.values()) == {4321}
    assert outside.stat().st_uid == os.getuid()


def test_a_folder_with_other_things_is_not_handed_over(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("")
    state = StateDir(tmp_path)
    with pytest.raises(InvalidInput, match=r"no worker's \(diary\).*--state-dir"):
        state.hand_over(4321)
    assert tmp_path.stat().st_uid == os.getuid()
    state.close()


@pytest.mark.parametrize("name", ["spool", "identity.json"])
def test_a_link_is_not_handed_over(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    state = StateDir(tmp_path / "state")
    (state.path / name).symlink_to(outside)
    with pytest.raises(InvalidInput, match="cannot be given to user 4321"):
        state.hand_over(4321)
    assert outside.stat().st_uid == os.getuid()
    state.close()


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="--state-dir"):
        StateDir(tmp_path)
    assert not (tmp_path / "elsewhere").exists()
