"""Datasets, splits, reviews, evaluations; what training runs, promotions and predictions gain."""

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("labels_sha256", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("arrays", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("closed_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("lease_until", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("published_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_dataset_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("name", "number", name=op.f("uq_dataset_name_number")),
    )
    with op.batch_alter_table("dataset", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_state"), ["state"], unique=False)

    op.create_table(
        "dataset_split",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("assignment", sa.JSON(), nullable=False),
        sa.Column("leaks", sa.JSON(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_dataset_split_dataset_id_dataset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_split")),
        sa.UniqueConstraint("dataset_id", "rule", "seed", name=op.f("uq_dataset_split_dataset_id_rule_seed")),
    )
    op.create_table(
        "labelled_slice",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=True),
        sa.Column("label", sa.Integer(), nullable=True),
        sa.Column("slice_group", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("pixels_sha256", sa.String(), nullable=True),
        sa.Column("perceptual_hash", sa.String(), nullable=True),
        sa.Column("cluster", sa.Integer(), nullable=True),
        sa.Column("format", sa.String(), nullable=True),
        sa.Column("mode", sa.String(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_labelled_slice_dataset_id_dataset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labelled_slice")),
        sa.UniqueConstraint("dataset_id", "ordinal", "frame", name=op.f("uq_labelled_slice_dataset_id_ordinal_frame")),
    )
    with op.batch_alter_table("labelled_slice", schema=None) as batch_op:
        batch_op.create_index("ix_labelled_slice_row", ["dataset_id", "row"], unique=False)
        batch_op.create_index(batch_op.f("ix_labelled_slice_sha256"), ["sha256"], unique=False)

    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("split_id", sa.Integer(), nullable=True),
        sa.Column("part", sa.String(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("scores_sha256", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("lease_until", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("published_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_evaluation_dataset_id_dataset")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_evaluation_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["split_id"], ["dataset_split.id"], name=op.f("fk_evaluation_split_id_dataset_split")),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_evaluation_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
        sa.UniqueConstraint(
            "model_version_id",
            "dataset_id",
            "split_id",
            "part",
            name=op.f("uq_evaluation_model_version_id_dataset_id_split_id_part"),
        ),
    )
    with op.batch_alter_table("evaluation", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluation_state"), ["state"], unique=False)

    op.create_table(
        "review",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slice_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["slice_id"], ["slice.id"], name=op.f("fk_review_slice_id_slice")),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_review_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
        sa.UniqueConstraint("slice_id", "user_id", name=op.f("uq_review_slice_id_user_id")),
    )
    with op.batch_alter_table("review", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_review_slice_id"), ["slice_id"], unique=False)

    op.create_table(
        "training_epoch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["training_run.id"], name=op.f("fk_training_epoch_run_id_training_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_epoch")),
        sa.UniqueConstraint("run_id", "stage", "epoch", name=op.f("uq_training_epoch_run_id_stage_epoch")),
    )
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ood", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("facts", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))

    with op.batch_alter_table("prediction", schema=None) as batch_op:
        batch_op.add_column(sa.Column("distance", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("ood", sa.Boolean(), nullable=True))

    with op.batch_alter_table("promotion", schema=None) as batch_op:
        batch_op.add_column(sa.Column("gate", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))

    with op.batch_alter_table("training_run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("name", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("dataset_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("split_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("from_version_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("config", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("allowed_leaks", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
        batch_op.add_column(sa.Column("environment", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("live", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("checkpoint", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("cancel_requested_at", db.clock.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("stop_requested_at", db.clock.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("started_at", db.clock.UtcDateTime(timezone=True), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_training_run_split_id_dataset_split"), "dataset_split", ["split_id"], ["id"]
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_training_run_from_version_id_model_version"), "model_version", ["from_version_id"], ["id"]
        )
        batch_op.create_foreign_key(batch_op.f("fk_training_run_dataset_id_dataset"), "dataset", ["dataset_id"], ["id"])
