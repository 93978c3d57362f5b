"""The limits on failed sign-ins to one account: from one network, and from all networks together.

Each limit has three windows, so that the wait grows from a minute to an hour to a day. A browser that has signed in to
the account before is counted by itself: strangers cannot lock the owner out of it.
"""

import hashlib
import math
import time
from ipaddress import IPv6Address, ip_address

from flask import Flask, request
from flask_limiter import Limiter

from db.settings import Settings
from web.security import known_devices

NETWORK_LIMIT = "10 per minute; 30 per hour; 100 per day"
ACCOUNT_LIMIT = "20 per minute; 60 per hour; 200 per day"
IPV6_PREFIX = 64  # bits of an IPv6 address that name a network: the rest is its user's to choose


def network() -> str:
    """Return the network that the request comes from: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:  # a Unix socket
        return "local"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{int(address) >> (128 - IPV6_PREFIX):x}/{IPV6_PREFIX}"


def account() -> str:
    """Return the key of the account that the form names, or of this device if it has signed in to it before."""
    name = request.form.get("name", "")
    device = known_devices.device_id(name)
    if device is not None:
        return f"device:{device}"
    return "account:" + hashlib.sha256(name.encode()).hexdigest()


def account_and_network() -> str:
    """Return the key of the account that the form names, from this network."""
    key = account()
    return key if key.startswith("device:") else f"{key}:{network()}"


limiter = Limiter(key_func=network, default_limits=[], headers_enabled=False, fail_on_first_breach=False)


def seconds_to_wait() -> int:
    """Return how long the sign-in that was just refused must wait, in seconds."""
    ends = [limit.reset_at for limit in limiter.current_limits if limit.breached]
    return max(1, max(ends, default=0) - math.ceil(time.time()))


def install(app: Flask, settings: Settings) -> None:
    """Count failed sign-ins in Redis, so that all web processes count together and a restart forgets nothing.

    If Redis is unreachable, each process counts for itself: nobody is locked out.
    """
    storage = settings.broker_url.replace("redis+socket://", "redis+unix://")
    shared = storage.startswith(("redis://", "rediss://", "redis+unix://"))
    app.config["RATELIMIT_STORAGE_URI"] = storage if shared else "memory://"
    app.config["RATELIMIT_IN_MEMORY_FALLBACK_ENABLED"] = shared
    app.config["RATELIMIT_KEY_PREFIX"] = "ctbatch"
    limiter.init_app(app)
