"""Users, their API tokens and sessions, one-time sign-in links, and the keys of their requests."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.base import NO_FILE, Base


class User(Base):
    """A person or a program that submits jobs.

    `served_at`: when a worker last claimed work of this user. `disabled_at`: when the user was disabled, or None.
    """

    __tablename__ = "user_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None] = mapped_column(info=NO_FILE)
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    served_at: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]


class Token(Base):
    """An API token (`kind` "api") or a signed-in browser ("session"). Only the SHA-256 of its secret is stored.

    `used_at`: when a person last used the session, to a minute.
    """

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    label: Mapped[str]
    kind: Mapped[str] = mapped_column(default="api")
    secret_hash: Mapped[str] = mapped_column(unique=True, info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    used_at: Mapped[datetime] = mapped_column(default=from_now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="joined")


class SignInLink(Base):
    """A link that signs a user in once. The command line makes it. Only the SHA-256 of its secret is stored."""

    __tablename__ = "sign_in_link"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    secret_hash: Mapped[str] = mapped_column(unique=True, info=NO_FILE)
    next_path: Mapped[str]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="joined")


class RequestKey(Base):
    """An Idempotency-Key of a user. `made_id`, `kind`: the id and the kind of the row that the request made."""

    __tablename__ = "request_key"

    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    request_hash: Mapped[str] = mapped_column(info=NO_FILE)
    made_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=from_now())


class SignInCount(Base):
    """How many sign-ins failed, or have not ended yet, in a window of `seconds` that ends at `ends_at`.

    `key_hash`: the SHA-256 of the account, network or browser that is counted.
    """

    __tablename__ = "sign_in_count"

    key_hash: Mapped[str] = mapped_column(primary_key=True, info=NO_FILE)
    seconds: Mapped[int] = mapped_column(primary_key=True)
    counted: Mapped[int]
    ends_at: Mapped[datetime] = mapped_column(index=True)
