"""A decoder that does as its file says: crash, hang, lie, or try what it must not. For the sandbox's tests only."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from typing import NoReturn

from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import PIXEL_BYTES, PreparedSlice, as_pixels
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.protocol import pack_reply

_NEVER_READY, _ = os.pipe()
_SEEN: list[bool] = []


def decode(data: bytearray, limits: DecodeLimits) -> list[PreparedSlice]:
    """`ok <n>` gives a slice of grey n; `<command>` is carried out; what it found comes back as a rejection."""
    command, _, argument = bytes(data).decode().partition(" ")
    if command == "ok":
        return [PreparedSlice(as_pixels(bytes([int(argument)]) * PIXEL_BYTES), 0, "PNG", "L", 224, 224)]
    if command == "large":
        return [PreparedSlice(as_pixels(bytes(PIXEL_BYTES)), n, "TIFF", "L", 9, 9) for n in range(int(argument))]
    _report(_COMMANDS[command], argument)


def _report(action: object, argument: str) -> NoReturn:
    try:
        outcome = action(argument)  # type: ignore[operator]
    except (OSError, ValueError, MemoryError) as error:
        outcome = f"{type(error).__name__}: {error}"
    raise SliceRejected("corrupt", str(outcome))


def _crash(_: str) -> None:
    ctypes.string_at(0)


def _crash_if_not_first(_: str) -> str:
    """Stands for a heap that earlier files have damaged."""
    _SEEN.append(True)
    if len(_SEEN) > 1:
        os._exit(3)
    return "survived"


def _spin(_: str) -> None:
    while True:
        pass


def _hang(_: str) -> None:
    os.read(_NEVER_READY, 1)


def _allocate(argument: str) -> int:
    return len(bytes(int(argument)))


def _run_short(_: str) -> NoReturn:
    raise SliceRejected("decoder_memory", "as said")


def _forge(argument: str) -> None:
    frames = {"noise": b"\xff" * 100, "unasked": pack_reply(SliceRejected("corrupt", "a")) * 2}
    for number in range(3, 9):
        try:
            os.write(number, frames[argument])
        except OSError:
            continue
    _hang("")


_COMMANDS = {
    "pid": lambda _: os.getpid(),
    "crash": _crash,
    "crash-if-not-first": _crash_if_not_first,
    "spin": _spin,
    "hang": _hang,
    "allocate": _allocate,
    "run-short": _run_short,
    "forge": _forge,
    "kill-self": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda argument: os._exit(int(argument)),
    "print": lambda text: print(text, flush=True) or (os.write(1, b"noise") and "printed"),
    "open": lambda path: open(path),  # noqa: SIM115, PTH123
    "create": lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
    "list": lambda path: os.listdir(path),  # noqa: PTH208
    "socket": lambda _: socket.socket(),
    "fork": lambda _: os.fork(),
    "run": lambda _: subprocess.run(["true"], check=False),
    "raise-limit": lambda _: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "environment": lambda _: sorted(os.environ),
    "modules": lambda _: [
        name
        for name in ("db.settings", "db.database", "celery", "sqlalchemy", "tensorflow", "flask")
        if name in sys.modules
    ],
}
