"""Which waiting train starts where: wide and narrow ones get their turn, whatever comes and however
wrong the estimates are."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from training.train.estimate import Estimate
from training.work.placing import Machine, Placement, Wish, place

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LONGEST = 100.0


@dataclass(eq=False)
class Train:
    """As much of a train as is asked for. seconds: as estimated, None where nothing is known; real:
    as it is."""

    pk: int
    width: int = 1
    seconds: float | None = 10.0
    real: float = 10.0
    gathers_on: str = ""
    gathers_until: datetime | None = None
    arrives: float = 0.0
    starts: float | None = None
    on: str = ""
    began_to_gather: float | None = None
    promise: float | None = None
    was_first: bool = False
    ahead: list["Train"] = field(default_factory=list)

    @property
    def ends(self) -> float:
        assert self.starts is not None
        return self.starts + self.real


class Times:
    """Estimates at a moment."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def of(self, run: Train) -> Estimate | None:
        return None if run.seconds is None else Estimate(run.seconds, 0.0, 1)

    def left(self, run: Train) -> Estimate | None:
        if run.seconds is None:
            return None
        ran = self.now - run.starts if run.starts is not None else 0.0
        return Estimate(max(0.0, run.seconds - ran), 0.0, 1)


def looked(trains: list[Train], machines: list[Machine], **options) -> Placement:
    wishes = [Wish(train) for train in trains]
    return place(wishes, machines, Times(), NOW, **options)


def started(placement: Placement) -> list[tuple[int, str]]:
    return [(train.pk, key) for train, key in placement.starts]


def test_a_wide_train_starts_where_enough_devices_are_free():
    trains = [Train(1, width=2), Train(2), Train(3)]
    small, large = Machine("a", "cpu", free=1), Machine("b", "cpu", free=3)
    assert started(looked(trains, [small, large])) == [(1, "b"), (2, "a"), (3, "b")]


def test_devices_are_kept_for_the_first_that_cannot_start():
    """Behind it starts only what ends before."""
    trains = [Train(1, width=2), Train(2, seconds=50), Train(3, seconds=20), Train(4, seconds=None)]
    placement = looked(trains, [Machine("a", "cpu", 1, [Train(9, seconds=30)])])
    assert started(placement) == [(3, "a")]
    (gathering,) = placement.gathering
    assert (gathering.run.pk, gathering.free) == (1, 1)
    assert gathering.until == NOW + timedelta(seconds=30)
    assert [train.pk for train in placement.kept_out] == [2]


def test_nothing_passes_while_the_end_of_what_runs_is_not_known():
    trains = [Train(1, width=2), Train(2, seconds=1)]
    placement = looked(trains, [Machine("a", "cpu", 1, [Train(9, seconds=None)])])
    assert (placement.starts, placement.gathering[0].until) == ([], None)


def test_it_gathers_on_one_machine_and_the_others_go_on():
    """On that which is ready first; and stays there, though another one would be ready first now."""
    trains = [Train(1, width=2), Train(2, seconds=90)]
    soon, late = (Train(number, seconds=seconds) for number, seconds in ((8, 5), (9, 60)))

    placement = looked(trains, [Machine("a", "cpu", 1, [late]), Machine("b", "cpu", 1, [soon])])
    assert (placement.gathering[0].key, started(placement)) == ("b", [(2, "a")])

    trains[0].gathers_on, trains[0].gathers_until = "a", NOW + timedelta(seconds=40)
    placement = looked(trains, [Machine("a", "cpu", 1, [late]), Machine("b", "cpu", 1, [soon])])
    assert (placement.gathering[0].key, started(placement)) == ("a", [(2, "b")])


def test_a_second_wide_one_gathers_elsewhere_though_it_would_fit_into_what_is_kept():
    """Else those behind it would take the other machine's devices again and again."""
    four, two = Train(1, width=4), Train(2, width=2, seconds=50)
    large = Machine("a", "cpu", 2, [Train(8, seconds=30)] * 2)
    small = Machine("b", "cpu", 1, [Train(9, seconds=60)])
    placement = looked([four, two, Train(3, seconds=90)], [large, small])
    assert [(found.run.pk, found.key) for found in placement.gathering] == [(1, "a"), (2, "b")]
    assert placement.starts == []
    assert [train.pk for train in placement.kept_out] == [3]


def test_after_the_time_that_was_first_expected_nothing_passes_any_more():
    wide, short = Train(1, width=2, gathers_on="a"), Train(2, seconds=20)
    wide.gathers_until = NOW + timedelta(seconds=10)
    machine = Machine("a", "cpu", 1, [Train(9, seconds=500)])
    assert looked([wide, short], [machine]).starts == []


def test_one_that_no_machine_could_run_keeps_nothing():
    trains = [Train(1, width=5), Train(2)]
    placement = looked(trains, [Machine("a", "cpu", 1, [Train(9)])])
    assert (started(placement), placement.gathering) == ([(2, "a")], [])
    assert [train.pk for train in placement.homeless] == [1]


def test_nothing_is_kept_where_models_answer_first():
    """Nobody knows when they will not; a device that is only locked falls free at once."""
    trains = [Train(1, width=2), Train(2)]
    placement = looked(trains, [Machine("a", "cpu", 1, answering=1)])
    assert (started(placement), placement.gathering) == ([(2, "a")], [])
    assert [train.pk for train in placement.answered] == [1]

    placement = looked(trains, [Machine("a", "cpu", 1, [None], answering=1)])
    assert (started(placement), len(placement.gathering)) == ([], 1)
    assert placement.answered == []


def test_a_machine_of_another_kind_is_none():
    wishes = [Wish(Train(1, width=2), ("cuda",)), Wish(Train(2))]
    placement = place(wishes, [Machine("a", "cpu", 2)], Times(), NOW)
    assert started(placement) == [(2, "a")]


def test_a_worker_looks_no_further_than_its_own_start():
    trains = [Train(number) for number in range(5)]
    machines = [Machine("a", "cpu", 1), Machine("b", "cpu", 1)]
    assert started(looked(trains, machines, own="b")) == [(0, "b")]


# A walk over orders


@dataclass
class House:
    """Machines and a line, in which time passes."""

    sizes: dict[str, int]
    now: float = 0.0
    line: list[Train] = field(default_factory=list)
    running: list[Train] = field(default_factory=list)

    def add(self, train: Train) -> None:
        train.ahead = [*self.line, *self.running]
        self.line.append(train)

    def look(self) -> None:
        machines = []
        for key, size in self.sizes.items():
            here = [train for train in self.running if train.on == key]
            holders = [train for train in here for _ in range(train.width)]
            assert len(holders) <= size, "more devices in use than there are"
            machines.append(Machine(key, "cpu", size - len(holders), holders))

        now = NOW + timedelta(seconds=self.now)
        placement = place([Wish(train) for train in self.line], machines, Times(self.now), now)

        for train, key in placement.starts:
            train.starts, train.on = self.now, key
            self.line.remove(train)
            self.running.append(train)

        for gathering in placement.gathering:
            train = gathering.run
            train.gathers_on, train.gathers_until = gathering.key, gathering.until
            if train.began_to_gather is None:
                train.began_to_gather = self.now
                train.was_first = self.line[0] is train
            if gathering.until is not None and train.promise is None:
                train.promise = (gathering.until - NOW).total_seconds()

    def pass_time(self, to: float) -> None:
        """Until then; what ends on the way makes room."""
        while ending := [train for train in self.running if train.ends <= to]:
            self.now = min(train.ends for train in ending)
            self.running = [train for train in self.running if train.ends > self.now]
            self.look()
        self.now = to


@pytest.mark.parametrize("seed", range(12))
def test_everybody_gets_a_turn_in_bounded_time(seed):
    """More trains than can ever run at once, of all widths, for as long as it takes; half of their
    estimates are wrong by up to three times, or missing."""
    chance = random.Random(seed)
    sizes = {f"machine {number}": chance.choice((1, 2, 3, 4, 8)) for number in range(3)}
    house = House(sizes | {"largest": 4})
    trains = [arrival(number, chance, max(house.sizes.values())) for number in range(250)]

    time = 0.0
    for train in trains:
        time += chance.expovariate(1.0) * LONGEST / 20
        train.arrives = time
        house.pass_time(time)
        house.add(train)
        house.look()
    house.pass_time(10**9)

    for train in trains:
        assert train.starts is not None, f"{train} never started"
        # At worst those in front of it ran one after the other, each having gathered first: what was
        # expected of the trains before, and the longest of those that took longer.
        most = sum(max(other.real, other.seconds or 0) + 2 * LONGEST for other in train.ahead)
        assert train.starts - train.arrives <= most + 2 * LONGEST
        if train.was_first:
            # What ran when it was expected to start, and nothing else.
            assert train.starts <= (train.promise or train.began_to_gather or 0) + LONGEST


def arrival(number: int, chance: random.Random, widest: int) -> Train:
    real = chance.uniform(1, LONGEST)
    guess = real if chance.random() < 0.5 else min(LONGEST, real * chance.uniform(0.3, 3))
    width = 1 if chance.random() < 0.7 else chance.randint(2, widest)
    return Train(number, width, None if chance.random() < 0.1 else guess, real)


def test_a_wide_train_waits_no_longer_because_narrow_ones_keep_coming():
    house = House({"a": 2})
    house.add(Train(0, seconds=10, real=10))
    house.look()
    house.pass_time(1)
    wide = Train(1, width=2)
    house.add(wide)
    house.look()

    for number in range(2, 60):
        house.add(Train(number, seconds=10, real=10))
        house.pass_time(float(number))
        house.look()

    assert wide.starts == 10


def test_short_ones_use_the_devices_that_a_wide_one_waits_for():
    house = House({"a": 2})
    house.add(Train(0, seconds=100, real=100))
    house.add(Train(1, width=2))
    shorts = [Train(number, seconds=30, real=30) for number in range(2, 6)]
    for train in shorts:
        house.add(train)
    house.look()
    house.pass_time(1000)
    assert [train.starts for train in shorts] == [0, 30, 60, 110]
    # The fourth would have ended too late.
    assert house.line == []
