"""What a job must not reach: the worker's files, environment, processes and network, other jobs."""

from pathlib import Path

from tests.e2e.house import House
from tests.e2e.people import Json, Person
from tests.support.processes import asleep
from tests.support.waiting import until


def test_the_worker_s_files_are_out_of_reach(alice: Person, house: House) -> None:
    worker = house.workers[0]
    assert worker.state.is_dir()
    home = Path.home()
    paths = [str(worker.state), str(house.folder / "gridx.db"), "/etc/shadow", "/var", "/run"]
    paths += [str(home / name) for name in (".ssh", ".bashrc", ".profile", ".config")]
    code = f"""
import os
for path in {paths!r}:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
        print("read", path)
    except OSError as error:
        print("no", type(error).__name__)
"""
    job = alice.run(code)
    assert job["status"] == "succeeded"
    assert "read" not in job["stdout"], job["stdout"]


def test_nothing_of_the_worker_s_environment_is_seen(alice: Person) -> None:
    job = alice.run("env; cat /proc/*/environ | tr '\\0' '\\n'", language="bash", env={"MINE": "1"})
    assert "MINE=1" in job["stdout"]
    assert "GRIDX" not in job["stdout"]
    assert "PYTHONUNBUFFERED" not in job["stdout"]


def test_there_is_no_network(alice: Person, house: House) -> None:
    code = f"""
import socket
for address in [("127.0.0.1", {house.port}), ("192.0.2.1", 80)]:
    try:
        socket.create_connection(address, 2)
        print("connected", address)
    except OSError as error:
        print("no", type(error).__name__)
"""
    assert alice.run(code)["stdout"].count("no ") == 2
    job = alice.run("tail -n +3 /proc/net/dev | cut -d: -f1", language="bash")
    assert job["stdout"].split() in (["lo"], []), job


def test_it_is_nobody_and_alone(alice: Person) -> None:
    code = """
import os
print(os.getuid() != 0, os.geteuid() != 0)
pids = [int(each) for each in os.listdir("/proc") if each.isdigit()]
print(len(pids) < 8)
try:
    open("/usr/gridx-was-here", "w")
    print("wrote")
except OSError:
    print("read-only")
open("/tmp/mine", "w").write("x")
print(os.path.exists("/tmp/mine"))
"""
    job = alice.run(code)
    assert job["stdout"] == "True True\nTrue\nread-only\nTrue\n", job
    assert alice.run("import os; print(os.path.exists('/tmp/mine'))")["stdout"] == "False\n"


def test_two_jobs_side_by_side_do_not_see_each_other(alice: Person) -> None:
    waiting = alice.submit(
        "import sys, time; open('/tmp/secret-of-one', 'w'); print('up', flush=True); time.sleep(30)",
        args=["argument-of-one"],
    )
    alice.printed(waiting, "up")
    spy = alice.run(
        "ls -R /tmp; cat /proc/*/cmdline | tr '\\0' ' '; kill -9 -1 2>/dev/null; echo end",
        language="bash",
    )
    assert "of-one" not in spy["stdout"]
    assert alice.job(waiting)["status"] == "running"
    alice.cancel(waiting)
    assert alice.final(waiting)["status"] == "cancelled"


def test_nothing_of_a_job_is_left(alice: Person, house: House) -> None:
    process, jobs = house.workers[0].process, 10
    nap = f"sleep 1000.{house.port}"  # as no other process does
    code = f"(setsid {nap} >/dev/null 2>&1 &) ; {nap} >/dev/null 2>&1 & disown; echo 1"
    alice.run("print(1)")
    before = len(process.family())
    batch: Json = {"template": {"code": code, "language": "bash"}, "args": [[]] * jobs}
    for job_id in alice.tell("/jobs/batch", batch, 201)["job_ids"]:
        assert alice.final(job_id)["status"] == "succeeded"
    until(lambda: not asleep(nap), "none of its processes is left")
    # Those that wait for the next jobs come and go, but there are few of them.
    until(lambda: len(process.family()) < before + jobs // 2, "no process more for each job")
