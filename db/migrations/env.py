"""Alembic's entry. Migrations run on a separate engine, without time limits for statements."""

from alembic import context

from db.database import current, make_engine
from db.models.base import Base

LOCK = 72057594037927
"""The number of PostgreSQL's advisory lock: two processes that start together must not migrate together."""

engine = make_engine(current(), migrating=True)
is_postgresql = engine.dialect.name == "postgresql"
with engine.connect() as connection:
    if is_postgresql:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        render_as_batch=not is_postgresql,
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        if is_postgresql:
            connection.rollback()
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK})")
            connection.commit()
engine.dispose()
