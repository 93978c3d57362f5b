"""Sends files, archives and folders as one job."""

import io
import shlex
from pathlib import Path

from cli.errors import Declined, Unavailable
from cli.files.parts import gather
from cli.output import progress_bar, say
from cli.remote.client import Client, Json
from cli.remote.part_file import BUFFER, PartFile
from worker.imaging.display_names import display_name


def send(client: Client, paths: tuple[Path, ...], name: str | None, priority: int, key: str) -> Json:
    """Send paths with a progress bar, and return the job.

    Raises:
        CommandError: there is nothing to send, the server cannot be reached, or the server refuses the paths.
    """
    parts, left_out = gather(paths)
    if note := str(left_out):
        say(note)
    client.get("/jobs", {"limit": 1})  # notice a wrong token before gigabytes are sent
    with progress_bar("sending", sum(part.size for part in parts), unit="bytes") as update:
        readers = [PartFile(part, lambda: update(sum(reader.sent for reader in readers), "")) for part in parts]
        files = [
            (display_name(part.filename), io.BufferedReader(reader, BUFFER))
            for part, reader in zip(parts, readers, strict=True)
        ]
        try:
            return client.submit({"name": name or "", "priority": str(priority)}, files, key)
        except Declined:
            raise
        except (Unavailable, KeyboardInterrupt):
            say(
                "It is not known whether the job was queued. To get it, or to make it if it was not queued, repeat the"
                f" command with --idempotency-key {shlex.quote(key)}"
            )
            raise
