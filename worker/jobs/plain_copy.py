"""The plain copy of a packed TAR whose reading was broken off.

Only unpacking from the front leads back to the place where the reading stopped. So the next reading unpacks the TAR
once, into a temporary file, in which any later reading steps over what is recorded.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from db.database import current
from db.ledger.leases import Claim
from db.settings import MIB
from db.storage import storage
from worker.imaging.archives.archive import Limits, unpack_tar
from worker.imaging.rejections import ArchiveRefused

log = logging.getLogger(__name__)

_SYNC_BYTES = 256 * MIB  # written between two waits for the disk: one wait for all of it could outlast the stall limit


def plain_copy(claim: Claim, packed: Path, progress: Callable[[], None]) -> Path | None:
    """Return the plain copy of a claimed upload. Make it first if it does not exist.

    Returns None if the disk has no room for it, or the TAR is damaged: it is then unpacked at every reading, up to the
    damage. `progress` is called meanwhile. Raises what `progress` raises.
    """
    copy = _place(claim.id)
    if copy.exists():
        os.utime(copy)  # young, so that the sweeper does not take it for a file that was left behind
        return copy
    _remove_parts(claim.id)
    part = copy.with_suffix(f".{claim.fence}.part")
    try:
        if not _write(part, packed, progress):
            log.warning("no disk for a plain copy", extra={"upload": claim.id})
            return None
        part.replace(copy)
    except (OSError, ArchiveRefused) as error:
        log.warning("no plain copy", extra={"upload": claim.id, "error": type(error).__name__})
        return None
    finally:
        part.unlink(missing_ok=True)
    return copy


def remove_plain_copy(upload_id: int) -> None:
    """Remove the plain copy of an upload that is closed, if there is one on this machine."""
    _place(upload_id).unlink(missing_ok=True)
    _remove_parts(upload_id)


def _place(upload_id: int) -> Path:
    return storage().incoming / f"upload-{upload_id}.tar"


def _remove_parts(upload_id: int) -> None:
    """Remove what killed workers have left of the copy."""
    for part in storage().incoming.glob(f"upload-{upload_id}.*.part"):
        part.unlink(missing_ok=True)


def _write(part: Path, packed: Path, progress: Callable[[], None]) -> bool:
    """Write the copy durably. Return False if it would take the disk's reserve."""
    unsynced = 0
    with part.open("xb") as file:
        for data in unpack_tar(packed, Limits.of(current()), progress):
            if storage().is_short_of_disk():
                return False
            unsynced += file.write(data)
            if unsynced >= _SYNC_BYTES:
                file.flush()
                os.fdatasync(file.fileno())
                unsynced = 0
        file.flush()
        os.fsync(file.fileno())
    return True
