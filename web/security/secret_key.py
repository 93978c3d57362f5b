"""Finds the key that signs cookies: from the settings, or else from a file beside the database."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from db.settings import Settings


def secret_key(settings: Settings) -> str:
    """Return the signing key. Web processes on one machine share the file. For several machines, use the setting."""
    return settings.secret_key.get_secret_value() or _kept_key(settings.home / "secret_key")


def _kept_key(path: Path) -> str:
    if not path.exists():  # the disk may be full, so write nothing if there is a key
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):
                os.link(fresh, path)  # atomic: the first process wins
        finally:
            fresh.unlink(missing_ok=True)
    return path.read_text().strip()
