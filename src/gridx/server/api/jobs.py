"""Jobs: submit one or many, list, read, wait for, cancel and retry them."""

from typing import Annotated

from fastapi import Query
from msgspec.structs import replace
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gridx.coordinator.jobs import JobFilter
from gridx.domain.errors import Detail
from gridx.domain.job import JobSpec, JobStatus
from gridx.protocol import http
from gridx.protocol.http import Uuid4
from gridx.protocol.spec import NO_CONTROL, BatchBody, JobBody, check_arguments
from gridx.server.answers import of_details
from gridx.server.api import views
from gridx.server.api.queries import PageQuery, Parameters, seconds
from gridx.server.operation import BatchId, Call, JobId, Operations

operations = Operations("jobs")
"""The operations of this module."""


class JobsQuery(PageQuery):
    """Which jobs, and which page of them."""

    status: JobStatus | None = None
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROL)] | None = None
    tag: Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROL)] | None = None
    batch_id: Uuid4 | None = None


class WaitQuery(Parameters):
    """How long to wait."""

    timeout_s: Annotated[float, Field(ge=0, le=60), BeforeValidator(seconds)] = 30.0


@operations.add(
    "POST", "/jobs", http.SubmittedView, status=201, idempotent=True, refusals=(402, 429)
)
async def submit_job(call: Call, body: JobBody) -> http.SubmittedView:
    """Submit a job and hold the most it can cost: both, or neither."""
    found = await call.grid.jobs.submit(
        call.who,
        body.to_spec(call.grid.jobs.usual_limits),
        body.user_id or None,
        call.idempotency_key(),
        call.traceparent(),
    )
    return views.submitted(found)


@operations.add(
    "POST", "/jobs/batch", http.BatchView, status=201, idempotent=True, refusals=(402, 429)
)
async def submit_batch(call: Call, body: BatchBody) -> http.BatchView:
    """Submit up to 10,000 jobs, all or none: spec by spec, or a template with many arguments."""
    written = (body.template,) if body.template else body.jobs
    usual = call.grid.jobs.usual_limits
    specs = [job.to_spec(usual) for job in written]
    found = await call.grid.jobs.submit_batch(
        call.who,
        _from_template(body, specs[0]) if body.template else specs,
        call.idempotency_key(),
        call.traceparent(),
        user_ids=[job.user_id or None for job in written],
        place="template." if body.template else "jobs.{index}.",
    )
    return http.BatchView(batch_id=found.batch_id, job_ids=list(found.job_ids))


@operations.add("GET", "/jobs", http.JobListView)
async def list_jobs(call: Call, query: Annotated[JobsQuery, Query()]) -> http.JobListView:
    """The caller's jobs, newest first."""
    chosen = JobFilter(query.status, query.name, query.tag, query.batch_id)
    page = await call.grid.jobs.list_jobs(call.who, chosen, query.limit, query.cursor)
    return http.JobListView.model_construct(
        items=[views.job_summary(job) for job in page.items], next_cursor=page.next_cursor
    )


@operations.add("GET", "/jobs/{job_id}", http.JobView, refusals=(404,))
async def get_job(call: Call, job_id: JobId) -> http.JobView:
    """The whole job."""
    return views.whole_job(await call.grid.jobs.get(call.who, job_id))


@operations.add("GET", "/jobs/{job_id}/wait", http.JobView, refusals=(404,))
async def wait_for_job(
    call: Call, job_id: JobId, query: Annotated[WaitQuery, Query()]
) -> http.JobView:
    """The whole job when it is final, or as it is at the time-out."""
    with call.parts.streams.take():
        async with call.parts.closing.interrupting():
            whole = await call.grid.jobs.wait(call.who, job_id, query.timeout_s)
    return views.whole_job(whole)


@operations.add("POST", "/jobs/{job_id}/cancel", http.CancelView, refusals=(404, 409))
async def cancel_job(call: Call, job_id: JobId) -> http.CancelView:
    """End a job: at once while it waits, within seconds when it runs."""
    return views.cancelled(await call.grid.jobs.cancel(call.who, job_id))


@operations.add("POST", "/batches/{batch_id}/cancel", http.BatchCancelView, refusals=(404,))
async def cancel_batch(call: Call, batch_id: BatchId) -> http.BatchCancelView:
    """Cancel every job of a batch that is not final."""
    return http.BatchCancelView(cancelled=await call.grid.jobs.cancel_batch(call.who, batch_id))


@operations.add(
    "POST", "/jobs/{job_id}/retry", http.SubmittedView,
    status=201, idempotent=True, refusals=(402, 404, 409, 429),
)  # fmt: skip
async def retry_job(call: Call, job_id: JobId) -> http.SubmittedView:
    """Submit a final job's spec again, as a new job."""
    return views.submitted(await call.grid.jobs.retry(call.who, job_id, call.idempotency_key()))


def _from_template(body: BatchBody, template: JobSpec) -> list[JobSpec]:
    assert body.template is not None
    specs: list[JobSpec] = []
    for index, args in enumerate(body.args):
        command = template.command
        words = (*command, *args) if isinstance(command, tuple) else tuple(args)
        try:
            check_arguments(words, body.template.env)
        except PydanticCustomError as error:
            raise of_details([Detail(f"args.{index}", error.message())]) from None
        if isinstance(command, tuple):
            specs.append(replace(template, command=words))
        else:
            specs.append(replace(template, args=words))
    return specs
