"""Idempotency-Keys: the same request makes one thing, also when it comes several times at once."""

import threading

import pytest

from db.access.request_keys import IdempotencyConflict, KeyedRequest, made_before, remember
from db.database import session_scope
from db.models import Token, User


def test_key_stands_for_one_request_of_one_user(ann: User, bob: User) -> None:
    asked = KeyedRequest(ann.id, "k", "run", "1" * 64)
    with session_scope() as s:
        assert made_before(s, asked) is None
        remember(s, asked, 7)
    with session_scope() as s:
        assert made_before(s, asked) == 7
        assert made_before(s, KeyedRequest(bob.id, "k", "run", "1" * 64)) is None
        for other in (KeyedRequest(ann.id, "k", "run", "2" * 64), KeyedRequest(ann.id, "k", "dataset", "1" * 64)):
            with pytest.raises(IdempotencyConflict):
                made_before(s, other)


def test_requests_of_one_key_at_once_make_one_thing(ann: User) -> None:
    asked = KeyedRequest(ann.id, "k", "token", "1" * 64)
    made: list[int] = []

    def ask() -> None:
        with session_scope() as s:
            token_id = made_before(s, asked)
            if token_id is None:
                token = Token(user_id=ann.id, label="made", secret_hash=threading.current_thread().name)
                s.add(token)
                s.flush()
                token_id = token.id
                remember(s, asked, token_id)
        made.append(token_id)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
