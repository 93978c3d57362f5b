"""Passwords, tokens and sign-in links: what is right signs in, what is wrong, used, revoked or expired does not."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from db import database as base
from db.access import accounts, links, tokens
from db.database import session_scope
from db.models import SignInLink, User
from db.settings import Settings


def test_password(database: Settings) -> None:
    with session_scope() as s:
        accounts.create_user(s, "eve", "correct horse")
        accounts.create_user(s, "robot", None)
    with session_scope() as s:
        user = accounts.verify_password(s, "eve", "correct horse")
        assert user is not None
        assert user.name == "eve"
        assert user.password_hash is not None
        assert "correct horse" not in user.password_hash
        assert accounts.verify_password(s, "eve", "wrong") is None
        assert accounts.verify_password(s, "nobody", "correct horse") is None
        assert accounts.verify_password(s, "robot", "") is None
    with pytest.raises(accounts.AccountRefused, match="already"), session_scope() as s:
        accounts.create_user(s, "eve", None)


@pytest.mark.parametrize("name", ["", "local", "LOCAL", "a b", "a\nb", "a/b", "\u202eann", "x" * 65])
def test_name_is_checked(database: Settings, name: str) -> None:
    with pytest.raises(accounts.AccountRefused), session_scope() as s:
        accounts.create_user(s, name, None)


def test_length_of_a_password_is_limited_and_the_longest_can_be_used(database: Settings) -> None:
    longest = "x" * accounts.LONGEST_PASSWORD
    with session_scope() as s:
        eve = accounts.create_user(s, "eve", longest)
        assert accounts.verify_password(s, "eve", longest) is not None
        assert accounts.verify_password(s, "eve", longest + "x") is None
        for refused in (longest + "x", "x" * (accounts.SHORTEST_PASSWORD - 1), ""):
            with pytest.raises(accounts.AccountRefused):
                accounts.set_password(s, eve, refused)
        with pytest.raises(accounts.AccountRefused):
            accounts.create_user(s, "carl", "")


def test_disabled_user_is_let_in_by_nothing_and_keeps_only_the_password(database: Settings) -> None:
    with session_scope() as s:
        eve = accounts.create_user(s, "eve", "correct horse")
        page = tokens.issue_token(s, eve, "browser", kind="session")
        api = tokens.issue_token(s, eve, "script")
        link = links.sign_in_link_secret(s, eve, "/jobs")
        accounts.disable_user(s, eve)
    with session_scope() as s:
        assert accounts.verify_password(s, "eve", "correct horse") is None
        assert tokens.token_user(s, page) is None
        assert tokens.token_user(s, api) is None
        assert links.redeem_sign_in(s, link) is None
        accounts.enable_user(s, s.get_one(User, eve.id))
    with session_scope() as s:
        assert accounts.verify_password(s, "eve", "correct horse") is not None
        assert tokens.token_user(s, page) is None
        assert tokens.token_user(s, api) is None
        assert links.redeem_sign_in(s, link) is None


def test_local_user_stays_an_admin(database: Settings) -> None:
    with session_scope() as s:
        local = accounts.local_user(s)
        assert local.is_admin
        assert accounts.local_user(s).id == local.id
        for change in (lambda: accounts.disable_user(s, local), lambda: accounts.set_admin(s, local, False)):
            with pytest.raises(accounts.AccountRefused):
                change()


def test_token_lives_until_revoked_or_expired(ann: User, bob: User) -> None:
    with session_scope() as s:
        secret = tokens.issue_token(s, ann, "laptop")
        expired = tokens.issue_token(s, ann, "old", timedelta(seconds=-1))
    with session_scope() as s:
        owner = tokens.token_user(s, secret)
        assert owner is not None
        assert owner.id == ann.id
        assert tokens.token_user(s, expired) is None
        assert tokens.token_user(s, secret + "x") is None
        [token] = tokens.list_tokens(s, ann)
        assert token.label == "laptop"
        assert secret not in token.secret_hash
        assert not tokens.revoke_token(s, bob, token.id)
        assert tokens.revoke_token(s, ann, token.id)
        assert tokens.token_user(s, secret) is None


def test_new_password_ends_sessions_tokens_and_links_of_that_user_alone(ann: User, bob: User) -> None:
    with session_scope() as s:
        page = tokens.issue_token(s, ann, "browser", kind="session")
        api, bobs = tokens.issue_token(s, ann, "script"), tokens.issue_token(s, bob, "script")
        link = links.sign_in_link_secret(s, ann, "/jobs")
        accounts.set_password(s, s.get_one(User, ann.id), "a new password")
    with session_scope() as s:
        assert tokens.token_user(s, page) is None
        assert tokens.token_user(s, api) is None
        assert links.redeem_sign_in(s, link) is None
        assert tokens.token_user(s, bobs) is not None


def test_sign_in_link_works_once_and_in_time(ann: User, database: Settings) -> None:
    with session_scope() as s:
        secret = links.sign_in_link_secret(s, ann, "/jobs/x")
    with session_scope() as s:
        redeemed = links.redeem_sign_in(s, secret)
        assert redeemed is not None
        assert (redeemed[0].id, redeemed[1]) == (ann.id, "/jobs/x")
        assert links.redeem_sign_in(s, secret) is None
    with session_scope() as s:
        earlier, newest = (links.sign_in_link_secret(s, ann, "/") for _ in range(2))
        assert links.redeem_sign_in(s, earlier) is None
        assert links.link_user(s, newest) is not None
        links.end_links(s, ann)
        assert links.link_user(s, newest) is None
    base.use(database.model_copy(update={"sign_in_link_seconds": -1}))
    with session_scope() as s:
        late = links.sign_in_link_secret(s, ann, "/")
        assert links.redeem_sign_in(s, late) is None


def test_sign_in_link_is_dead_after_ten_minutes(ann: User) -> None:
    with session_scope() as s:
        secret = links.sign_in_link_secret(s, ann, "/")
        assert links.link_user(s, secret) is not None
        link = s.query(SignInLink).one()
        s.execute(update(SignInLink).values(expires_at=link.expires_at - timedelta(minutes=10)))
        assert links.redeem_sign_in(s, secret) is None
