"""Alembic's entry: migrations run on this process's engine."""

from alembic import context

from db.database import get_engine
from db.models.base import Base

engine = get_engine()
with engine.connect() as connection:
    if engine.dialect.name == "postgresql":
        # Two processes that start together must not migrate together.
        connection.exec_driver_sql("SELECT pg_advisory_lock(72057594037927)")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        render_as_batch=engine.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()
