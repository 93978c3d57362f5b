"""Sending files, archives and folders as one job."""

from pathlib import Path

from cli.files.parts import gather
from cli.output import progress_bar, say
from cli.remote.client import Client, Json
from cli.remote.multipart import MultipartBody


def send(client: Client, paths: tuple[Path, ...], name: str | None, priority: int, key: str) -> Json:
    """Send paths with a progress bar and return the job.

    Raises:
        CommandError: nothing to send, or the server cannot be reached or refuses it.
    """
    parts, hidden = gather(paths)
    if hidden:
        say(f"left out {hidden} hidden or unusable files")
    client.get("/jobs", {"limit": 1})  # a wrong token is known before gigabytes are sent
    body = MultipartBody({"name": name or "", "priority": str(priority)}, parts)
    with progress_bar("sending", len(body), unit="bytes") as update:
        body.sent = lambda count: update(count, "")
        return client.submit(body, key)
