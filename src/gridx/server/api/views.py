"""The coordinator's values as the API shows them: times as text, money as decimal strings."""

import codecs
from typing import Any

from gridx.clock import MICROSECONDS, to_rfc3339
from gridx.coordinator.jobs import Cancelled, Submitted, WholeJob
from gridx.coordinator.workers import WorkerState
from gridx.domain.attempt import Attempt
from gridx.domain.job import Job, Limits
from gridx.domain.ledger import Balance, Movement, StatementLine, is_grids, owner_of
from gridx.domain.money import format_credits
from gridx.domain.pricing import Receipt, attempt_verdict
from gridx.domain.resources import Resources
from gridx.domain.sandbox import Backend
from gridx.domain.user import ApiKey
from gridx.protocol import http


def time(at: int | None) -> str | None:
    """RFC 3339, or null while it is not known."""
    return None if at is None else to_rfc3339(at)


def money(amount: int | None) -> str | None:
    """A decimal string, or null while it is not known."""
    return None if amount is None else format_credits(amount)


def submitted(result: Submitted) -> http.SubmittedView:
    return http.SubmittedView(
        job_id=result.job_id,
        status=result.status,
        held=format_credits(result.held),
        timeout_s=result.limit_us / MICROSECONDS,
    )


def cancelled(result: Cancelled) -> http.CancelView:
    return http.CancelView(
        job_id=result.job_id, status=result.status, cancel_requested=result.cancel_requested
    )


def job_summary(job: Job) -> http.JobSummaryView:
    """A job as lists show it."""
    return http.JobSummaryView.model_construct(**_summary(job))


def whole_job(whole: WholeJob) -> http.JobView:
    """A job with everything about it."""
    spec = whole.job.spec
    command = list(spec.command) if isinstance(spec.command, tuple) else spec.command
    return http.JobView.model_construct(
        **_summary(whole.job),
        code=spec.code,
        image=spec.image,
        command=command,
        args=list(spec.args),
        env=dict(spec.env),
        stdin=spec.stdin,
        stdout=text(whole.stdout, cut=whole.stdout_truncated),
        stderr=text(whole.stderr, cut=whole.stderr_truncated),
        not_before=time(spec.not_before),
        deadline=time(spec.deadline),
        stdout_truncated=whole.stdout_truncated,
        stderr_truncated=whole.stderr_truncated,
        attempts=[_attempt(attempt, whole.job.user_id) for attempt in whole.attempts],
        receipt=None if whole.receipt is None else _receipt(whole.receipt),
    )


def text(output: bytes, *, cut: bool = False) -> str:
    """Output as text, U+FFFD for what is not UTF-8; a character that was `cut` is left away."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(output, final=not cut)


def worker(state: WorkerState) -> http.WorkerView:
    its = state.worker
    offer = its.capabilities
    return http.WorkerView(
        worker_id=its.worker_id,
        name=its.name,
        owner_id=its.owner_id,
        status=its.status,
        admitted=its.admitted,
        resources=_resources(offer.resources),
        free=_resources(state.free),
        load=state.load,
        why=state.why,
        running=state.running,
        languages=list(offer.languages),
        sandboxes=list(offer.sandboxes),
        images=list(offer.images),
        lacks={sandbox: list(limits) for sandbox, limits in offer.lacks.items()},
        unsandboxed=Backend.NONE in offer.sandboxes,
        serves_others=state.serves_others,
        gpus=list(offer.gpus),
        labels=dict(offer.labels),
        os=offer.os,
        arch=offer.arch,
        version=its.version,
        created_at=to_rfc3339(its.created_at),
        seen_at=time(its.seen_at),
    )


def api_key(key: ApiKey, secret: str | None = None) -> http.KeyView:
    """An API key; `secret` only in the answer that made it."""
    return http.KeyView(
        key_id=key.key_id,
        name=key.name,
        scopes=[scope.value for scope in key.scopes],
        created_at=to_rfc3339(key.created_at),
        expires_at=time(key.expires_at),
        key=secret,
    )


def balance(its: Balance) -> http.BalanceView:
    return http.BalanceView(
        user_id=its.user_id,
        balance=format_credits(its.balance),
        held=format_credits(its.held),
        available=format_credits(its.available),
    )


def movement(its: Movement) -> http.TransferView:
    return http.TransferView(
        id=its.transfer_id,
        source=None if is_grids(its.source) else owner_of(its.source),
        to=owner_of(its.target),
        amount=format_credits(its.amount),
        memo=its.memo,
        at=to_rfc3339(its.at),
    )


def statement_line(line: StatementLine) -> http.StatementLineView:
    return http.StatementLineView(
        id=line.transfer_id,
        at=to_rfc3339(line.at),
        kind=line.kind,
        amount=format_credits(line.amount),
        available_after=format_credits(line.available_after),
        job_id=line.job_id,
        counterpart=line.counterpart,
        memo=line.memo,
    )


def _summary(job: Job) -> dict[str, Any]:
    spec = job.spec
    limits: Limits = spec.limits
    return {
        "job_id": job.job_id,
        "user_id": job.user_id,
        "status": job.status.value,
        "reason": None if job.reason is None else job.reason.value,
        "exit_code": job.exit_code,
        "name": spec.name,
        "tags": list(spec.tags),
        "language": spec.language,
        "batch_id": job.batch_id,
        "resources": _resources(spec.resources),
        "limits": {
            "timeout_s": limits.timeout_s,
            "output_bytes": limits.output_bytes,
            "processes": limits.processes,
        },
        "require": dict(spec.require),
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "retry_on_failure": spec.retry_on_failure,
        "max_cost": money(spec.max_cost),
        "created_at": to_rfc3339(job.created_at),
        "started_at": time(job.started_at),
        "finished_at": time(job.finished_at),
        "queued_s": _between(job.created_at, job.started_at),
        "run_s": _between(job.started_at, job.finished_at),
        "worker_id": job.worker_id,
        "held": format_credits(job.held),
        "cost": money(job.cost),
        "cancel_requested": job.cancel_requested,
        "retry_of": job.retry_of,
        "traceparent": job.traceparent,
    }


def _attempt(attempt: Attempt, submitter: str) -> http.AttemptView:
    usage = attempt.usage
    says = attempt_verdict(attempt, submitter)
    return http.AttemptView.model_construct(
        number=attempt.number,
        worker_id=attempt.worker_id,
        status=attempt.status,
        reason=attempt.reason,
        started_at=time(attempt.started_at),
        finished_at=time(attempt.finished_at),
        exit_code=attempt.exit_code,
        usage=None
        if usage is None
        else http.UsageView(
            wall_s=usage.wall_s, cpu_s=usage.cpu_s, peak_memory_mb=usage.peak_memory_mb
        ),
        sandbox=None if attempt.started_at is None else attempt.sandbox,
        billed_s=attempt.billed_us / MICROSECONDS,
        fault=None if says is None else says.fault,
        why=None if says is None else says.why,
    )


def _receipt(receipt: Receipt) -> http.ReceiptView:
    return http.ReceiptView.model_validate(
        {
            "price_per_second": format_credits(receipt.price_per_second),
            "billed_s": receipt.billed_us / MICROSECONDS,
            "held": format_credits(receipt.held),
            "cost": format_credits(receipt.cost),
            "released": format_credits(receipt.released),
            "reward": format_credits(receipt.reward),
            "fee": format_credits(receipt.fee),
            "fault": receipt.fault,
            "why": receipt.why,
        }
    )


def _resources(amounts: Resources) -> http.ResourcesView:
    return {
        "cpus": amounts.cpus,
        "memory_mb": amounts.memory_mb,
        "gpus": amounts.gpus,
        "disk_mb": amounts.disk_mb,
    }


def _between(start: int | None, end: int | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0, end - start) / MICROSECONDS
