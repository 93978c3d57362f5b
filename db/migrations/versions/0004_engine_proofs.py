"""Temperature and threshold by engine, and what the proofs of engines found on each machine."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "engine_proof",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("processor", sa.String(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("largest_difference", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_engine_proof_model_version_id_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engine_proof")),
        sa.UniqueConstraint(
            "host", "model_version_id", "engine", name=op.f("uq_engine_proof_host_model_version_id_engine")
        ),
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("calibration", sa.JSON(), server_default="{}", nullable=False))
