"""Handles the proxies in front of the web server.

The settings say how many proxies are trusted. Reports wrong settings.
"""

import contextlib
import logging
import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from db.settings import Settings

log = logging.getLogger(__name__)

UNTRUSTED = (
    "requests carry X-Forwarded-For, but no proxy is trusted, so all users seem to have one address; set"
    " CTBATCH_TRUSTED_PROXIES to the number of proxies in front of web"
)
UNREADABLE = (
    "X-Forwarded-For holds something that is not an IP address, so all users seem to have one address; check"
    " CTBATCH_TRUSTED_PROXIES, and let the proxy write the address of its client"
)
_WITH_PORT = re.compile(r"\[(.+)\](?::\d+)?|([\d.]+):\d+")


def client_address() -> IPv4Address | IPv6Address | None:
    """Return the IP address that the request comes from.

    Return None if the request comes through a Unix socket, or if the proxy writes no IP address.

    Some proxies add the port: `192.0.2.7:40001` or `[2001:db8::1]:40001`.
    """
    address = request.remote_addr or ""
    if with_port := _WITH_PORT.fullmatch(address):
        address = with_port[1] or with_port[2]
    try:
        return ip_address(address.partition("%")[0])
    except ValueError:
        return None


def address_text() -> str | None:
    """Return the IP address that the request comes from as text, or None."""
    address = client_address()
    return None if address is None else str(address)


def install(app: Flask, settings: Settings) -> None:
    """Take the client's address, scheme and host from the headers of trusted proxies.

    Each proxy adds an address to `X-Forwarded-For`. Scheme and host have one value, because proxies replace them.

    If a request shows that the proxies or their setting are wrong, leave a note for `ctbatch doctor`.
    """
    if proxies := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=1, x_host=1)  # type: ignore[method-assign]
    note = settings.proxy_note
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)
    noted = False

    @app.before_request
    def notice() -> None:
        nonlocal noted
        if noted or (mistake := _mistake(proxies)) is None:
            return
        noted = True
        log.warning(mistake)
        with contextlib.suppress(OSError):
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            note.write_text(mistake)


def _mistake(proxies: int) -> str | None:
    """Return what this request shows to be wrong with the proxies, or None."""
    if not proxies:
        return UNTRUSTED if "X-Forwarded-For" in request.headers else None
    return UNREADABLE if request.remote_addr and client_address() is None else None
