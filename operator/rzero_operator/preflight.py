"""Looks, before the operator begins, whether the cluster has what all runs need: their kind, and
defaults of stage Jobs that its API server takes.
"""

import logging

from rzero_core.run import RunSpec
from rzero_core.status import RunStatus
from rzero_core.task import BadConfiguration, RunRef
from rzero_operator.cluster import GROUP, PLURAL, ApiError, Cluster, Object
from rzero_operator.decision import RunIdentity, StartAttempt
from rzero_operator.jobs import render
from rzero_operator.observe import one_line
from rzero_operator.pods import DEFAULTS_VARIABLE, StageDefaults
from rzero_operator.settings import Settings
from rzero_operator.tasks import build_task, shards_of, steps

_ADMISSION = ("admission webhook", "is forbidden: ")
"""In the server's words where a webhook, or a policy, refuses what is a sound Job."""
_UID = "00000000-0000-0000-0000-000000000000"
_SPEC = RunSpec.parse({"model": "base", "storage": {"uri": "s3://bucket/base"}})
log = logging.getLogger(__name__)


async def obstacle(cluster: Cluster, settings: Settings) -> str | None:
    """Why the operator must not begin yet, and the remedy; None when it may."""
    try:
        if not await cluster.serves_runs():
            return f"the CRD {PLURAL}.{GROUP} is missing: install it, as the chart does by default"
    except ApiError as error:
        return f"the API server does not say which kinds it serves: {error}"
    mistake = await _mistake(cluster, settings)
    if mistake is None:
        return None
    return f"no stage could start: mend `stages` of the chart ({DEFAULTS_VARIABLE}): {mistake}"


async def _mistake(cluster: Cluster, settings: Settings) -> str | None:
    """What the server says to a Job of the defaults alone, None where it would take it.

    Only what is wrong with the Job itself counts: a quota, a right or a webhook may change, and
    does not concern every run.
    """
    # Runs of all namespaces are served: then our own will do.
    namespace = next(iter(settings.namespaces), settings.lease_namespace)
    try:
        await cluster.create(_job(namespace, settings.stage_defaults), dry_run=True)
    except BadConfiguration as error:
        return one_line(str(error))
    except ApiError as error:
        if error.status in (400, 422) and not any(words in error.message for words in _ADMISSION):
            return one_line(error.message)
        log.info("the defaults of stages were not tried in %s: %s", namespace, error)
    return None


def _job(namespace: str, defaults: StageDefaults) -> Object:
    """The first Job of a run that leaves all to the defaults."""
    run = RunIdentity(RunRef(name="dry-run", namespace=namespace, uid=_UID))
    step = next(steps(_SPEC, RunStatus()))
    task = build_task(_SPEC, RunStatus(), run.ref, step, attempt=1)
    start = StartAttempt(step, task, shards_of(task), _SPEC.stages.of(step.stage))
    return render(run, _SPEC, start, defaults)[-1]
