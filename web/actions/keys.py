"""Handles the Idempotency-Key of requests. A repeated request makes nothing new, and returns the first result."""

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from flask import request
from sqlalchemy.orm import Session

from db.access.request_keys import KeyedRequest, made_before, remember
from db.database import session_scope
from db.models import User
from web.errors import Problem
from web.security.auth import check_again

FORM_FIELD = "idempotency_key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def new_key() -> str:
    """Return a new key for a form. If the form is sent twice, the key shows that both are the same request."""
    return secrets.token_hex(16)


def idempotency_key() -> str | None:
    """Return the `Idempotency-Key` header, or the hidden field of a page's form, or None.

    A key has 1 to 255 visible ASCII characters.

    For the API, only the header is read, because the body may be a whole upload. Raises Problem 400.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None and not request.path.startswith("/api/"):
        key = request.form.get(FORM_FIELD)
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(400, "bad-request", "The Idempotency-Key is not valid. Use 1 to 255 visible ASCII characters.")
    return key


def once(user: User, kind: str, asked: Any, make: Callable[[Session], int]) -> tuple[int, bool]:
    """Call `make` in a transaction. Return the id that it returns, and whether it was called.

    If the key of this request was used before, with the same `kind` and the same `asked` (JSON), do not call `make`,
    and return the earlier id. Raises IdempotencyConflict: the key was used with another `kind` or another `asked`.
    Raises Problem 401 or 403: the user may no longer do this.
    """
    key = idempotency_key()
    with session_scope() as s:
        check_again(s)
        if key is None:
            return make(s), True
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        keyed = KeyedRequest(user.id, key, kind, digest)
        made_id = made_before(s, keyed)
        if made_id is not None:
            return made_id, False
        made_id = make(s)
        remember(s, keyed, made_id)
        return made_id, True
