"""The source that a CSV tells of a labelled slice; indexes by which pages and counts of large jobs are read."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("labelled_slice", schema=None) as batch_op:
        batch_op.add_column(sa.Column("source", sa.String(), nullable=True))

    with op.batch_alter_table("slice", schema=None) as batch_op:
        batch_op.create_index("ix_slice_job", ["job_id", "id"], unique=False)

    with op.batch_alter_table("prediction", schema=None) as batch_op:
        batch_op.drop_index("ix_prediction_job_positive")
        batch_op.create_index("ix_prediction_job_positive", ["job_id", "positive", "ood"], unique=False)
