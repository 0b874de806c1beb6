"""The liveness probe: an operator is dead when its watch, its resync or its workers are."""

from dataclasses import dataclass, field

from rzero_operator.health import LONGEST_WAIT, MISSED_RESYNCS, WATCH_LAG, Health

RESYNC = 60.0


@dataclass
class World:
    """A health with a clock and a queue that the test moves."""

    now: float = 1000.0
    oldest: float = 0.0
    health: Health = field(init=False)

    def __post_init__(self) -> None:
        self.health = Health(RESYNC, lambda: self.oldest, lambda: self.now)

    def resync(self, **versions: str) -> None:
        self.health.ticked()
        known = self.health.known
        for uid, version in versions.items():
            self.health.listed(uid, version)
        self.health.resynced(set(versions), known)


def test_all_is_well_while_the_watch_delivers_what_the_resync_lists() -> None:
    world = World()
    for number in range(20):
        world.now += RESYNC
        world.health.delivered("a", str(number))
        world.resync(a=str(number))
        assert world.health.problem() is None


def test_a_listed_change_that_the_watch_never_delivers_is_a_dead_watch() -> None:
    world = World()
    world.health.delivered("a", "1")
    for _ in range(3):
        world.resync(a="2")
        assert world.health.problem() is None
        world.now += RESYNC
    world.resync(a="2")
    assert world.now - 1000 > WATCH_LAG
    assert (
        world.health.problem() == "the watch is dead: a change is 180 s old and was not delivered"
    )
    world.health.delivered("a", "2")
    assert world.health.problem() is None


def test_changes_that_pile_up_do_not_hide_the_first_one() -> None:
    world = World()
    for version in "2345":
        world.resync(a=version)
        world.now += RESYNC
    assert "the watch is dead" in str(world.health.problem())


def test_a_change_that_is_delivered_late_is_no_dead_watch() -> None:
    world = World()
    for number in range(10):
        world.resync(a=str(number))
        world.now += RESYNC
        world.health.delivered("a", str(number))
    assert world.health.problem() is None


def test_a_deleted_object_cannot_lag() -> None:
    world = World()
    world.resync(a="1", b="1")
    world.health.deleted("a")
    world.now += WATCH_LAG
    world.resync()
    world.now += 1
    assert world.health.problem() is None


def test_a_run_created_while_the_resync_lists_is_not_forgotten() -> None:
    world = World()
    known = world.health.known
    world.health.delivered("new", "7")
    world.health.resynced(set(), known)
    for _ in range(5):
        world.now += RESYNC
        world.resync(new="7")
        assert world.health.problem() is None


def test_rare_resyncs_have_time_to_see_what_the_watch_delivered() -> None:
    now = 0.0
    health = Health(600.0, lambda: 0.0, lambda: now)
    # The list was answered from before the change that the watch told of.
    health.delivered("a", "2")
    health.listed("a", "1")
    health.ticked()
    health.resynced({"a"}, health.known)
    now = 660.0
    assert health.problem() is None
    health.listed("a", "2")
    now = 1800.0
    assert "watch is dead" not in str(health.problem())


def test_missed_resyncs_are_a_dead_operator() -> None:
    world = World()
    world.now += (MISSED_RESYNCS + 1) * RESYNC
    assert world.health.problem() is None
    world.now += 1
    assert world.health.problem() == "no resync for 241 s"


def test_a_run_that_waits_too_long_for_a_worker_is_a_dead_operator() -> None:
    world = World()
    world.oldest = LONGEST_WAIT + 1
    assert world.health.problem() == "a run has waited 601 s in the queue"


def test_an_api_server_that_is_away_is_no_reason_to_restart() -> None:
    world = World()
    for _ in range(20):
        world.now += RESYNC
        world.health.ticked()  # Each list fails.
        assert world.health.problem() is None
