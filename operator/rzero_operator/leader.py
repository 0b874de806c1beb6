"""Lets one of several replicas act, by a Lease; the others keep watching and wait.

Nothing depends on there being one only: names of Jobs are deterministic and a status is written
under an optimistic lock. The Lease saves double work.
"""

import asyncio
import logging
from collections.abc import Callable

import aiohttp
from kubernetes.aio import client as kubernetes
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from rzero_operator.settings import Settings

LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS = 15, 10, 2
log = logging.getLogger(__name__)


class Leadership:
    """Whether this replica acts."""

    def __init__(self, *, elected: bool, on_end: Callable[[], None]) -> None:
        """`elected`: False where there is only one replica, which always acts.

        `on_end` is called when this replica no longer leads.
        """
        self.leads = not elected
        self._on_end = on_end
        self.gained = asyncio.Event()
        """Set when this replica begins to act; whoever takes over clears it."""

    async def campaign(self, client: ApiClient, settings: Settings) -> None:
        """Try to lead, and again whenever the lead is lost; never returns."""
        lock = _Lock(settings.lease_name, settings.lease_namespace, settings.identity, client)
        config = Config(
            lock,
            lease_duration=LEASE_SECONDS,
            renew_deadline=RENEW_SECONDS,
            retry_period=RETRY_SECONDS,
            onstarted_leading=self._begin,
            onstopped_leading=self._end,
        )
        while True:
            try:
                await LeaderElection(config).run()
            except (aiohttp.ClientError, TimeoutError) as error:
                # The client's election takes refusals for lost rounds, but not lost connections.
                log.warning("the Lease cannot be reached: %s", error)
                if self.leads:
                    await self._end()
                await asyncio.sleep(RETRY_SECONDS)

    async def release(self, client: ApiClient, settings: Settings) -> None:
        """Give the Lease back, so that the next replica need not wait until it has run out.

        Only after the last write of this one, and after its campaign.
        """
        if not self.leads:
            return
        leases = kubernetes.CoordinationV1Api(client)
        name, namespace = settings.lease_name, settings.lease_namespace
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                lease = await leases.read_namespaced_lease(name, namespace)
                held = lease.spec
                if held is None or held.holder_identity != settings.identity:
                    return
                held.holder_identity, held.lease_duration_seconds = "", 1
                await leases.replace_namespaced_lease(name, namespace, lease)
        except (ApiException, aiohttp.ClientError, TimeoutError) as error:
            log.warning("the Lease was not given back and runs out by itself: %s", error)
            return
        log.info("this replica has given the Lease back")

    async def _begin(self) -> None:
        log.info("this replica leads")
        self.leads = True
        self.gained.set()

    async def _end(self) -> None:
        log.warning("this replica no longer leads")
        self.leads = False
        self.gained.clear()
        self._on_end()


class _Lock(LeaseLock):
    """The client's lock, whose own `create` passes an argument that the client's checks refuse."""

    async def create(
        self, name: str, namespace: str, election_record: LeaderElectionRecord
    ) -> bool:
        """Whether the Lease was created; not where another replica was faster."""
        metadata = kubernetes.V1ObjectMeta(name=name)
        lease = kubernetes.V1Lease(metadata=metadata, spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, lease)
        except ApiException as error:
            log.warning("the Lease was not created: %s", error.reason)
            return False
        return True
