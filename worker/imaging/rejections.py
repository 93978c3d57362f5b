"""The refusals of imaging, with the reason codes of `db.reasons`."""

from typing import TYPE_CHECKING

from worker.imaging.display_names import display_name

if TYPE_CHECKING:
    from worker.imaging.recipe import SeriesInfo


class ImagingError(Exception):
    """A permanent refusal: trying again gives the same answer.

    `code` is a key of `db.reasons.REASONS`. `detail` says in one sentence what is wrong. It can be shown and stored,
    even if it quotes the file (`display_names.display_name`).
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = display_name(detail)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class ArchiveRefused(ImagingError):
    """The whole archive is refused. `last_good`: the name of the last complete entry, or None."""

    def __init__(self, code: str, detail: str, last_good: str | None = None) -> None:
        super().__init__(code, detail)
        self.last_good = last_good

    def __str__(self) -> str:
        return super().__str__() + (f" Last good entry: {self.last_good}" if self.last_good else "")


class SliceRejected(ImagingError):
    """One file is rejected. The other files of its archive are processed.

    `series`: the series that the file states, if only its pixels are damaged (`db.reasons.DAMAGED`), or None.
    """

    def __init__(self, code: str, detail: str, series: "SeriesInfo | None" = None) -> None:
        super().__init__(code, detail)
        self.series = series


def unreadable(kind: str, error: Exception) -> SliceRejected:
    """Return the rejection of a file of this kind that a library cannot read."""
    return SliceRejected("malformed", f"The {kind} file cannot be read ({type(error).__name__}).")


class DecoderUnavailable(Exception):
    """No decoding process could be started. This is a temporary fault of the machine, not of the input."""
