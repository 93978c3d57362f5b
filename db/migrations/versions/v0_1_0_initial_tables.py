"""The tables of release 0.1.0."""

import secrets
from datetime import UTC, datetime
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

import db.clock

revision = "v0_1_0"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    installation = op.create_table(
        "installation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("patient_key", sa.String(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("swept_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("has_storage", sa.Boolean(), nullable=False),
        sa.Column("unexpected_files", sa.Integer(), nullable=False),
        sa.Column("reread_to", sa.String(), nullable=False),
        sa.Column("reread_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    identity = {"id": uuid4().hex, "patient_key": secrets.token_hex(32), "created_at": datetime.now(UTC)}
    op.bulk_insert(installation, [identity | {"reread_to": "", "has_storage": False, "unexpected_files": 0}])
    op.create_table(
        "damaged_file",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("found_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_damaged_file")),
    )
    op.create_table(
        "released_file",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("released_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_released_file")),
    )
    with op.batch_alter_table("released_file", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_released_file_sha256"), ["sha256"], unique=False)

    op.create_table(
        "audit_seal",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("sealed_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_seal")),
    )
    op.create_table(
        "audit_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("via", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("seal_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["seal_id"], ["audit_seal.id"], name=op.f("fk_audit_event_seal_id_audit_seal")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_event")),
    )
    with op.batch_alter_table("audit_event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_event_actor"), ["actor"], unique=False)
        batch_op.create_index(batch_op.f("ix_audit_event_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_audit_event_object"), ["object"], unique=False)
        batch_op.create_index(batch_op.f("ix_audit_event_seal_id"), ["seal_id"], unique=False)

    op.create_table(
        "stage_slot",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_slot")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("temperature", sa.Double(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("parity", sa.JSON(), nullable=False),
        sa.Column("ood", sa.JSON(), nullable=False),
        sa.Column("calibration", sa.JSON(), nullable=False),
        sa.Column("finding_rule", sa.JSON(), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("dataset_hash", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("name", "number", name=op.f("uq_model_version_name_number")),
    )
    op.create_table(
        "user_account",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("served_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_account")),
        sa.UniqueConstraint("name", name=op.f("uq_user_account_name")),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("labels_sha256", sa.String(), nullable=True),
        sa.Column("folders_first", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("arrays", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("closed_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("erased_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("put_offs", sa.Integer(), nullable=False),
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
        sa.Column("seen_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_engine_proof_model_version_id_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engine_proof")),
        sa.UniqueConstraint(
            "host", "model_version_id", "engine", name=op.f("uq_engine_proof_host_model_version_id_engine")
        ),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("started_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("unpacked_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("first_result_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("finished_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("retried_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("served_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("tally", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_job_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["user_account.id"], name=op.f("fk_job_owner_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("owner_id", "idempotency_key", name=op.f("uq_job_owner_id_idempotency_key")),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_deleted_at"), ["deleted_at"], unique=False)
        batch_op.create_index("ix_job_owner_created", ["owner_id", "created_at", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_job_state"), ["state"], unique=False)

    op.create_table(
        "promotion",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("gate", sa.JSON(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_promotion_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_promotion_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotion")),
    )
    op.create_table(
        "request_key",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("made_id", sa.Integer(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_request_key_user_id_user_account")),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_request_key")),
    )
    op.create_table(
        "sign_in_count",
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("counted", sa.Integer(), nullable=False),
        sa.Column("ends_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", "seconds", name=op.f("pk_sign_in_count")),
    )
    with op.batch_alter_table("sign_in_count", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sign_in_count_ends_at"), ["ends_at"], unique=False)

    op.create_table(
        "sign_in_link",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("next_path", sa.String(), nullable=False),
        sa.Column("expires_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("used_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_sign_in_link_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_link")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_sign_in_link_secret_hash")),
    )
    with op.batch_alter_table("sign_in_link", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sign_in_link_user_id"), ["user_id"], unique=False)

    op.create_table(
        "token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("used_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_token_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_token_secret_hash")),
    )
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_token_user_id"), ["user_id"], unique=False)

    op.create_table(
        "chunk",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("array_sha256", sa.String(), nullable=False),
        sa.Column("suspect", sa.Boolean(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("closed_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("put_offs", sa.Integer(), nullable=False),
        sa.Column("lease_until", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("published_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_chunk_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunk")),
    )
    with op.batch_alter_table("chunk", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chunk_array_sha256"), ["array_sha256"], unique=False)
        batch_op.create_index("ix_chunk_job_state", ["job_id", "state"], unique=False)
        batch_op.create_index(batch_op.f("ix_chunk_state"), ["state"], unique=False)

    op.create_table(
        "dataset_split",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("after_version_id", sa.Integer(), nullable=True),
        sa.Column("assignment", sa.JSON(), nullable=False),
        sa.Column("leaks", sa.JSON(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["after_version_id"], ["model_version.id"], name=op.f("fk_dataset_split_after_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_dataset_split_dataset_id_dataset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_split")),
    )
    with op.batch_alter_table("dataset_split", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_split_dataset_id"), ["dataset_id"], unique=False)

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
        sa.Column("given_part", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("series", sa.String(), nullable=True),
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
        "patient",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("is_known", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_patient_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
        sa.UniqueConstraint("job_id", "key", name=op.f("uq_patient_job_id_key")),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("patient_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("conflict", sa.String(), nullable=True),
        sa.Column("birth_key", sa.String(), nullable=True),
        sa.Column("sex_key", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_study_job_id_job")),
        sa.ForeignKeyConstraint(["patient_id"], ["patient.id"], name=op.f("fk_study_patient_id_patient")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("job_id", "uid", name=op.f("uq_study_job_id_uid")),
    )
    with op.batch_alter_table("study", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_study_patient_id"), ["patient_id"], unique=False)

    op.create_table(
        "series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_series_job_id_job")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_series_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("study_id", "uid", name=op.f("uq_series_study_id_uid")),
    )
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.create_index("ix_series_job", ["job_id", "id"], unique=False)

    op.create_table(
        "upload",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("entries", sa.Integer(), nullable=True),
        sa.Column("decode_seconds", sa.Double(), nullable=False),
        sa.Column("decode_failures", sa.Integer(), nullable=False),
        sa.Column("dicomdirs", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("closed_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("put_offs", sa.Integer(), nullable=False),
        sa.Column("lease_until", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("published_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_upload_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload")),
        sa.UniqueConstraint("job_id", "position", name=op.f("uq_upload_job_id_position")),
    )
    with op.batch_alter_table("upload", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_upload_job_id"), ["job_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_upload_sha256"), ["sha256"], unique=False)
        batch_op.create_index(batch_op.f("ix_upload_state"), ["state"], unique=False)

    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("split_id", sa.Integer(), nullable=True),
        sa.Column("part", sa.String(), nullable=True),
        sa.Column("precision", sa.String(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("scores_sha256", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("put_offs", sa.Integer(), nullable=False),
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
            "precision",
            name=op.f("uq_evaluation_model_version_id_dataset_id_split_id_part_precision"),
        ),
    )
    with op.batch_alter_table("evaluation", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluation_state"), ["state"], unique=False)

    op.create_table(
        "finding",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("patient_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("ood", sa.Integer(), nullable=True),
        sa.Column("left_out", sa.JSON(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_finding_job_id_job")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_finding_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["patient_id"], ["patient.id"], name=op.f("fk_finding_patient_id_patient")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_finding_series_id_series")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_finding_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        sa.UniqueConstraint("job_id", "ordinal", name=op.f("uq_finding_job_id_ordinal")),
    )
    with op.batch_alter_table("finding", schema=None) as batch_op:
        batch_op.create_index("ix_finding_job_level", ["job_id", "level", "verdict", "ordinal"], unique=False)
        batch_op.create_index(batch_op.f("ix_finding_patient_id"), ["patient_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_finding_series_id"), ["series_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_finding_study_id"), ["study_id"], unique=False)

    op.create_table(
        "slice",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("upload_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("pixels_sha256", sa.String(), nullable=True),
        sa.Column("format", sa.String(), nullable=True),
        sa.Column("mode", sa.String(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("position", sa.Double(), nullable=True),
        sa.Column("location", sa.Double(), nullable=True),
        sa.Column("orientation", sa.String(), nullable=True),
        sa.Column("sop_uid", sa.String(), nullable=True),
        sa.Column("series_rank", sa.Integer(), nullable=True),
        sa.Column("lung_fraction", sa.Double(), nullable=True),
        sa.Column("chunk_id", sa.Integer(), nullable=True),
        sa.Column("array_row", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunk.id"], name=op.f("fk_slice_chunk_id_chunk")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_slice_job_id_job")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_slice_series_id_series")),
        sa.ForeignKeyConstraint(["upload_id"], ["upload.id"], name=op.f("fk_slice_upload_id_upload")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slice")),
        sa.UniqueConstraint("upload_id", "ordinal", "frame", name=op.f("uq_slice_upload_id_ordinal_frame")),
    )
    with op.batch_alter_table("slice", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_slice_chunk_id"), ["chunk_id"], unique=False)
        batch_op.create_index("ix_slice_job", ["job_id", "upload_id", "ordinal", "frame"], unique=False)
        batch_op.create_index("ix_slice_job_name", ["job_id", "name_key", "id"], unique=False)
        batch_op.create_index(
            "ix_slice_job_state", ["job_id", "state", "upload_id", "ordinal", "frame", "reason"], unique=False
        )
        batch_op.create_index("ix_slice_series", ["series_id", "upload_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_slice_sha256"), ["sha256"], unique=False)

    op.create_table(
        "training_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("demo", sa.Boolean(), nullable=False),
        sa.Column("preset", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=True),
        sa.Column("split_id", sa.Integer(), nullable=True),
        sa.Column("from_version_id", sa.Integer(), nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("allowed_leaks", sa.JSON(), nullable=False),
        sa.Column("estimate", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("live", sa.JSON(), nullable=False),
        sa.Column("checkpoint", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("cancel_requested_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("stop_requested_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("stopped_early", sa.Boolean(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=True),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.Column("started_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("finished_at", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("put_offs", sa.Integer(), nullable=False),
        sa.Column("lease_until", db.clock.UtcDateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column("published_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_training_run_dataset_id_dataset")),
        sa.ForeignKeyConstraint(
            ["from_version_id"], ["model_version.id"], name=op.f("fk_training_run_from_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_training_run_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(
            ["split_id"], ["dataset_split.id"], name=op.f("fk_training_run_split_id_dataset_split")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_training_run_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_run")),
    )
    with op.batch_alter_table("training_run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_training_run_state"), ["state"], unique=False)

    op.create_table(
        "prediction",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("slice_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("pixels_sha256", sa.String(), nullable=True),
        sa.Column("logit", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("positive", sa.Boolean(), nullable=False),
        sa.Column("distance", sa.Double(), nullable=True),
        sa.Column("ood", sa.Boolean(), nullable=True),
        sa.Column("cam", sa.LargeBinary(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("created_at", db.clock.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_prediction_job_id_job")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_prediction_model_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(["slice_id"], ["slice.id"], name=op.f("fk_prediction_slice_id_slice")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prediction")),
        sa.UniqueConstraint(
            "slice_id", "model_version_id", "recipe", name=op.f("uq_prediction_slice_id_model_version_id_recipe")
        ),
    )
    with op.batch_alter_table("prediction", schema=None) as batch_op:
        batch_op.create_index("ix_prediction_job_positive", ["job_id", "positive", "ood", "engine"], unique=False)
        batch_op.create_index("ix_prediction_pixels", ["pixels_sha256", "model_version_id", "recipe"], unique=False)

    op.create_table(
        "review",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slice_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.Integer(), nullable=True),
        sa.Column("blind", sa.Boolean(), nullable=False),
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
