"""The refusals of imaging, with the reason codes that people and programs see."""

from worker.imaging.display_names import display_name

REASONS: dict[str, str] = {
    # A whole archive: nothing of it is taken.
    "too_many_entries": "The archive holds more entries than are accepted in one submission.",
    "overlap": "Entries of the archive share the same bytes, as decompression bombs do.",
    "password_protected": "The archive is encrypted; send it without a password.",
    "bad_zip64": "The archive's ZIP64 records contradict each other.",
    "malformed_archive": "The archive's own structure is damaged.",
    "truncated_archive": "The archive ends too early; it was cut off on its way.",
    "trailing_data": "The archive is followed by bytes that do not belong to it.",
    "unsupported_archive": "This kind of archive is not read; send ZIP, TAR, TAR.GZ, TAR.BZ2 or TAR.XZ.",
    "no_images": "No file in it can be an image.",
    # An archive or one file of it.
    "too_large_unpacked": "Unpacked, it is larger than is accepted.",
    # One file: its siblings go on.
    "size_mismatch": "The file is not as long as the archive states.",
    "corrupt": "The file's bytes are damaged.",
    "not_regular": "This is a link or a device, not a file.",
    "nested": "This is an archive or compressed file inside the archive; send its contents instead.",
    "unsupported": "This variant of the format is not read.",
    "empty": "The file is empty.",
    "format": "This is not a PNG, JPEG, TIFF, BMP or DICOM image.",
    "truncated": "The image ends too early.",
    "pixels": "The image has more pixels than are accepted, or not as many as it states.",
    "pages": "The file has more pages than are accepted.",
    "malformed": "The DICOM structure is damaged, or lacks a value that a CT slice must have.",
    "not_ct": "This DICOM object is not a CT slice.",
    "decoder_crash": "Decoding this file crashed the decoder.",
    "decoder_timeout": "Decoding this file took too long.",
    "decoder_memory": "Decoding this file takes more memory than is allowed.",
}
"""Every code this package gives, with one plain sentence for people."""


class ImagingError(Exception):
    """A permanent refusal: trying again gives the same answer.

    `code` is a key of `REASONS`. `detail` is one sentence about this input, made printable by `display_name`, so that
    it can be shown and stored even if it quotes the file.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = display_name(detail)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class ArchiveRefused(ImagingError):
    """The archive as a whole is refused; `last_good` is the name of the last entry that was whole, or None."""

    def __init__(self, code: str, detail: str, last_good: str | None = None) -> None:
        super().__init__(code, detail)
        self.last_good = last_good

    def __str__(self) -> str:
        return super().__str__() + (f" Last good entry: {self.last_good}" if self.last_good else "")


class SliceRejected(ImagingError):
    """One file is rejected; the others of its archive go on."""


class DecoderUnavailable(Exception):
    """No decoding process could be started: a temporary fault of this machine, not of the input."""
