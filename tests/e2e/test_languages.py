"""Assignment, execution and completion in each language, as the API shows them."""

import sys

import pytest

from tests.e2e.house import House
from tests.e2e.people import Person
from tests.worker.sandbox.runs import IN_TURN

PROGRAMS = {
    "python": """
import os, sys
print("out", sys.argv[1:], os.environ["K"], repr(sys.stdin.read()))
print("err", file=sys.stderr)
sys.exit(7)
""",
    "javascript": """
const fs = require("fs")
const said = JSON.stringify(fs.readFileSync(0, "utf8"))
console.log("out", JSON.stringify(process.argv.slice(2)), process.env.K, said)
console.error("err")
process.exit(7)
""",
    "bash": """
printf 'out'; printf ' <%s>' "$@"; printf ' %s ' "$K"; cat; echo
echo err >&2
exit 7
""",
}
SAID = {
    "python": "out ['a b', '', '--x=\\n\\t'] value=\u00e9 'line\\n\u20ac'\n",
    "javascript": 'out ["a b","","--x=\\n\\t"] value=\u00e9 "line\\n\u20ac"\n',
    "bash": "out <a b> <> <--x=\n\t> value=\u00e9 line\n\u20ac\n",
}


@pytest.mark.parametrize("language", ["python", "javascript", "node", "bash"])
def test_a_program_gets_its_words_and_gives_its_streams(alice: Person, language: str) -> None:
    known = {"node": "javascript"}.get(language, language)
    job = alice.run(
        PROGRAMS[known],
        language=language,
        args=["a b", "", "--x=\n\t"],
        env={"K": "value=\u00e9"},
        stdin="line\n\u20ac",
    )
    assert job["status"] == "failed"
    assert (job["reason"], job["exit_code"]) == ("exit_code", 7)
    assert job["stdout"] == SAID[known]
    assert job["stderr"] == "err\n"
    assert job["stdout_truncated"] is job["stderr_truncated"] is False
    (attempt,) = job["attempts"]
    assert (attempt["number"], attempt["status"], attempt["exit_code"]) == (1, "failed", 7)
    assert attempt["worker_id"] == job["worker_id"]
    assert set(attempt["usage"]) == {"wall_s", "cpu_s", "peak_memory_mb"}
    assert attempt["usage"]["wall_s"] > 0


@pytest.mark.parametrize(
    ("command", "stdout"),
    [("echo one; echo $((1 + 1))", "one\n2\n"), (["printf", "%s|", "a b", "$HOME"], "a b|$HOME|")],
)
def test_a_command_needs_no_code(alice: Person, command: object, stdout: str) -> None:
    job = alice.run(command=command)
    assert (job["status"], job["exit_code"], job["stdout"]) == ("succeeded", 0, stdout)


def test_success_is_whole(alice: Person, house: House) -> None:
    answer = alice.tell("/jobs", {"code": "print('hi')", "name": "n", "tags": ["x"]}, 201)
    assert set(answer) == {"job_id", "status", "held", "timeout_s"}
    assert (answer["status"], answer["held"], answer["timeout_s"]) == ("queued", "0.637500", 60.0)
    job = alice.final(answer["job_id"])
    expected = {"status": "succeeded", "reason": None, "exit_code": 0, "stdout": "hi\n"}
    expected |= {"name": "n", "tags": ["x"], "user_id": alice.user_id, "language": "python"}
    expected |= {"code": "print('hi')", "args": [], "env": {}, "stdin": "", "retry_of": None}
    expected |= {"max_attempts": 3, "retry_on_failure": False, "cancel_requested": False}
    expected |= {"limits": {"timeout_s": 60.0, "output_bytes": 1048576, "processes": 64}}
    assert {name: job[name] for name in expected} == expected
    assert job["resources"] == {"cpus": 1.0, "memory_mb": 256, "gpus": 0, "disk_mb": 256}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["queued_s"] >= 0 and job["run_s"] > 0
    assert job["worker_id"] == house.workers[0].worker_id
    receipt = "price_per_second billed_s held cost released reward fee fault why"
    assert set(job["receipt"]) == set(receipt.split())
    absent = {"result", "inputs", "outputs", "requirements", "image", "network", "after"}
    assert absent | {"not_before", "deadline", "traceparent", "require", "max_cost"} <= set(job)


def test_every_exit_code_arrives(alice: Person) -> None:
    codes = (0, 1, 2, 125, 126, 127, 128, 200, 255)
    jobs = [alice.submit(f"exit {code}", language="bash") for code in codes]
    for code, job_id in zip(codes, jobs, strict=True):
        job = alice.final(job_id)
        wanted = ("succeeded", None) if code == 0 else ("failed", "exit_code")
        assert (job["status"], job["reason"], job["exit_code"]) == (*wanted, code)


def test_a_signal_of_its_own_is_128_and_more(alice: Person) -> None:
    for signal, code in (("SEGV", 139), ("KILL", 137), ("TERM", 143)):
        job = alice.run(f"import os, signal; os.kill(os.getpid(), signal.SIG{signal})")
        assert (job["status"], job["reason"], job["exit_code"]) == ("failed", "exit_code", code)


def test_bytes_that_are_no_text(alice: Person) -> None:
    raw = bytes(range(256)) * 4
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4)"
    job_id = alice.submit(code)
    job = alice.final(job_id)
    assert job["stdout"] == raw.decode("utf-8", errors="replace")
    answer = alice.get(f"/jobs/{job_id}/logs?raw=true&stream=stdout")
    assert answer.content == raw
    shown = alice.get(f"/jobs/{job_id}/logs")
    assert shown.headers["content-type"].startswith("text/plain")
    assert shown.text == raw.decode("utf-8", errors="replace")


def test_only_the_first_64_kib_stand_in_the_job(alice: Person) -> None:
    size = 200_000
    job_id = alice.submit(f"import sys; print('x' * {size}, end=''); sys.stderr.write('e')")
    job = alice.final(job_id)
    assert job["stdout"] == "x" * 65_536
    assert (job["stdout_truncated"], job["stderr_truncated"]) == (True, False)
    assert alice.get(f"/jobs/{job_id}/logs?stream=stdout").text == "x" * size
    assert alice.get(f"/jobs/{job_id}/logs?stream=stderr").text == "e"


def test_both_streams_stand_in_order_of_arrival(alice: Person) -> None:
    job_id = alice.submit(IN_TURN)
    alice.final(job_id)
    wanted = "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3))
    assert alice.get(f"/jobs/{job_id}/logs").text == wanted


def test_large_words_arrive_whole(alice: Person) -> None:
    stdin, argument = "\u00fc" * 500_000, "a" * 120_000
    code = "import sys; print(len(sys.argv[1]), len(sys.stdin.buffer.read()))"
    job = alice.run(code, args=[argument], stdin=stdin, env={"E": "b" * 100_000})
    assert job["stdout"] == "120000 1000000\n", job


def test_a_program_that_does_not_parse_says_so(alice: Person) -> None:
    job = alice.run("print(")
    assert (job["reason"], job["exit_code"]) == ("exit_code", 1)
    assert "SyntaxError" in job["stderr"]


def test_the_interpreter_is_a_python_of_the_worker(alice: Person) -> None:
    job = alice.run("import sys; print(sys.version_info[:2], __name__)")
    assert job["stdout"] == f"{sys.version_info[:2]} __main__\n"
