"""Asks a server of this machine whether it is ready."""

import urllib.error
import urllib.request

_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is needed for this machine


def why_not_ready(url: str, timeout: float) -> str | None:
    """Ask `/readyz` of the server at `url`. Return why it is not ready, or None. `timeout` is in seconds."""
    try:
        with _no_proxy.open(f"{url}/readyz", timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"web is not ready: {error.read(500).decode(errors='replace')}"
    except OSError as error:
        return f"web does not answer: {error}"
