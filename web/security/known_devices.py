"""Recognises browsers that have signed in to an account before. A browser has a signed cookie for each such account.

The cookie does not sign anybody in. In a browser with the cookie, failed sign-ins of strangers do not count (OWASP,
"Slow Down Online Guessing Attacks with Device Cookies").
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from flask import Response, current_app, request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from web.security.cookies import cookie_name, is_secure

LIFE = timedelta(days=365)


def device_id(name: str) -> str | None:
    """Return the id of this browser if it has signed in to the account `name` in the last LIFE, or None.

    The cookie may come from a server whose clock is ahead.
    """
    cookie = request.cookies.get(_cookie(name), "")
    try:
        (account, device), signed_at = _serializer().loads(cookie, return_timestamp=True)
    except (BadSignature, ValueError, TypeError):
        return None
    return str(device) if account == name and signed_at > datetime.now(UTC) - LIFE else None


def remember(response: Response, name: str) -> Response:
    """Set the cookie that says that this browser has signed in to the account `name`."""
    device = device_id(name) or secrets.token_hex(16)
    response.set_cookie(
        _cookie(name),
        _serializer().dumps([name, device]),
        max_age=LIFE,
        path="/",
        secure=is_secure(),
        httponly=True,
        samesite="Lax",
    )
    return response


def _cookie(name: str) -> str:
    """Return the cookie's name. It depends on the account, because several people may use one browser."""
    return cookie_name("ctbatch_device_" + hashlib.sha256(name.encode()).hexdigest()[:16])


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.config["SECRET_KEY"], salt="known device")
