"""Metrics: counted as things happen, gauges read when they are asked for.

One registry a coordinator, no globals; names begin with `gridx_`, units end them.
"""

from collections import Counter as CountOf
from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gridx.clock import MICROSECONDS, Clock
from gridx.coordinator.attempts import Outcome
from gridx.coordinator.sessions import Session
from gridx.domain.errors import Unavailable
from gridx.domain.resources import total
from gridx.storage import jobs, ledger, queues
from gridx.storage.database import Connection, Database

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_600)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)


class Metrics:
    """What Prometheus asks a coordinator for."""

    def __init__(
        self, database: Callable[[], Database], clock: Clock, sessions: Mapping[str, Session]
    ) -> None:
        self._database = database
        self._clock = clock
        self._sessions = sessions
        self._registry = registry = CollectorRegistry()
        # Counted here on the hot paths and handed on when somebody asks: the library's own
        # counting costs more than the rest of a frame.
        self._frame_counts: CountOf[tuple[str, str]] = CountOf()
        self._finished_counts: CountOf[tuple[str, str]] = CountOf()
        self._finished = Counter(
            "gridx_jobs_finished", "Jobs that became final", ["status", "reason"], registry=registry
        )
        self._jobs = Gauge("gridx_jobs", "Jobs that are not final", ["status"], registry=registry)
        self._oldest = Gauge(
            "gridx_queue_oldest_age_seconds", "Age of the oldest waiting job", registry=registry
        )
        self._to_start = Histogram(
            "gridx_submit_to_start_seconds", "From queued to started",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._run_time = Histogram(
            "gridx_run_seconds", "From started to final", buckets=_SECONDS, registry=registry
        )
        self._workers = Gauge(
            "gridx_workers", "Workers connected here", ["status"], registry=registry
        )
        self._resources = Gauge(
            "gridx_resources", "Of workers connected here", ["resource", "state"], registry=registry
        )
        self._held = Gauge("gridx_credits_held", "Held for unfinished jobs", registry=registry)
        self._commits = Histogram(
            "gridx_commit_operations", "Operations a transaction", buckets=_SIZES, registry=registry
        )
        self._frames = Counter(
            "gridx_websocket_frames", "Frames of workers", ["direction", "type"], registry=registry
        )
        self._errors = Counter(
            "gridx_protocol_errors", "Connections closed for nonsense", registry=registry
        )
        self._refused = Counter("gridx_refused", "Requests refused", ["code"], registry=registry)

    def count_refused(self, code: str) -> None:
        """A request was refused with this code."""
        self._refused.labels(code).inc()

    def count_frame(self, direction: str, frame_type: str, count: int = 1) -> None:
        """Frames came `in` or went `out`."""
        self._frame_counts[direction, frame_type] += count

    def count_protocol_error(self) -> None:
        """A worker's connection was closed for what it sent."""
        self._errors.inc()

    def count_commit(self, operations: int) -> None:
        """A transaction was committed; called from writer threads."""
        self._commits.observe(operations)

    def count_outcome(self, outcome: Outcome) -> None:
        """Jobs started and became final."""
        for job in outcome.started:
            if job.started_at is not None:
                self._to_start.observe(max(0, job.started_at - job.queued_at) / MICROSECONDS)
        for job in outcome.final:
            reason = "" if job.reason is None else job.reason.value
            self._finished_counts[job.status.value, reason] += 1
            if job.started_at is not None and job.finished_at is not None:
                self._run_time.observe(max(0, job.finished_at - job.started_at) / MICROSECONDS)

    async def render(self) -> bytes:
        """The Prometheus text; gauges of the store are left as they were while it is away."""
        for counter, counts in (
            (self._frames, self._frame_counts),
            (self._finished, self._finished_counts),
        ):
            for labels, count in counts.items():
                counter.labels(*labels).inc(count)
            counts.clear()
        self._sessions_now()
        with suppress(Unavailable):
            await self._store_now()
        return generate_latest(self._registry)

    async def _store_now(self) -> None:
        def operation(connection: Connection) -> tuple[dict[str, int], int | None, int]:
            return (
                jobs.count_by_status(connection),
                queues.oldest_waiting(connection),
                ledger.total_held(connection),
            )

        counts, oldest, held = await self._database().read(operation)
        for status in ("blocked", "queued", "running"):
            self._jobs.labels(status).set(counts.get(status, 0))
        age = 0 if oldest is None else max(0, self._clock.now() - oldest) / MICROSECONDS
        self._oldest.set(age)
        self._held.set(held / 1e6)

    def _sessions_now(self) -> None:
        self._workers.clear()
        for session in self._sessions.values():
            self._workers.labels(session.worker.status.value).inc()
        free = total(session.free for session in self._sessions.values())
        offered = total(s.worker.capabilities.resources for s in self._sessions.values())
        used = offered.minus(free)
        for state, amounts in (("free", free), ("used", used)):
            for name in ("cpus", "memory_mb", "gpus", "disk_mb"):
                self._resources.labels(name, state).set(getattr(amounts, name))
