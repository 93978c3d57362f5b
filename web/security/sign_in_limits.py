"""How often one address may try to sign in."""

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from db.settings import Settings

SIGN_IN_LIMIT = "10 per minute; 60 per hour"

limiter = Limiter(key_func=get_remote_address, default_limits=[], headers_enabled=False)


def install(app: Flask, settings: Settings) -> None:
    """Count in Redis where the broker is one, so that several web processes count together; else in this process.

    A Redis that is away is no reason to lock everybody out: each process then counts for itself.
    """
    shared = settings.broker_url.startswith(("redis://", "rediss://"))
    app.config["RATELIMIT_STORAGE_URI"] = settings.broker_url if shared else "memory://"
    app.config["RATELIMIT_IN_MEMORY_FALLBACK_ENABLED"] = shared
    app.config["RATELIMIT_KEY_PREFIX"] = "ctbatch"
    limiter.init_app(app)
