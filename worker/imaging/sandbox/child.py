"""The program of a decoding process. It confines itself, and then decodes one file after the other over two pipes."""

import codecs
import importlib
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from io import BytesIO, FileIO
from typing import NoReturn

from PIL import Image
from pydicom.charset import python_encoding

from db.timing import stages
from db.timing.stages import Stage
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import SIDE, PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.protocol import FILTER_REQUIRED, REQUEST, pack_frame, pack_reply
from worker.imaging.sandbox.seccomp import drop_system_calls, grant_cpu, grant_memory, limit_resources
from worker.linux_process import die_with_parent

_DISCARD = 1024 * 1024
_NICE = 5
"""Ingest has a lower nice value, because it keeps all decoders supplied with files."""

Decode = Callable[[bytearray, DecodeLimits], list[PreparedSlice]]


def main(parent: str, decoder: str, limits: str, filter_: str) -> None:
    """Answer requests until they end. If the filter is `required` but cannot be set, end before the first request.

    `decoder`: the function, as `module:function`. `limits`: the fields of DecodeLimits in JSON.
    """
    die_with_parent(int(parent))
    os.nice(_NICE)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # these signals are for the parent, which decides when this process ends
        signal.signal(signal_number, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    module, _, function = decoder.partition(":")
    decode: Decode = getattr(importlib.import_module(module), function)
    bounds = DecodeLimits(**json.loads(limits))
    _warm_up()
    replies = _private_stdout()
    limit_resources(bounds.memory_bytes + bounds.max_file_bytes)
    unfiltered = drop_system_calls()
    _send(replies, pack_frame({"ready": True, "unfiltered": unfiltered}))
    if unfiltered and filter_ == FILTER_REQUIRED:
        return
    serve(FileIO(0, closefd=False), replies, decode, bounds)


def serve(requests: FileIO, replies: int, decode: Decode, limits: DecodeLimits) -> NoReturn:
    """Answer the requests one by one, until the parent closes the pipe."""
    while True:
        (length,) = REQUEST.unpack(_read(requests, bytearray(REQUEST.size)))
        grant_cpu(math.ceil(limits.cpu_seconds * limits.stretch(length)))
        grant_memory(limits.memory_bytes + length)
        _send(replies, _answer(requests, length, decode, limits))


def _answer(requests: FileIO, length: int, decode: Decode, limits: DecodeLimits) -> bytes:
    try:
        data = bytearray(length)
    except MemoryError:
        for at in range(0, length, _DISCARD):
            _read(requests, bytearray(min(_DISCARD, length - at)))
        return pack_reply(SliceRejected("decoder_memory", f"{length} bytes do not fit into the decoder's memory."))
    _read(requests, data)
    stages.forget(stages.counted())
    began = time.process_time()
    result: list[PreparedSlice] | SliceRejected
    try:
        result = decode(data, limits)
    except SliceRejected as rejection:
        result = rejection
    return pack_reply(result, _seconds(time.process_time() - began))


def _seconds(whole: float) -> dict[str, float]:
    """Return the core-seconds that an answer took, by stage. `whole`: the core-seconds of both stages."""
    resize = spent.seconds if (spent := stages.counted().get(Stage.RESIZE)) else 0.0
    return {Stage.DECODE: max(whole - resize, 0.0), Stage.RESIZE: resize}


def _read(requests: FileIO, data: bytearray) -> bytearray:
    """Fill `data` from the pipe. End this process if the parent has closed the pipe."""
    view, at = memoryview(data), 0
    while at < len(data):
        count = requests.readinto(view[at:])
        if not count:
            os._exit(0)
        at += count
    return data


def _send(replies: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(replies, view) :]


def _private_stdout() -> int:
    """Move the reply pipe to another number, and return it. Libraries then cannot print between two frames."""
    replies = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


def _warm_up() -> None:
    """Import everything that is imported late, while files can still be opened.

    Late imports are the codecs, and modules that are imported at the first use of a format or a conversion.
    """
    for encoding in {*python_encoding.values(), "unicode_escape"}:
        codecs.lookup(encoding)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        file = BytesIO()
        Image.new("RGB", (SIDE, SIDE)).save(file, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
        with Image.open(file, formats=(kind,)) as image:
            image.convert("L").resize((1, 1), Image.Resampling.BILINEAR)


if __name__ == "__main__":
    main(*sys.argv[1:])
