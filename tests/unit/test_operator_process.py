"""An operator's process keeps nothing of runs that it does not look at."""

import asyncio

from plan_world import make_spec

from rzero_core.status import RunStatus
from rzero_operator.cluster import Cluster, Object
from rzero_operator.main import Operator
from rzero_operator.metrics import Metrics
from rzero_operator.pods import StageDefaults
from rzero_operator.queue import RunKey
from rzero_operator.reconciler import Reconciler
from rzero_operator.settings import Settings

KEY = RunKey("lab", "first")
DEFAULTS = StageDefaults(image="stages")


class Emptied(Cluster):
    """A cluster whose runs were all deleted."""

    async def run(self, key: RunKey) -> Object | None:
        return None


def test_a_follower_does_not_collect_what_its_watches_tell() -> None:
    metrics = Metrics()
    settings = Settings(stage_defaults=DEFAULTS, leader_election=True)

    async def follow() -> Operator:
        operator = Operator(settings, Cluster(metrics), metrics)
        operator._stir(KEY)
        await operator._handle(KEY)
        return operator

    assert not asyncio.run(follow())._stirred


def test_nothing_is_kept_of_a_run_that_is_gone_nor_of_those_of_another_replica() -> None:
    metrics = Metrics()
    reconciler = Reconciler(Emptied(metrics), DEFAULTS, metrics)

    def remember(key: RunKey) -> None:
        metrics.seen(*key, make_spec(), RunStatus())
        reconciler.written[key] = "7"
        reconciler._podless[key] = {"uid"}
        reconciler._unable[key] = 2

    def kept(key: RunKey) -> bool:
        shown = f'namespace="{key.namespace}",run="{key.name}"'.encode() in metrics.render()
        held = (reconciler.written, reconciler._podless, reconciler._unable)
        return shown or any(key in place for place in held)

    other = RunKey("lab", "second")
    remember(KEY)
    remember(other)
    asyncio.run(reconciler.reconcile(KEY, stirred=True))
    assert kept(other) and not kept(KEY)
    reconciler.forget_all()
    assert not kept(other)
