"""How cookies are set: over https only for this host, and never sent in clear."""

from flask import Flask, current_app, request
from flask.sessions import SecureCookieSessionInterface


def is_secure() -> bool:
    """Return whether the browser speaks https to this site, as far as the request or the settings say."""
    return request.is_secure or bool(current_app.config["SESSION_COOKIE_SECURE"])


def cookie_name(name: str) -> str:
    """Return the name under which a cookie is set: over https no other host or path can set one of this name."""
    return f"__Host-{name}" if is_secure() else name


class Sessions(SecureCookieSessionInterface):
    """Keeps the session in a cookie that is named and protected as the request allows."""

    def get_cookie_name(self, app: Flask) -> str:
        """Return the name of the session's cookie."""
        return cookie_name(super().get_cookie_name(app))

    def get_cookie_secure(self, _app: Flask) -> bool:
        """Return whether the browser may send the cookie over https only."""
        return is_secure()
