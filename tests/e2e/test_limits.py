"""Jobs that meet a limit: the reason, the exit code, what is kept, through the API."""

import pytest

from tests.e2e.people import Json, Person

FORKS = """
import os, sys, time
try:
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
except OSError as error:
    print(error.strerror, flush=True)
    sys.exit(9)
"""
FILLS = """
with open("big", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
        file.flush()
"""
CASES: list[tuple[str, str, Json, Json, str, int | None]] = [
    ("exit", "raise SystemExit(5)", {}, {}, "exit_code", 5),
    ("time", "while True: pass", {"timeout_s": 1}, {}, "timeout", None),
    ("memory", "x = b'x' * (300 << 20)", {}, {"memory_mb": 64}, "out_of_memory", None),
    ("output", "while True: print('x' * 99)", {"output_bytes": 1000}, {}, "output_limit", None),
    ("processes", FORKS, {"processes": 10, "timeout_s": 10}, {}, "process_limit", None),
    ("disk", FILLS, {}, {"disk_mb": 16}, "disk_limit", None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_reason_is_the_limit(
    alice: Person, case: tuple[str, str, Json, Json, str, int | None]
) -> None:
    _, code, limits, resources, reason, exit_code = case
    job = alice.run(code, limits=limits, resources=resources)
    assert (job["status"], job["reason"]) == ("failed", reason), job
    if reason in {"exit_code", "timeout", "out_of_memory", "output_limit"}:
        assert job["exit_code"] == exit_code
    (attempt,) = job["attempts"]
    assert (attempt["status"], attempt["reason"]) == ("failed", reason)
    assert job["receipt"]["fault"] == "submitter"
    assert float(job["cost"]) >= 0.005


def test_a_job_that_met_a_limit_and_exits_0_has_succeeded(alice: Person) -> None:
    job = alice.run(FORKS.replace("sys.exit(9)", "os._exit(0)"), limits={"processes": 10})
    assert (job["status"], job["reason"], job["exit_code"]) == ("succeeded", None, 0)
    full = "dd if=/dev/zero of=big bs=1M 2>/dev/null; exit 0"
    assert alice.run(full, language="bash", resources={"disk_mb": 16})["status"] == "succeeded"


def test_what_came_before_the_last_byte_is_kept(alice: Person) -> None:
    fits = alice.run("print('x' * 99, end='')", limits={"output_bytes": 99})
    assert (fits["status"], fits["stdout"]) == ("succeeded", "x" * 99)
    over = alice.run("print('x' * 100, end='')", limits={"output_bytes": 99})
    assert (over["status"], over["reason"], over["exit_code"]) == ("failed", "output_limit", None)
    assert over["stdout"] == "x" * 99
    apart = "import sys; sys.stdout.write('o' * 99); sys.stderr.write('e' * 99)"
    assert alice.run(apart, limits={"output_bytes": 99})["status"] == "succeeded"


def test_a_time_limit_ends_what_ignores_it_and_bills_no_grace(alice: Person) -> None:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"
    job = alice.run(code, limits={"timeout_s": 1})
    assert (job["reason"], job["exit_code"]) == ("timeout", None)
    assert job["receipt"]["billed_s"] == 1.0
    assert job["cost"] == "0.010625"


def test_the_time_limit_is_what_the_money_pays(alice: Person) -> None:
    answer = alice.tell("/jobs", {"code": "while True: pass", "max_cost": "0.021250"}, 201)
    assert (answer["held"], answer["timeout_s"]) == ("0.021250", 2.0)
    job = alice.final(answer["job_id"])
    assert (job["reason"], job["cost"]) == ("timeout", "0.021250")
