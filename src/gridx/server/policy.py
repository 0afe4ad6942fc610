"""The settings as the coordinator takes them.

Apart from the server, because `init`, `backup`, `restore` and `ledger verify` open a grid that
nobody serves, and start faster without it.
"""

import math
from typing import Literal

from gridx.config import Settings
from gridx.domain.money import MICROCREDITS
from gridx.domain.policy import Policy, Retention
from gridx.domain.pricing import PPM, Tariff
from gridx.domain.resources import Resources


def policy_of(settings: Settings) -> Policy:
    """What the coordinator needs to know of the settings."""
    s = settings
    return Policy(
        storage_url=s.storage.url,
        bus_url=s.bus.url,
        readers=s.storage.readers,
        writers=s.storage.writers,
        group_size_max=s.storage.group_size_max,
        heartbeat_s=s.leases.heartbeat_s,
        lease_s=s.leases.lease_s,
        tariff=Tariff(
            per_cpu_second=s.pricing.per_cpu_second * MICROCREDITS,
            memory_mb_per_cpu=s.pricing.memory_mb_per_cpu,
            cpus_per_gpu=s.pricing.cpus_per_gpu,
            min_cost=int(s.pricing.min_cost * MICROCREDITS),
            max_cost=int(s.pricing.max_cost * MICROCREDITS),
            reward_ppm=int(s.pricing.reward_ratio * PPM),
        ),
        initial_grant=s.initial_grant,
        registration=s.registration,
        admission=s.admission,
        token_lifetime_s=s.server.token_lifetime_s,
        timeout_s_max=s.limits.timeout_s,
        output_bytes_max=s.limits.output_bytes,
        processes_max=s.limits.processes,
        queued_jobs_per_user=s.limits.queued_jobs_per_user,
        queue_age_s=s.limits.queue_age_s,
        keys_per_user=s.limits.keys_per_user,
        workers_per_user=s.limits.workers_per_user,
        retention=Retention(
            jobs_s=_age_s(s.retention.jobs_s),
            output_s=_age_s(s.retention.output_s),
            answers_s=_age_s(s.retention.answers_s),
        ),
        worker_cap=Resources(
            s.workers.cpus_max, s.workers.memory_mb_max, s.workers.gpus_max, s.workers.disk_mb_max
        ),
        sandbox_at_least=s.workers.sandbox_at_least,
    )


def _age_s(age: float | Literal["forever"]) -> float:
    return math.inf if age == "forever" else age
