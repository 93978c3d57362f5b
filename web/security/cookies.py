"""Sets cookies. Over https, a cookie is only for this host, and browsers never send it unencrypted."""

from flask import Flask, current_app, request
from flask.sessions import SecureCookieSessionInterface


def is_secure() -> bool:
    """Return whether the browser uses https for this site, by the request or the settings."""
    return request.is_secure or bool(current_app.config["SESSION_COOKIE_SECURE"])


def cookie_name(name: str) -> str:
    """Return the name for a cookie. Over https, other hosts and paths cannot set a cookie with this name."""
    return f"__Host-{name}" if is_secure() else name


class Sessions(SecureCookieSessionInterface):
    """Keeps the session in a cookie, whose name and protection depend on the request."""

    def get_cookie_name(self, app: Flask) -> str:
        """Return the name of the session's cookie."""
        return cookie_name(super().get_cookie_name(app))

    def get_cookie_secure(self, _app: Flask) -> bool:
        """Return whether the browser may send the cookie only over https."""
        return is_secure()
