"""Limits failed sign-ins: to one account from one network, to one account, and from one network.

Each limit has three windows, so that the wait grows from a minute to an hour to a day. A browser that has signed in to
the account before is counted separately, so that strangers cannot lock the owner out of this browser.
"""

from ipaddress import IPv6Address

from db.access.sign_in_counts import Limit
from web.security import known_devices
from web.security.proxies import client_address

WINDOWS = (60, 3600, 86_400)  # seconds
ACCOUNT_AND_NETWORK = (10, 30, 100)  # failures in each window
ACCOUNT = (20, 60, 200)
NETWORK = (100, 500, 2000)  # a clinic of a thousand people may come from one address
IPV6_PREFIX = 64  # bits of an IPv6 address that name a network; the user can choose the others


def limits_of(name: str) -> list[Limit]:
    """Return the limits for this request's sign-in to the account `name`."""
    device = known_devices.device_id(name)
    if device is not None:
        return _limits(f"device:{device}", ACCOUNT_AND_NETWORK)
    return [
        *_limits(f"account:{name}:{network()}", ACCOUNT_AND_NETWORK),
        *_limits(f"account:{name}", ACCOUNT),
        *_limits(f"network:{network()}", NETWORK),
    ]


def _limits(key: str, failures: tuple[int, ...]) -> list[Limit]:
    return [Limit(key, seconds, most) for seconds, most in zip(WINDOWS, failures, strict=True)]


def network() -> str:
    """Return the network that the request comes from: an IPv4 address, or the first 64 bits of an IPv6 address.

    Return "local" if there is no IP address.
    """
    address = client_address()
    if address is None:
        return "local"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{int(address) >> (128 - IPV6_PREFIX):x}/{IPV6_PREFIX}"
