"""Decides when Linux ends a process, and lets other processes use a busy core first."""

import ctypes
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_AUTOGROUP = Path("/proc/self/autogroup")
_TRIES, _PAUSE = 5, 0.1  # for all unprivileged processes together, the kernel accepts one such change every 0.1 s
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies. If the parent is dead already, exit at once.

    This uses prctl(2), PR_SET_PDEATHSIG. `parent`: the process id of the parent, taken before the fork. The signal also
    comes when the thread that forked this process ends. So this thread must live as long as the process.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent:
        os._exit(1)


def end_only_for(parent: int) -> None:
    """Ignore every SIGTERM that is not from the parent. At a SIGTERM from the parent, end at once.

    systemd sends SIGTERM to all processes of a service together, but the parent decides when this process ends. Call
    this in the main thread before it starts others, because new threads inherit the blocked signal.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(1)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, name="end only for the parent", daemon=True).start()


def come_after_others(nice: int) -> None:
    """Let other processes use a busy core first. On an idle core, this process is as quick as before.

    A kernel may group processes by session, and divide a core between the groups. `nice` then counts only inside the
    group, so the group's own value is set too (sched(7), "The autogroup feature"). A kernel without
    /proc/self/autogroup does not group processes, so `nice` is enough there.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with suppress(OSError):
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                _AUTOGROUP.write_text(str(nice))
                return
            time.sleep(_PAUSE)
