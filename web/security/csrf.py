"""The CSRF token of a session. Each answer masks it differently.

Without a mask, an attacker could guess the token character by character (BREACH): by putting text into a compressed
page, and watching how long the page gets.
"""

import base64
import binascii
import secrets
from typing import Any

from flask import Flask, g
from flask_wtf.csrf import CSRFProtect, generate_csrf, validate_csrf


def masked_token() -> str:
    """Return the session's token with this answer's mask: base64 of the mask followed by the token XOR the mask."""
    if "masked_token" not in g:
        token = generate_csrf().encode()
        mask = secrets.token_bytes(len(token))
        g.masked_token = base64.urlsafe_b64encode(mask + _xor(token, mask)).decode()
    token_of_answer: str = g.masked_token
    return token_of_answer


def check_token(masked: str | None) -> None:
    """Raise wtforms' ValidationError unless this is a masked token of the session."""
    validate_csrf(_unmasked(masked))


def _unmasked(masked: str | None) -> str | None:
    try:
        both = base64.urlsafe_b64decode(masked or "")
        return _xor(both[: len(both) // 2], both[len(both) // 2 :]).decode()
    except (binascii.Error, ValueError):
        return None


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


class MaskedCSRF(CSRFProtect):  # type: ignore[misc]  # Flask-WTF ships no types
    """Flask-WTF's CSRF protection, but with masked tokens in pages and forms."""

    def init_app(self, app: Flask) -> None:
        """Give templates the masked token."""
        super().init_app(app)
        app.jinja_env.globals["csrf_token"] = masked_token
        app.context_processor(lambda: {"csrf_token": masked_token})

    def _get_csrf_token(self) -> Any:
        return _unmasked(super()._get_csrf_token())


csrf = MaskedCSRF()
"""It checks no request by itself. The check reads the form, so `web.security.guards` does it once the user is known."""
