"""Times of jobs, backoff and failures; workers that the grid has set aside.

`due_at` takes a job out of its queue until then; `failures` names the workers it shuns. Every column
may be null, so that rows of the first schema stay as they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PUT_OFF = "due_at IS NOT NULL"
UNSTARTED = "deadline IS NOT NULL AND started_at IS NULL AND finished_at IS NULL"

COLUMNS = (
    ("jobs", "due_at", sa.BigInteger),
    ("jobs", "deadline", sa.BigInteger),
    ("jobs", "failures", sa.Text),
    ("workers", "set_aside_until", sa.BigInteger),
    ("workers", "set_aside_why", sa.Text),
)
INDEXES = (
    ("ix_jobs_due_at", "due_at", PUT_OFF),
    ("ix_jobs_put_off", "user_id", PUT_OFF),
    ("ix_jobs_deadline", "deadline", UNSTARTED),
)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind(), nullable=True))
    for name, column, condition in INDEXES:
        where = sa.text(condition)
        op.create_index(
            name, "jobs", [column], unique=False, sqlite_where=where, postgresql_where=where
        )


def downgrade() -> None:
    for name, _, _ in reversed(INDEXES):
        op.drop_index(name, "jobs")
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
