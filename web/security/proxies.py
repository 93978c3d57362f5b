"""Handles the proxies in front of the web server. The settings say how many are trusted. Others are noticed."""

import contextlib
import logging

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from db.settings import Settings

log = logging.getLogger(__name__)


def install(app: Flask, settings: Settings) -> None:
    """Take the client's address, scheme and host from the headers of trusted proxies.

    Each proxy adds an address to `X-Forwarded-For`. Scheme and host have one value, because proxies replace them.

    If no proxy is trusted, leave a note for `ctbatch doctor` when a request seems to come through a proxy.
    """
    if proxies := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=1, x_host=1)  # type: ignore[method-assign]
        return
    note = settings.untrusted_proxy_note
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)
    noted = False

    @app.before_request
    def notice() -> None:
        nonlocal noted
        if noted or "X-Forwarded-For" not in request.headers:
            return
        noted = True
        log.warning("Requests carry X-Forwarded-For, but no proxy is trusted; see CTBATCH_TRUSTED_PROXIES")
        with contextlib.suppress(OSError):
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            note.touch()
