"""`gridx coordinator`, `init`, `worker` and `demo`: programs that people and services start."""

import json
import re
import signal
from pathlib import Path

import pytest
import trustme

from tests.support.grid import GRIDX, PASSWORD, Grid, Person
from tests.support.processes import clean_environment, running
from tests.support.waiting import until


def test_a_store_is_made_migrated_and_served(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, GRIDX_ADMIN_PASSWORD=PASSWORD)
    person = Person(environment)
    person.ok("init", "--data", str(tmp_path / "data"), "--admin", "root")
    assert "nothing was changed" in person.gridx("init", "--data", str(tmp_path / "data")).stderr
    store = f"sqlite:///{tmp_path / 'data' / 'gridx.db'}"
    assert person.gridx("init", "--migrate-only", GRIDX_STORAGE__URL=store).returncode == 0
    words = (GRIDX, "coordinator", "--port", "0")
    with running(*words, env={**environment, "GRIDX_STORAGE__URL": store}) as process:
        ready = json.loads(process.wait_for(r'^.*"event": "ready".*$').group())
        url = ready["url"]
        person.ok("login", "--url", url, "--user", "root", GRIDX_PASSWORD=PASSWORD)
        assert person.json("admin", "users")[0]["user_id"] == "root"
        assert process.stop() == 0


def test_a_made_up_password_is_printed_once(tmp_path: Path) -> None:
    person = Person(clean_environment(tmp_path))
    printed = person.ok("init", "--data", str(tmp_path / "data"))
    assert re.search(r"^    \S{20}$", printed, re.MULTILINE)
    assert person.ok("init", "--data", str(tmp_path / "data")) == ""


def test_tls_from_end_to_end(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    environment = clean_environment(tmp_path, GRIDX_ADMIN_PASSWORD=PASSWORD)
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "chain", "key")}
    words = (GRIDX, "up", "--data", str(tmp_path / "data"), "--port", "0", "--host", "0.0.0.0",
             "--tls-cert", files["chain"], "--tls-key", files["key"], "--ca", files["ca"])  # fmt: skip
    with running(*words, env=environment) as process:
        url = process.wait_for(r"Grid-X is ready at (https://\S+)").group(1)
        assert "no_tls" not in process.stderr
        person = Person(environment)
        login = ("login", "--url", url, "--user", "admin")
        refused = person.gridx(*login, GRIDX_PASSWORD=PASSWORD)
        assert refused.returncode == 1
        assert "--ca" in refused.stderr
        person.ok(*login, "--ca", files["ca"], GRIDX_PASSWORD=PASSWORD)
        person.ok("admin", "grant", "admin", "10")
        assert person.ok("run", "-c", "print(1)") == "1\n"
        (worker,) = person.json("workers")
        assert worker["admitted"]


def test_listening_beyond_this_machine_without_tls_warns(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, GRIDX_ADMIN_PASSWORD=PASSWORD)
    words = (GRIDX, "up", "--data", str(tmp_path / "d"), "--port", "0", "--host", "0.0.0.0",
             "--no-worker")  # fmt: skip
    with running(*words, env=environment) as process:
        process.wait_for("Grid-X is ready")
        process.wait_for("--tls-cert")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tls-cert", "/nowhere.pem"), "go together"),
        (("--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"), "certificate"),
    ],
)
def test_a_certificate_that_is_none(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    person = Person(clean_environment(tmp_path, GRIDX_STORAGE__URL=f"sqlite:///{tmp_path}/g.db"))
    done = person.gridx("coordinator", "--port", "0", *flags)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ workers


def test_the_prompt_of_a_worker(alice: Person, tmp_path: Path) -> None:
    words = alice.command(
        "worker", "--user", "alice", "--slots", "1", "--name", "prompt", "--state-dir",
        str(tmp_path / "state"), "--label", "site=here",
    )  # fmt: skip
    environment = {**alice.environment, "GRIDX_PASSWORD": PASSWORD}
    with running(*words, env=environment) as process:
        process.wait_for("alice> ")
        (view,) = [each for each in alice.json("workers") if each["name"] == "prompt"]
        assert (view["status"], view["labels"]) == ("online", {"site": "here"})
        process.send("submit print(6 * 7)\n")
        job = process.wait_for(r"(\S+) is submitted").group(1)
        alice.ok("wait", job)
        process.send("log\n")
        process.wait_for("42\nsucceeded")
        process.send("credits\n")
        process.wait_for("available")
        process.send("status\n")
        process.wait_for("connected to")
        process.send("quit\n")
        assert process.wait() == 0
    # The coordinator writes it down when the worker has gone already.
    shown = ("workers", "show", view["worker_id"])
    until(lambda: alice.json(*shown)["status"] == "offline", "it is offline")


def test_commands_may_come_from_a_pipe_that_ends(alice: Person, tmp_path: Path) -> None:
    done = alice.gridx(
        "worker", "--user", "alice", "--state-dir", str(tmp_path / "state"),
        feed="status\n", GRIDX_PASSWORD=PASSWORD,
    )  # fmt: skip
    assert done.returncode == 0
    assert "connected to" in done.stdout


def test_who_is_logged_in_needs_no_other_word(alice: Person, tmp_path: Path) -> None:
    words = alice.command(
        "worker", "--no-cli", "--name", "quiet", "--state-dir", str(tmp_path / "s")
    )
    with running(*words, env=alice.environment) as process:
        process.wait_for("worker_accepted")
        assert process.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("flags", "password", "told"),
    [
        (("--user", "alice"), "wrong password", "wrong"),
        (("--url", "http://192.0.2.1:1", "--user", "x"), PASSWORD, "--insecure"),
        (("--url", "gopher://x", "--user", "x"), PASSWORD, "address"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    alice: Person, tmp_path: Path, flags: tuple[str, ...], password: str, told: str
) -> None:
    words = ("worker", "--no-cli", "--state-dir", str(tmp_path / "state"), *flags)
    done = alice.gridx(*words, GRIDX_PASSWORD=password)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "alice>" not in done.stdout


# ------------------------------------------------------------------ the demo


def test_the_demo_ends_well(tmp_path: Path) -> None:
    person = Person(clean_environment(tmp_path))
    shown = person.ok("demo")
    assert "3 users submit 27 jobs" in shown
    assert shown.count("succeeded") == 27
    assert "exactly 10.4506" in shown
    assert "clockmaker" in shown
    assert re.search(r"sum\s+0\.000000", shown)
    assert "it all adds up" in shown
    for name in ("attic-pc", "lab-2", "alice", "bob", "carol", "olivia", "peter"):
        assert name in shown


def test_the_demo_goes_on_when_asked_to(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path)
    with running(GRIDX, "demo", "--keep", env=environment) as process:
        found = process.wait_for(r"gridx login --url (\S+) --user admin\n  password: (\S+)", 60)
        person = Person(environment)
        person.ok("login", "--url", found[1], "--user", "admin", GRIDX_PASSWORD=found[2])
        assert json.loads(person.ok("ledger", "verify", "--json"))["ok"]
        assert process.stop(signal.SIGINT) == 0


def test_the_demo_refuses_settings_of_another_grid(tmp_path: Path) -> None:
    done = Person(clean_environment(tmp_path, GRIDX_SERVER__HOST="0.0.0.0")).gridx("demo")
    assert done.returncode == 1
    assert "GRIDX_SERVER__HOST" in done.stderr


def test_everything_ran_on_one_grid(grid: Grid) -> None:
    assert grid.process.exit_code is None
    assert "Traceback" not in grid.process.stderr
