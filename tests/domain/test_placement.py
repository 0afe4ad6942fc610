"""Plans of the dispatcher: never over capacity, fair between owners, one's own worker first."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridx.domain.matching import Shape, shape_key, suits
from gridx.domain.placement import Place, Queue, Seat, Share, plan, standing
from gridx.domain.resources import NOTHING, Resources, total
from gridx.domain.worker import Capabilities, Standing, Worker

UNIT = Resources(1, 256, 0, 256)
HOUR = 3_600.0


def worker(number: int, owner: str, room: Resources, *, admitted: bool = True) -> Worker:
    return Worker(
        worker_id=f"w{number}",
        owner_id=owner,
        name=f"w{number}",
        capabilities=Capabilities(room, languages=("python", "bash")),
        version="1",
        created_at=0,
        seen_at=0,
        online=True,
        paused=False,
        draining=False,
        standing=Standing.GOOD,
        admitted=admitted,
    )


def seat(number: int, owner: str, slots: int, **more: bool) -> Seat:
    room = UNIT.times(slots)
    return Seat(worker(number, owner, room, **more), room)


def queue(
    owner: str,
    need: Resources = UNIT,
    priority: int = 0,
    language: str = "python",
    shuns: tuple[str, ...] = (),
) -> Queue:
    shape = Shape(need, language, shuns=shuns)
    return Queue(owner, shape, shape_key(shape), priority, 10_000.0 * need.cpus)


def counts(places: list[Place]) -> Counter[str]:
    found: Counter[str] = Counter()
    for place in places:
        found[place.queue.owner] += place.count
    return found


def by_worker(places: list[Place]) -> Counter[str]:
    found: Counter[str] = Counter()
    for place in places:
        found[place.worker_id] += place.count
    return found


def test_one_owner_alone_takes_all_the_room() -> None:
    places = plan([queue("alice")], [seat(1, "bob", 8), seat(2, "bob", 3)], {}, 512)
    assert by_worker(places) == {"w1": 8, "w2": 3}


def test_several_owners_share_the_room_evenly() -> None:
    owners = ["alice", "carol", "dave"]
    places = plan([queue(owner) for owner in owners], [seat(1, "bob", 300)], {}, 512)
    found = counts(places)
    assert sum(found.values()) == 300
    assert max(found.values()) - min(found.values()) <= 300 // 12 + 1


def test_who_has_used_least_is_served_first() -> None:
    standings = {"alice": 50_000.0, "carol": 0.0}
    places = plan([queue("alice"), queue("carol")], [seat(1, "bob", 1)], standings, 512)
    assert counts(places) == {"carol": 1}


def test_who_has_used_more_waits_until_the_others_have_caught_up() -> None:
    standings = {"alice": 40_000.0, "carol": 0.0}
    places = plan([queue("alice"), queue("carol")], [seat(1, "bob", 6)], standings, 512)
    assert counts(places) == {"carol": 5, "alice": 1}


def test_a_large_job_counts_for_more_than_a_small_one() -> None:
    large = queue("alice", UNIT.times(3))
    places = plan([large, queue("carol")], [seat(1, "bob", 12)], {}, 512)
    assert counts(places) == {"alice": 2, "carol": 6}


def test_ones_own_worker_is_tried_first() -> None:
    seats = [seat(1, "bob", 4), seat(2, "alice", 4)]
    places = plan([queue("alice")], seats, {}, 4)
    assert by_worker(places) == {"w2": 4}
    places = plan([queue("alice")], seats, {}, 6)
    assert by_worker(places) == {"w2": 4, "w1": 2}


def test_a_worker_nobody_admitted_serves_its_owner_only() -> None:
    seats = [seat(1, "bob", 4, admitted=False)]
    assert plan([queue("alice")], seats, {}, 512) == []
    assert counts(plan([queue("alice"), queue("bob")], seats, {}, 512)) == {"bob": 4}


def test_the_urgent_queue_of_an_owner_goes_first() -> None:
    urgent = queue("alice", priority=5, language="bash")
    places = plan([queue("alice"), urgent], [seat(1, "bob", 2)], {}, 512)
    assert [(place.queue, place.count) for place in places] == [(urgent, 2)]


def test_a_queue_that_fits_nowhere_does_not_hold_up_the_owners_others() -> None:
    huge = queue("alice", UNIT.times(100), priority=9)
    places = plan([huge, queue("alice")], [seat(1, "bob", 2)], {}, 512)
    assert [(place.queue.priority, place.count) for place in places] == [(0, 2)]


def test_the_fullest_worker_that_has_room_is_filled_first() -> None:
    small, large = seat(1, "bob", 2), seat(2, "bob", 16)
    assert by_worker(plan([queue("alice")], [large, small], {}, 2)) == {"w1": 2}


def test_workers_with_gpus_are_kept_for_jobs_with_gpus() -> None:
    room = Resources(2, 512, 2, 512)
    rich = Seat(worker(1, "bob", room), room)
    plain = seat(2, "bob", 4)
    assert by_worker(plan([queue("alice")], [rich, plain], {}, 1)) == {"w2": 1}


def test_no_queues_no_workers_no_places() -> None:
    assert plan([], [seat(1, "bob", 1)], {}, 512) == []
    assert plan([queue("alice")], [], {}, 512) == []
    assert plan([queue("alice")], [seat(1, "bob", 1)], {}, 0) == []


needs = st.builds(
    Resources,
    st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0, 2.5]),
    st.sampled_from([16, 256, 1_000]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([1, 256]),
)
queues = st.lists(
    st.builds(
        queue,
        st.sampled_from(["alice", "bob", "carol"]),
        needs,
        st.integers(-100, 100),
        st.sampled_from(["python", "bash", "javascript"]),
    ),
    max_size=8,
    unique_by=lambda q: (q.owner, q.key),
)
rooms = st.builds(
    Resources,
    st.integers(0, 800).map(lambda n: n / 100),
    st.integers(0, 4_096),
    st.integers(0, 2),
    st.integers(0, 2_048),
)
seats = st.lists(
    st.tuples(st.sampled_from(["alice", "bob", "dave"]), rooms, st.booleans()), max_size=5
).map(
    lambda found: [
        Seat(worker(n, owner, room, admitted=admitted), room)
        for n, (owner, room, admitted) in enumerate(found)
    ]
)


@given(queues, seats, st.dictionaries(st.sampled_from(["alice", "bob"]), st.floats(0, 1e6)),
       st.integers(1, 600))  # fmt: skip
def test_no_worker_gets_more_than_it_has_or_may_run(
    waiting: list[Queue], offered: list[Seat], standings: dict[str, float], limit: int
) -> None:
    places = plan(waiting, offered, standings, limit)
    assert sum(place.count for place in places) <= limit
    for one in offered:
        mine = [place for place in places if place.worker_id == one.worker.worker_id]
        taken = total(place.queue.shape.resources.times(place.count) for place in mine)
        assert taken.fits(one.free)
        for place in mine:
            assert place.count > 0
            assert suits(place.queue.shape, one.worker.capabilities)
            assert one.worker.may_serve(place.queue.owner)


@given(queues, seats)
def test_no_room_is_left_that_a_queue_could_use(waiting: list[Queue], offered: list[Seat]) -> None:
    places = plan(waiting, offered, {}, 100_000)
    for one in offered:
        mine = [place for place in places if place.worker_id == one.worker.worker_id]
        left = one.free.minus(total(p.queue.shape.resources.times(p.count) for p in mine))
        for place in waiting:
            fits = place.shape.resources.fits(left) and suits(place.shape, one.worker.capabilities)
            assert not (fits and one.worker.may_serve(place.owner))


# ------------------------------------------------------------------ workers that failed before


def test_what_a_worker_failed_goes_to_another() -> None:
    seats = [seat(1, "bob", 4), seat(2, "carol", 4)]
    assert by_worker(plan([queue("alice", shuns=("w1",))], seats, {}, 512)) == {"w2": 4}
    mixed = [queue("alice", shuns=("w1",)), queue("dave")]
    assert sum(by_worker(plan(mixed, seats, {}, 512)).values()) == 8


def test_it_waits_for_another_that_is_busy() -> None:
    busy = Seat(worker(2, "carol", UNIT), NOTHING)
    assert plan([queue("alice", shuns=("w1",))], [seat(1, "bob", 4), busy], {}, 512) == []


def test_it_comes_back_where_no_other_could_run_it() -> None:
    shunning = queue("alice", shuns=("w1", "w2"))
    cannot = [
        seat(3, "carol", 4, admitted=False),
        Seat(worker(4, "carol", UNIT), NOTHING, withheld=UNIT),
        Seat(worker(5, "carol", Resources(0.5, 256, 0, 256)), NOTHING),
    ]
    seats = [seat(1, "bob", 1), seat(2, "bob", 2), *cannot]
    assert by_worker(plan([shunning], seats, {}, 512)) == {"w1": 1, "w2": 2}


def test_ones_own_worker_is_shunned_too() -> None:
    seats = [seat(1, "alice", 4), seat(2, "bob", 4)]
    assert by_worker(plan([queue("alice", shuns=("w1",))], seats, {}, 512)) == {"w2": 4}


def test_use_is_halved_every_half_life() -> None:
    share = Share(100.0, 0.0)
    assert share.at(HOUR, HOUR).used == pytest.approx(50)
    assert share.at(3 * HOUR, HOUR).used == pytest.approx(12.5)
    assert share.plus(10, HOUR, HOUR).used == pytest.approx(60)


@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_it_does_not_matter_how_often_one_looks(used: float, first: float, then: float) -> None:
    share = Share(used, 0.0)
    at_once = share.at(first + then, HOUR).used
    assert share.at(first, HOUR).at(first + then, HOUR).used == pytest.approx(at_once)


@given(st.floats(0, 1e9), st.floats(0, 1e6))
def test_time_that_goes_back_forgives_and_adds_nothing(used: float, back: float) -> None:
    assert Share(used, 1e6).at(1e6 - back, HOUR).used == used


def test_what_runs_counts_and_weight_divides() -> None:
    assert standing(Share(10.0), 30.0, 1.0) == 40.0
    assert standing(Share(10.0), 30.0, 4.0) == 10.0
