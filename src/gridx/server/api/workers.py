"""Workers: registering them, seeing them, and what owners and administrators tell them."""

from typing import Annotated

from fastapi import Query

from gridx.domain.resources import Resources
from gridx.domain.worker import Capabilities
from gridx.protocol import http
from gridx.server.api import views
from gridx.server.api.queries import PageQuery
from gridx.server.operation import Call, Operations, WorkerId

operations = Operations("workers")
"""The operations of this module."""


@operations.add("POST", "/workers/register", http.RegisteredView, status=201, refusals=(404, 409))
async def register_worker(call: Call, body: http.RegisterBody) -> http.RegisteredView:
    """Enrol a worker; its token opens the worker socket as this worker and nothing else."""
    made = await call.grid.workers.register(
        call.who,
        body.name,
        _capabilities(body.capabilities),
        body.worker_id or None,
        body.owner_id or None,
    )
    return http.RegisteredView(worker_id=made.worker_id, worker_token=made.worker_token)


@operations.add("GET", "/workers", http.WorkerListView)
async def list_workers(call: Call, query: Annotated[PageQuery, Query()]) -> http.WorkerListView:
    """The grid's workers: state, resources, load, owner, version."""
    page = await call.grid.workers.list_workers(call.who, query.limit, query.cursor)
    return http.WorkerListView(
        items=[views.worker(state) for state in page.items], next_cursor=page.next_cursor
    )


@operations.add("GET", "/workers/{worker_id}", http.WorkerView, refusals=(404,))
async def get_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """One worker."""
    return views.worker(await call.grid.workers.get(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/pause", http.WorkerView, refusals=(404, 409))
async def pause_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """Its owner: take no more work, what runs goes on."""
    return views.worker(await call.grid.workers.pause(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/resume", http.WorkerView, refusals=(404, 409))
async def resume_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """Its owner: take work again."""
    return views.worker(await call.grid.workers.resume(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/drain", http.WorkerView, refusals=(404, 409))
async def drain_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """Its owner: finish what runs, then leave."""
    return views.worker(await call.grid.workers.drain(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/admit", http.WorkerView, refusals=(404, 409))
async def admit_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """An administrator: let it run others' jobs."""
    return views.worker(await call.grid.workers.admit(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/suspend", http.WorkerView, refusals=(404, 409))
async def suspend_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """An administrator: no more work; running attempts end and are paid."""
    return views.worker(await call.grid.workers.suspend(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/unsuspend", http.WorkerView, refusals=(404, 409))
async def unsuspend_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """An administrator: work again."""
    return views.worker(await call.grid.workers.unsuspend(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/ban", http.WorkerView, refusals=(404, 409))
async def ban_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """An administrator: out for good; running attempts are lost and unpaid."""
    return views.worker(await call.grid.workers.ban(call.who, worker_id))


@operations.add("POST", "/workers/{worker_id}/disconnect", http.WorkerView, refusals=(404, 409))
async def disconnect_worker(call: Call, worker_id: WorkerId) -> http.WorkerView:
    """An administrator: end its connection; it may come back."""
    return views.worker(await call.grid.workers.disconnect(call.who, worker_id))


@operations.add("POST", "/admin/broadcast", http.SentView)
async def broadcast(call: Call, body: http.BroadcastBody) -> http.SentView:
    """An administrator: say something to the people at all workers."""
    return http.SentView(sent=await call.grid.workers.broadcast(call.who, body.text))


def _capabilities(body: http.CapabilitiesBody) -> Capabilities:
    offered = body.resources
    return Capabilities(
        Resources(float(offered.cpus), offered.memory_mb, offered.gpus, offered.disk_mb),
        tuple(body.languages),
        tuple(body.sandboxes),
        tuple(body.gpus),
        body.labels,
        body.os,
        body.arch,
        tuple(body.images),
        {sandbox: tuple(limits) for sandbox, limits in body.lacks.items()},
    )
