"""Every other command against a real grid, for people and for programs."""

import json
from pathlib import Path

import pytest

from tests.support.grid import PASSWORD, Grid, Person

SLEEP = "import time; print('begun', flush=True); time.sleep(60)"


def submitted(person: Person, *words: str) -> str:
    """A job of this person: its id."""
    return person.ok("submit", *words).strip()


def test_submit_wait_show_logs_retry(alice: Person) -> None:
    job = submitted(alice, "--name", "road", "--tag", "t", "-c", "print('hello')")
    assert alice.ok("wait", job, "--timeout", "30") == f"{job}  succeeded\n"
    assert alice.ok("logs", job) == "hello\n"
    assert alice.ok("logs", "-f", job) == "hello\n"
    assert alice.ok("logs", "--raw", "--stream", "stderr", job) == ""
    shown = alice.ok("show", job)
    assert "status      succeeded" in shown
    assert "hello" in shown
    assert alice.json("show", job)["receipt"]["fault"] == "none"
    again = alice.json("retry", job)["job_id"]
    assert alice.json("wait", again)[0]["retry_of"] == job
    assert {each["job_id"] for each in alice.json("ps", "--name", "road", "--all")} == {job, again}
    assert "road" in alice.ok("ps", "--tag", "t")


def test_waiting_for_a_failure_exits_1(alice: Person) -> None:
    job = submitted(alice, "-c", "raise SystemExit(3)")
    done = alice.gridx("wait", job)
    assert (done.returncode, done.stdout) == (1, f"{job}  failed (exit_code)\n")


def test_cancelling_and_giving_up_waiting(alice: Person) -> None:
    job = submitted(alice, "-c", SLEEP)
    late = alice.gridx("wait", job, "--timeout", "0.1")
    assert late.returncode == 1
    assert "after 0.1 s" in late.stderr
    assert alice.ok("cancel", job).split()[0] == job
    assert alice.gridx("wait", job).stdout == f"{job}  cancelled\n"
    again = alice.gridx("cancel", job)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")


def test_a_batch_from_a_file(alice: Person, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(json.dumps({"code": f"print({n})"}) for n in range(3)))
    jobs = alice.ok("submit", "--batch", str(file)).split()
    assert len(jobs) == 3
    alice.ok("wait", *jobs)
    assert [alice.ok("logs", job) for job in jobs] == ["0\n", "1\n", "2\n"]
    file.write_text(json.dumps([{"code": SLEEP}] * 2))
    batch = alice.json("submit", "--batch", str(file))["batch_id"]
    sleepers = [each["job_id"] for each in alice.json("ps", "--batch", batch)]
    assert len(sleepers) == 2
    assert alice.ok("cancel", "--batch", batch) == "2 jobs cancelled\n"
    ended = alice.gridx("wait", *sleepers).stdout  # what runs is paid for when it has ended
    assert ended.split() == [word for job in sleepers for word in (job, "cancelled")]
    file.write_text(json.dumps([{"code": "1"}, {"code": ""}]))
    refused = alice.gridx("submit", "--batch", str(file))
    assert refused.returncode == 1
    assert "1" in refused.stderr


def test_the_owners_hand_on_workers(admin: Person, alice: Person) -> None:
    (worker,) = admin.json("workers")
    name, worker_id = worker["name"], worker["worker_id"]
    assert name in admin.ok("workers")
    assert f"{name}  paused" in admin.ok("workers", "pause", name)
    assert admin.json("workers", "show", worker_id)["status"] == "paused"
    assert alice.gridx("workers", "resume", worker_id).returncode == 1
    assert f"{name}  online" in admin.ok("workers", "resume", worker_id)
    assert "there is no worker" in admin.gridx("workers", "show", "nobody").stderr.lower()
    assert "sandboxes" in admin.ok("workers", "show", name)
    admin.ok("admin", "suspend-worker", name)
    assert admin.json("admin", "unsuspend-worker", name)["status"] == "online"
    assert admin.ok("admin", "broadcast", "noon") == "sent to 1 workers\n"
    assert alice.gridx("admin", "admit", name).returncode == 1


def test_credits_move_and_are_told(admin: Person, alice: Person) -> None:
    before = alice.json("credits")
    assert alice.json("credits", "transfer", "admin", "0.5", "--memo", "hello")["from"] == "alice"
    assert "to alice" in admin.ok("admin", "grant", "alice", "0.5")
    after = alice.json("credits", "balance")
    assert after["balance"] == before["balance"]
    lines = alice.json("credits", "statement", "-n", "2")
    assert [line["kind"] for line in lines] == ["grant", "transfer"]
    assert "-0.500000" in alice.ok("credits", "statement")
    assert admin.json("credits", "balance", "--user", "alice") == after
    assert alice.gridx("credits", "--user", "admin").returncode == 2
    assert alice.gridx("credits", "balance", "--user", "admin").returncode == 1
    refused = alice.gridx("credits", "transfer", "admin", "0.0000001")
    assert refused.returncode == 1
    assert "amount" in refused.stderr


def test_the_ledger_is_proven_from_inside_and_outside(grid: Grid, admin: Person) -> None:
    assert "the ledger adds up" in admin.ok("ledger", "verify")
    assert admin.json("ledger", "verify")["differences"] == []
    assert admin.json("ledger", "verify", "--data", str(grid.folder))["ok"]
    nowhere = admin.gridx("ledger", "verify", "--data", "/nowhere")
    assert nowhere.returncode == 1
    assert "no grid in /nowhere" in nowhere.stderr


@pytest.mark.parametrize(
    ("content", "told"), [(b"no database at all " * 99, "damaged"), (b"", "is empty or torn")]
)
def test_what_is_no_ledger_is_refused(
    admin: Person, tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "gridx.db").write_bytes(content)
    done = admin.gridx("ledger", "verify", "--data", str(tmp_path))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "gridx.db").read_bytes().startswith(content)


def test_a_login_and_its_end(alice: Person, stranger: Person, tmp_path: Path) -> None:
    wrong = stranger.gridx("login", "--user", "alice", GRIDX_PASSWORD="wrong password")
    assert wrong.returncode == 1
    assert "wrong" in wrong.stderr
    (tmp_path / "password").write_text(PASSWORD + "\n")
    stranger.ok("login", "--user", "alice", "--password-file", str(tmp_path / "password"))
    login = tmp_path / ".config" / "gridx" / "login.json"
    assert login.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in login.read_text()
    assert stranger.json("whoami")["user_id"] == "alice"
    token = json.loads(login.read_text())["token"]
    stranger.ok("logout")
    assert not login.exists()
    ended = stranger.gridx("ps", GRIDX_TOKEN=token)
    assert ended.returncode == 1
    assert "run `gridx login`" in ended.stderr


def test_a_secret_on_the_command_line_is_warned_of(alice: Person, stranger: Person) -> None:
    done = stranger.gridx("login", "--user", "alice", "--password", PASSWORD)
    assert done.returncode == 0
    assert "--password can be read" in done.stderr
    assert "--token can be read" in stranger.gridx("ps", "--token", "x").stderr


def test_without_a_terminal_nothing_is_asked(stranger: Person) -> None:
    done = stranger.gridx("login", "--user", "alice")
    assert done.returncode == 1
    assert "--password-file" in done.stderr
    assert stranger.gridx("login").returncode == 1


def test_no_password_goes_out_in_the_clear(stranger: Person) -> None:
    words = ("login", "--url", "http://192.0.2.1:8081", "--user", "alice")
    done = stranger.gridx(*words, GRIDX_PASSWORD=PASSWORD)
    assert done.returncode == 1
    assert "--insecure" in done.stderr


def test_a_changed_password(stranger: Person, tmp_path: Path) -> None:
    stranger.ok("register", "--user", "changer", GRIDX_PASSWORD=PASSWORD)
    (tmp_path / "new").write_text("another password")
    words = ("password", "--new-password-file", str(tmp_path / "new"))
    stranger.ok(*words, GRIDX_PASSWORD=PASSWORD)
    stranger.ok("login", "--user", "changer", GRIDX_PASSWORD="another password")
    taken = stranger.gridx("register", "--user", "changer", GRIDX_PASSWORD=PASSWORD)
    assert taken.returncode == 1


def test_api_keys(alice: Person, stranger: Person) -> None:
    made = alice.json("key", "create", "ci", "--scope", "jobs", "--expires", "1d")
    key = made["key"]
    assert "ci" in alice.ok("key", "list")
    assert key not in alice.ok("key", "list")
    assert stranger.ok("run", "-c", "print(1)", GRIDX_TOKEN=key) == "1\n"
    assert "alice" in stranger.ok("whoami", GRIDX_TOKEN=key)
    denied = stranger.gridx("credits", "balance", GRIDX_TOKEN=key)
    assert denied.returncode == 1
    alice.ok("key", "delete", made["key_id"])
    assert stranger.gridx("ps", GRIDX_TOKEN=key).returncode == 1
    bad = alice.gridx("key", "create", "x", "--expires", "soon")
    assert bad.returncode == 1
    assert "30d" in bad.stderr


def test_users_and_invitations(admin: Person, alice: Person, stranger: Person) -> None:
    stranger.ok("register", "--user", "mallory", GRIDX_PASSWORD=PASSWORD)
    admin.ok("admin", "suspend", "mallory")
    assert stranger.gridx("ps").returncode == 1
    users = {user["user_id"]: user for user in admin.json("admin", "users")}
    assert users["mallory"]["suspended"]
    assert "mallory" in admin.ok("admin", "users")
    admin.ok("admin", "unsuspend", "mallory")
    stranger.ok("login", "--user", "mallory", GRIDX_PASSWORD=PASSWORD)
    invite = admin.ok("admin", "invite", "--grant", "5", "--expires", "7d").strip()
    words = ("register", "--user", "guest", "--invite", invite)
    stranger.ok(*words, GRIDX_PASSWORD=PASSWORD)
    assert stranger.json("credits")["balance"] == "5.000000"
    assert alice.gridx("admin", "users").returncode == 1


def test_the_shell(alice: Person) -> None:
    lines = [
        "submit print(6 * 7)", "submit bash: echo hi", "jobs", "workers", "credits", "status",
        "help", "pause", "nonsense", "file /nowhere.py", "log nothing", "", "quit", "jobs",
    ]  # fmt: skip
    done = alice.gridx("shell", feed="\n".join(lines))
    assert done.returncode == 0
    jobs = [line.split()[0] for line in done.stdout.splitlines() if "is submitted" in line]
    assert len(jobs) == 2
    assert "available" in done.stdout
    assert "You have no such worker" in done.stdout
    assert done.stderr.count("error:") == 3
    assert "'nonsense'" in done.stderr
    alice.ok("wait", *jobs)
    assert "42\nsucceeded" in alice.ok("shell", feed=f"log {jobs[0]}\n")
