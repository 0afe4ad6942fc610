"""The service itself: is it well, what does it do, how much of it."""

from starlette.types import ASGIApp

from gridx import __version__
from gridx.clock import to_rfc3339
from gridx.domain.user import Scope
from gridx.protocol import http
from gridx.server.answers import Answer, of_view
from gridx.server.operation import Call, Operations

operations = Operations("service")
"""The operations of this module."""

METRICS = "text/plain; version=0.0.4; charset=utf-8"


@operations.add("GET", "/health", http.HealthView, is_open=True, away=http.HealthView)
async def get_health(call: Call) -> ASGIApp:
    """Whether the coordinator can reach its store: 200, or 503 with the same shape."""
    well = await call.grid.healthy()
    view = http.HealthView(
        status="healthy" if well else "unhealthy",
        service="grid-x-coordinator",
        timestamp=to_rfc3339(call.parts.clock.now()),
    )
    return of_view(view, 200 if well else 503)


@operations.add("GET", "/status", http.StatusView, is_open=True)
async def get_status(call: Call) -> http.StatusView:
    """How many workers there are, how much waits, how much runs."""
    status = await call.grid.status()
    return http.StatusView(
        service="Grid-X Coordinator",
        version=__version__,
        uptime_s=status.uptime_s,
        workers=http.WorkerCountView(total=status.workers_total, active=status.workers_active),
        queue_size=status.queue_size,
        running=status.running,
        coordinators=status.coordinators,
    )


def metrics_operations(is_open: bool) -> Operations:
    """The operation of the metrics, which a setting may open to everybody."""
    found = Operations("service")

    @found.add("GET", "/metrics", is_open=is_open, media_types=(METRICS,))
    async def get_metrics(call: Call) -> ASGIApp:
        """The figures of this coordinator and its grid, for Prometheus."""
        if not is_open and not call.who.is_admin:
            call.who.need(Scope.METRICS)
        return Answer(200, await call.grid.metrics.render(), METRICS.encode())

    return found
