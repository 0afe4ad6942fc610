"""The blocking client against a real grid."""

import pytest

from gridx import Client, GridError
from gridx.client import calls
from gridx.client.events import LogEnd, LogPiece
from gridx.domain.errors import (
    Conflict,
    InsufficientCredits,
    InvalidInput,
    KeyReused,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from tests.client.conftest import Account
from tests.support.grid import Grid
from tests.support.processes import free_port

SLOW = "import time; print('begun', flush=True); time.sleep(60)"


def test_a_job_from_submission_to_its_receipt(client: Client) -> None:
    job = client.submit(
        "import sys; print(sys.argv[1], sys.stdin.read()); print('err', file=sys.stderr)",
        args=["a"], stdin="in", name="first", tags=["t"],
        resources={"cpus": 0.5, "memory_mb": 128}, limits={"timeout_s": 20},
    )  # fmt: skip
    view = job.wait(timeout_s=30)
    assert (view.status, view.stdout, view.stderr) == ("succeeded", "a in\n", "err\n")
    assert (view.name, view.tags, view.resources["cpus"]) == ("first", ["t"], 0.5)
    assert view.receipt is not None
    assert view.receipt.fault == "none"
    assert job.status == "succeeded"
    assert job.logs("stdout") == "a in\n"
    assert client.call(calls.raw_logs(job.job_id, "stderr")) == b"err\n"


@pytest.mark.parametrize(
    ("language", "code"), [("javascript", "console.log(6 * 7)"), ("bash", "echo $((6 * 7))")]
)
def test_every_language(client: Client, language: str, code: str) -> None:
    assert client.submit(code, language).wait(30).stdout == "42\n"


def test_a_command_instead_of_code(client: Client) -> None:
    assert client.submit(command=["printf", "%s", "a b"]).wait(30).stdout == "a b"


def test_following_gives_every_piece_and_then_the_end(client: Client) -> None:
    told = list(client.submit("print('x'); raise SystemExit(3)").follow())
    pieces = [each for each in told if isinstance(each, LogPiece)]
    assert "".join(piece.text for piece in pieces) == "x\n"
    assert told[-1] == LogEnd(status="failed", reason="exit_code")


def test_cancelling(client: Client) -> None:
    job = client.submit(SLOW)
    assert isinstance(next(job.follow()), LogPiece)
    assert job.cancel().cancel_requested
    assert job.wait(30).status == "cancelled"
    with pytest.raises(Conflict):
        job.cancel()


def test_waiting_gives_up_in_time(client: Client) -> None:
    job = client.submit(SLOW)
    with pytest.raises(TimeoutError, match=r"after 0\.2 s"):
        job.wait(0.2)
    job.cancel()
    job.wait(30)


def test_a_final_job_again(client: Client) -> None:
    job = client.submit("print(1)")
    job.wait(30)
    again = job.retry()
    assert again.wait(30).retry_of == job.job_id


def test_lists_go_on_over_pages(client: Client) -> None:
    jobs = client.submit_batch([{"code": "pass", "name": f"n{n}"} for n in range(7)])
    listed = client.each(lambda cursor: calls.jobs(limit=3, cursor=cursor))
    assert [view.job_id for view in listed] == [job.job_id for job in reversed(jobs)]
    for job in jobs:
        job.wait(30)
    assert len(list(client.jobs(status="succeeded"))) == 7
    assert [view.name for view in client.jobs(name="n3")] == ["n3"]


def test_a_job_for_each_list_of_arguments(client: Client) -> None:
    template: calls.JobRequest = {"code": "import sys; print(sys.argv[1])"}
    made = client.call(calls.submit_each(template, [["a"], ["b"]], client.clock.new_id()))
    outputs = [client.job(job_id).wait(30).stdout for job_id in made.job_ids]
    assert outputs == ["a\n", "b\n"]


def test_the_same_key_is_the_same_job(client: Client, account: Account) -> None:
    call = calls.submit({"code": SLOW}, client.clock.new_id())
    first, second = client.call(call), client.call(call)
    assert first == second
    assert client.balance(account.user_id).held == first.held
    with pytest.raises(KeyReused):
        client.call(calls.submit({"code": "print(2)"}, call.key or ""))
    client.job(first.job_id).cancel()


def test_refusals_are_the_coordinators_own(client: Client, grid: Grid) -> None:
    with pytest.raises(InvalidInput, match="language"):
        client.submit("1", "cobol")
    with pytest.raises(NotFound):
        client.job(client.clock.new_id()).show()
    client.transfer("admin", "99.9")
    with pytest.raises(InsufficientCredits, match="Insufficient credits"):
        client.submit("1")
    with pytest.raises(Unauthenticated), Client(grid.url, "not a token") as nobody:
        nobody.submit("1")


def test_credits_and_workers(client: Client, account: Account) -> None:
    who = client.caller()
    assert (who.user_id, who.role) == (account.user_id, "user")
    moved = client.transfer("admin", "1.5", "thanks")
    assert (moved.source, moved.to, moved.amount) == (account.user_id, "admin", "1.500000")
    line = next(client.statement())
    assert (line.kind, line.amount, line.counterpart) == ("transfer", "-1.500000", "admin")
    assert client.balance().available == "98.500000"
    assert [worker.owner_id for worker in client.workers()] == ["admin"]
    assert client.status().workers.total == 1
    assert client.call(calls.health()).status == "healthy"


def test_nobody_there_is_told_in_time() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        Client(nobody, retry_s=0) as client,
        pytest.raises(Unavailable, match="Cannot reach the coordinator"),
    ):
        client.status()


def test_a_secret_is_not_sent_in_the_clear() -> None:
    with (
        Client("http://192.0.2.1", "token", retry_s=0) as client,
        pytest.raises(GridError, match="insecure"),
    ):
        client.submit("1")
