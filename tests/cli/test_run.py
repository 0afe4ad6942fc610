"""`gridx run`: what it prints, what it exits with, and Ctrl-C."""

import signal
from pathlib import Path

import pytest

from tests.support.grid import Person
from tests.support.processes import running

ENDS = [
    (("-c", "print(1)"), 0),
    (("-c", "raise SystemExit(3)"), 3),
    (("-l", "bash", "-c", "kill -SEGV $$"), 139),
    (("--timeout", "0.5", "-c", "while True: pass"), 124),
    (("--memory", "64", "-c", "x = bytearray(300 << 20); print(len(x))"), 137),
    (("--output-bytes", "10", "-c", "print('x' * 100)"), 1),
]


@pytest.mark.parametrize(("words", "code"), ENDS)
def test_the_exit_code_is_the_jobs(alice: Person, words: tuple[str, ...], code: int) -> None:
    assert alice.gridx("run", *words).returncode == code


def test_the_streams_stay_apart(alice: Person) -> None:
    done = alice.gridx("run", "-c", "import sys; print('out'); print('err', file=sys.stderr)")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_file_with_arguments_that_look_like_options(alice: Person, tmp_path: Path) -> None:
    file = tmp_path / "tool.py"
    file.write_text("import os, sys; print(sys.argv[1:], os.environ['K'], sys.stdin.read())")
    (tmp_path / "in").write_text("text")
    words = ("run", "-e", "K=v=w", "--stdin", str(tmp_path / "in"), str(file), "--json", "-c", "x")
    assert alice.ok(*words) == "['--json', '-c', 'x'] v=w text\n"


def test_code_from_standard_input(alice: Person) -> None:
    assert alice.ok("run", "-l", "javascript", "-", feed="console.log(6 * 7)") == "42\n"


def test_a_failure_says_why_unless_quiet(alice: Person) -> None:
    done = alice.gridx("run", "-c", "raise SystemExit(4)")
    assert "failed with exit code 4" in done.stderr
    assert alice.gridx("run", "-q", "-c", "raise SystemExit(4)").stderr == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "/nowhere.py"), "/nowhere.py cannot be read"),
        (("run", "--timeout", "1e9", "-c", "1"), "timeout_s"),
        (("run", "--max-cost", "0.001", "-c", "1"), "max_cost"),
        (("run", "-l", "cobol", "-c", "1"), "python"),
        (("run", "-c", ""), "code"),
    ],
)
def test_a_refused_job_is_one_line(alice: Person, words: tuple[str, ...], told: str) -> None:
    done = alice.gridx(*words)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_too_few_credits_are_told(alice: Person) -> None:
    done = alice.gridx("run", "--cpus", "900", "--timeout", "3600", "-c", "1")
    assert done.returncode == 1
    assert "Insufficient credits" in done.stderr


def test_ctrl_c_cancels_the_job(alice: Person) -> None:
    code = "import time; print('begun', flush=True); time.sleep(60)"
    words = alice.command("run", "--name", "interrupted", "-c", code)
    with running(*words, env=alice.environment) as process:
        process.wait_for("begun")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    (job,) = alice.json("ps", "--name", "interrupted")
    assert job["status"] == "cancelled"
