"""The short form of `scripts/fuzz_api.py`: random and hostile requests change nothing."""

import argparse

from scripts.fuzz_api import Campaign, Generator, campaign_of


def run(seed: int, count: int) -> argparse.Namespace:
    return argparse.Namespace(url=None, token=None, count=count, seed=seed)


async def test_hostile_requests_get_clear_answers_and_change_nothing() -> None:
    found = await campaign_of(run(seed=20261125, count=2_000))

    assert found.faults == []
    assert found.answers.total() == 2_000
    assert found.answers[400] > 1_500


def test_a_seed_always_gives_the_same_requests() -> None:
    one, other = Generator(7), Generator(7)

    assert [one.request() for _ in range(200)] == [other.request() for _ in range(200)]


def test_a_fault_would_be_seen() -> None:
    import httpx2

    request = Generator(1).request()
    campaign = Campaign()
    for answer in (
        httpx2.Response(500, json={"error": "x", "code": 500, "timestamp": "x"}),
        httpx2.Response(400, text="plain"),
        httpx2.Response(400, json={"error": "x", "code": 401, "timestamp": "x"}),
        httpx2.Response(400, json={"error": "x", "code": 400, "timestamp": "x", "more": 1}),
    ):
        campaign.look_at(request, answer)

    assert len(campaign.faults) == 4
