"""Pictures and archives as people send them, made on the spot."""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0, size: int = 32) -> bytes:
    """A PNG of its own pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def zip_of(files: dict[str, bytes] | Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return file.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Write a ZIP of these entries."""
    path.write_bytes(zip_of(files))
    return path


def tar_of(files: dict[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A TAR of these entries; `mode` is `tarfile.open`'s, such as w:gz."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()
