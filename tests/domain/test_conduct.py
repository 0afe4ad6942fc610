"""Conduct: who is set aside, and above all who is not."""

import random
from collections.abc import Sequence

import pytest

from gridx.domain.attempt import Attempt, AttemptStatus, Reason
from gridx.domain.conduct import ROW_MAX, WINDOW, Conduct, End, Share, end_of, far_above

GOOD = (AttemptStatus.SUCCEEDED, None)
BROKEN = (AttemptStatus.FAILED, Reason.SANDBOX_ERROR)
FAILED = (AttemptStatus.FAILED, Reason.EXIT_CODE)
LATE = (AttemptStatus.FAILED, Reason.TIMEOUT)
LOST = (AttemptStatus.LOST, Reason.LOST)


def end(
    worker_id: str,
    how: tuple[AttemptStatus, Reason | None],
    submitter: str = "alice",
    *,
    instant: bool = False,
) -> End:
    return End(worker_id, submitter, *how, instant)


def note(conduct: Conduct, ends: Sequence[End]) -> dict[str, str]:
    """Each by itself; the verdicts on all of them."""
    verdicts: dict[str, str] = {}
    for each in ends:
        verdicts |= conduct.note([each])
    return verdicts


# ------------------------------------------------------------------ in a row


def test_five_failures_in_a_row_set_a_worker_aside() -> None:
    conduct = Conduct()
    row = [end("w", BROKEN), end("w", LOST, instant=True)] * 3
    assert note(conduct, row[: ROW_MAX - 1]) == {}
    assert "in a row" in note(conduct, row[ROW_MAX - 1 : ROW_MAX])["w"]
    assert "w" in note(conduct, [end("w", BROKEN)]), "another chance is one attempt"
    conduct.forgive("w")
    assert note(conduct, row[: ROW_MAX - 1]) == {}


@pytest.mark.parametrize("how", [GOOD, FAILED, LATE])
def test_what_ends_by_itself_ends_the_row(how: tuple[AttemptStatus, Reason | None]) -> None:
    row = [end("w", BROKEN)] * (ROW_MAX - 1)
    assert note(Conduct(), [*row, end("w", how), *row]) == {}


def test_each_worker_has_its_own_row() -> None:
    assert note(Conduct(), [end(f"w{n % 3}", BROKEN) for n in range(3 * (ROW_MAX - 1))]) == {}


def test_losses_that_are_not_at_once_do_not_count() -> None:
    assert note(Conduct(), [end("w", LOST)] * 20) == {}


def test_a_machine_that_is_switched_off_with_many_attempts_fails_once() -> None:
    conduct = Conduct()
    assert conduct.note([end("w", LOST, instant=True)] * 20) == {}
    assert note(conduct, [end("w", LOST, instant=True)] * (ROW_MAX - 2)) == {}


def test_what_was_lost_at_once_is_told_by_its_times() -> None:
    lost = Attempt(
        "j", 1, "l", "w", "bob", AttemptStatus.LOST, Reason.LOST, None, True, 100, None, 140,
        None, 0, None,
    )  # fmt: skip
    assert end_of(lost, "alice", 40).instant
    assert not end_of(lost, "alice", 39).instant
    handed_over = Attempt(
        "j", 1, "l", "w", "bob", AttemptStatus.LOST, Reason.LOST, None, False, 100, None, 140,
        None, 0, None,
    )  # fmt: skip
    assert not end_of(handed_over, "alice", 40).instant


# ------------------------------------------------------------------ shares


def share(here: int, bad: int, elsewhere: int = 200, bad_elsewhere: int = 4) -> Share:
    return Share(here, bad, elsewhere, bad_elsewhere)


@pytest.mark.parametrize(
    ("shares", "above"),
    [
        ([share(17, 10), share(17, 10), share(16, 10)], True),
        ([share(17, 5), share(17, 5), share(16, 5)], True),
        ([share(17, 1), share(17, 2), share(16, 1)], False),  # twice the share is chance
        ([share(25, 25), share(25, 25)], False),  # two submitters only
        ([share(40, 40), share(5, 0), share(5, 0)], False),  # it is one submitter's doing
        ([share(17, 17, 10, 0)] * 3, False),  # hardly anything is known of elsewhere
        ([share(17, 17, 200, 190)] * 3, False),  # their jobs fail everywhere
        ([share(17, 0), share(17, 0), share(16, 0)], False),
    ],
)
def test_far_above_is_what_chance_does_not_explain(shares: list[Share], above: bool) -> None:
    assert far_above(shares) is above


def mixed(worker_id: str, chance: float, rng: random.Random, count: int) -> list[End]:
    """Attempts of five submitters of which each ends badly with this chance."""
    return [
        end(worker_id, LATE if rng.random() < chance else GOOD, f"user-{n % 5}")
        for n in range(count)
    ]


def test_a_worker_that_spoils_programs_is_found_and_the_others_are_not() -> None:
    rng = random.Random(5)
    conduct = Conduct()
    good = [f"w{n}" for n in range(8)]
    for _ in range(20):
        for worker_id in good:
            assert note(conduct, mixed(worker_id, 0.05, rng, 25)) == {}
    found = note(conduct, mixed("bad", 0.5, rng, 2 * WINDOW))
    assert "timeout" in found["bad"]


def test_users_whose_jobs_fail_everywhere_have_nobody_set_aside() -> None:
    rng = random.Random(6)
    conduct = Conduct()
    for _ in range(20):
        for worker_id in ("w1", "w2", "w3"):
            assert note(conduct, mixed(worker_id, 0.8, rng, 50)) == {}


def test_what_is_kept_is_bounded() -> None:
    conduct = Conduct()
    for number in range(12_000):
        conduct.note([end(f"w{number}", GOOD, f"user-{number}")])
    assert len(conduct._records) == len(conduct._tallies) == 10_000
