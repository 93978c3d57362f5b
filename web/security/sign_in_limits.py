"""The limit on sign-in attempts from one address."""

from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from db.settings import Settings

SIGN_IN_LIMIT = "10 per minute; 60 per hour"

limiter = Limiter(key_func=get_remote_address, default_limits=[], headers_enabled=False)


def install(app: Flask, settings: Settings) -> None:
    """Count attempts in Redis if the broker is one, so that all web processes count together.

    If Redis is away, each process counts for itself: nobody is locked out.
    """
    shared = settings.broker_url.startswith(("redis://", "rediss://"))
    app.config["RATELIMIT_STORAGE_URI"] = settings.broker_url if shared else "memory://"
    app.config["RATELIMIT_IN_MEMORY_FALLBACK_ENABLED"] = shared
    app.config["RATELIMIT_KEY_PREFIX"] = "ctbatch"
    limiter.init_app(app)
