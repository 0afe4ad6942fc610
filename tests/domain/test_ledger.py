"""A book: balances inside one transaction, and the movements made on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.errors import Conflict, InsufficientCredits
from gridx.domain.ledger import (
    FEES,
    ISSUED_MAX,
    MINT,
    Balance,
    Book,
    Kind,
    Movement,
    Verification,
    available,
    held,
    is_grids,
    need_issuable,
    owner_of,
)
from gridx.domain.money import AMOUNT_MICROCREDITS_MAX

USERS = ["alice", "bob", "carol"]
ACCOUNTS = [account for user in USERS for account in (available(user), held(user))]


def movement(source: str, target: str, amount: int) -> Movement:
    return Movement("id", 1, Kind.TRANSFER, source, target, amount)


def test_a_movement_takes_from_one_account_and_puts_into_another() -> None:
    book = Book({available("alice"): 100, held("alice"): 0})
    book.move(movement(available("alice"), held("alice"), 30))
    assert book.balance(available("alice")) == 70
    assert book.balance(held("alice")) == 30
    assert [(p.source_after, p.target_after) for p in book.postings] == [(70, 30)]


def test_the_grids_own_accounts_keep_no_balance() -> None:
    book = Book({})
    book.move(movement(MINT, available("alice"), 100))
    book.move(movement(available("alice"), FEES, 40))
    assert [(p.source_after, p.target_after) for p in book.postings] == [(None, 100), (60, None)]
    assert list(book.changes) == [(available("alice"), None, 60)]


def test_what_moved_there_and_back_changes_no_balance() -> None:
    book = Book({available("alice"): 10, available("bob"): 0})
    book.move(movement(available("alice"), available("bob"), 10))
    book.move(movement(available("bob"), available("alice"), 10))
    assert list(book.changes) == []
    assert len(book.postings) == 2


def test_a_grid_issues_so_much_and_no_more() -> None:
    need_issuable(100, ISSUED_MAX - 100)
    with pytest.raises(Conflict, match=r"has issued 0\.000100 credits"):
        need_issuable(100, ISSUED_MAX - 99)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([MINT, *ACCOUNTS]),
            st.sampled_from([*ACCOUNTS, FEES]),
            st.integers(1, AMOUNT_MICROCREDITS_MAX),
        ),
        max_size=60,
    )
)
def test_no_account_is_ever_more_than_what_was_issued(wanted: list[tuple[str, str, int]]) -> None:
    book, issued = Book({}), 0
    for source, target, amount in wanted:
        if source == MINT:
            try:
                need_issuable(issued, amount)
            except Conflict:
                continue
            issued += amount
        elif source == target or book.balance(source) < amount:
            continue
        book.move(movement(source, target, amount))
        assert sum(map(book.balance, ACCOUNTS)) <= issued <= ISSUED_MAX < 2**63
    assert all((p.source_after or 0) < 2**63 > (p.target_after or 0) for p in book.postings)


def test_too_few_credits_are_refused_in_the_promised_words() -> None:
    book = Book({available("alice"): 100})
    book.need("alice", 100)
    with pytest.raises(InsufficientCredits) as refused:
        book.need("alice", 637_500)
    assert refused.value.message == "Insufficient credits. Need 0.637500, have 0.000100"


def test_an_account_that_does_not_exist_has_nothing() -> None:
    with pytest.raises(InsufficientCredits):
        Book({}).need("alice", 1)


def test_nobody_goes_below_zero() -> None:
    with pytest.raises(AssertionError, match="below zero"):
        Book({available("alice"): 1}).move(movement(available("alice"), FEES, 2))


@pytest.mark.parametrize(("target", "amount"), [("b:available", 0), ("a:available", 1)])
def test_a_movement_moves_something_somewhere(target: str, amount: int) -> None:
    with pytest.raises(AssertionError, match="a movement"):
        movement("a:available", target, amount)


@given(
    st.fixed_dictionaries({account: st.integers(0, 1_000) for account in ACCOUNTS}),
    st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(ACCOUNTS), st.integers(1, 500))),
)
def test_users_together_keep_what_they_have(
    opened: dict[str, int], wanted: list[tuple[str, str, int]]
) -> None:
    book = Book(opened)
    for source, target, amount in wanted:
        if source != target and book.balance(source) >= amount:
            book.move(movement(source, target, amount))
    assert sum(map(book.balance, ACCOUNTS)) == sum(opened.values())
    sums = dict(opened)
    for posting in book.postings:
        sums[posting.movement.source] -= posting.movement.amount
        sums[posting.movement.target] += posting.movement.amount
        assert posting.source_after == sums[posting.movement.source]
        assert posting.target_after == sums[posting.movement.target]
    assert {a: after for a, _, after in book.changes} == {
        a: n for a, n in sums.items() if n != opened[a]
    }


def test_accounts_are_named_for_their_users() -> None:
    assert owner_of(available("alice")) == owner_of(held("alice")) == "alice"
    assert is_grids(MINT)
    assert is_grids(FEES)
    assert not is_grids(available("grid"))


def test_a_balance_is_both_accounts() -> None:
    assert Balance("alice", 3, 4).balance == 7


def test_a_difference_spoils_the_verification() -> None:
    assert Verification(2, 1, 0, ()).ok
    assert not Verification(2, 1, 0, ("something",)).ok
