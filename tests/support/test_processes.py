"""Processes are waited for by what they print, and nothing of them is left behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import asleep, clean_environment, free_port, running, wake

PYTHON = sys.executable


def test_waits_for_output_without_a_line_end() -> None:
    with running(PYTHON, "-u", "-c", "input('name> '); print('hello')") as process:
        process.wait_for(r"name> $")
        process.send("x\n")
        process.wait_for(r"^hello$|> hello$")
        assert process.wait() == 0


def test_a_line_of_one_stream_does_not_hide_the_end_of_the_other() -> None:
    code = r"import os; os.write(1, b'name> '); input(); os.write(2, b'log\n'); input()"
    with running(PYTHON, "-c", code) as process:
        process.wait_for("^name> $")
        process.send("\n")
        process.wait_for("^log$")
        process.wait_for("^name> $")


def test_keeps_the_streams_apart_and_together() -> None:
    code = r"import os; os.write(1, b'out\n'); os.write(2, b'err\n')"
    with running(PYTHON, "-c", code) as process:
        assert process.wait() == 0
        assert (process.stdout, process.stderr) == ("out\n", "err\n")
        assert sorted(process.output.split()) == ["err", "out"]


def test_says_what_was_printed_when_nothing_matches() -> None:
    code = "print('something else')"
    with running(PYTHON, "-c", code) as process, pytest.raises(AssertionError, match="thing else"):
        process.wait_for("ready")


def test_gives_up_in_time() -> None:
    with running("cat") as process:
        with pytest.raises(AssertionError, match=r"in 0\.05 s"):
            process.wait_for("ready", timeout_s=0.05)
        with pytest.raises(AssertionError, match="still runs"):
            process.wait(timeout_s=0.05)


def test_stops_in_order() -> None:
    code = "import signal; signal.signal(15, lambda *_: exit(7)); print('up', flush=True); input()"
    with running(PYTHON, "-c", code) as process:
        process.wait_for("up")
        assert process.stop(signal.SIGTERM) == 7


def test_ignores_no_signal_that_the_test_run_ignores() -> None:
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with running("cat") as process:
            process.send("here\n")
            process.wait_for("here")  # before that it may be what will become `cat`
            assert process.stop(signal.SIGINT) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, usual)


def test_kills_the_whole_family() -> None:
    code = (
        "import subprocess; child = subprocess.Popen(['sleep', '60']);"
        "print('child', child.pid, flush=True); child.wait()"
    )
    with running(PYTHON, "-c", code) as process:
        child = int(process.wait_for(r"child (\d+)\n").group(1))
        assert process.family() == {process.pid, child}
        child_process = psutil.Process(child)
    child_process.wait(timeout=20)
    assert not process.family()
    assert process.exit_code == -signal.SIGKILL


def test_ends_with_the_test_run() -> None:
    """A test run that is killed leaves no server behind."""
    code = (
        "from tests.support.processes import Process; p = Process('cat');"
        "print(p.pid, flush=True); input()"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [PYTHON, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        orphan = psutil.Process(int(run.stdout.readline()))
        run.kill()
        orphan.wait(timeout=20)


def test_environment_holds_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDX_TOKEN", "secret")
    env = clean_environment(tmp_path, EXTRA="1")
    with running("env", env=env) as process:
        assert process.wait() == 0
        assert "GRIDX" not in process.stdout
        assert f"HOME={tmp_path}\n" in process.stdout
        assert "EXTRA=1\n" in process.stdout


def test_a_free_port_can_be_listened_on_and_is_handed_to_nobody_else() -> None:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert 1024 < server.getsockname()[1] < int(first)


def test_a_job_that_waits_for_a_nap_goes_on_when_it_is_woken() -> None:
    nap = f"sleep 1000.{os.getpid()}"
    with running("bash", "-c", f"{nap}; echo on") as process:
        wake(nap)
        process.wait_for("^on$")
        assert asleep(nap) == []
