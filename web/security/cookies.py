"""Sets cookies. Over https, a cookie is only for this host, and browsers never send it unencrypted."""

from flask import Flask, Request, current_app, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from itsdangerous import BadSignature


def is_secure() -> bool:
    """Return whether the browser uses https for this site, by the request or the settings."""
    return request.is_secure or bool(current_app.config["SESSION_COOKIE_SECURE"])


def cookie_name(name: str) -> str:
    """Return the name for a cookie. Over https, other hosts and paths cannot set a cookie with this name."""
    return f"__Host-{name}" if is_secure() else name


class Sessions(SecureCookieSessionInterface):
    """Keeps the session in a cookie, whose name and protection depend on the request."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Return the session of the request's cookie, or an empty one. Do not look at the cookie's age.

        The database knows when a session ends. By the age, a server would refuse the cookies of another server whose
        clock is ahead.
        """
        serializer = self.get_signing_serializer(app)
        if serializer is None:
            return None
        try:
            return self.session_class(serializer.loads(request.cookies.get(self.get_cookie_name(app), "")))
        except BadSignature:
            return self.session_class()

    def get_cookie_name(self, app: Flask) -> str:
        """Return the name of the session's cookie."""
        return cookie_name(super().get_cookie_name(app))

    def get_cookie_secure(self, _app: Flask) -> bool:
        """Return whether the browser may send the cookie only over https."""
        return is_secure()
