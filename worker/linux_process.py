"""What Linux is asked to do with a process: end it with its parent, and give its processor time to others first."""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_AUTOGROUP = Path("/proc/self/autogroup")
_TRIES, _PAUSE = 5, 0.1  # the kernel accepts one such change every 0.1 s from all unprivileged processes together
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies, and end it at once if it has died already.

    By prctl(2), PR_SET_PDEATHSIG. `parent`: its process id, taken before the fork. The signal is tied to the thread
    that forked, which has to live as long as this process.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if os.getppid() != parent:
        os._exit(1)


def come_after_others(nice: int) -> None:
    """Let other processes have a busy core first. On an idle core this process is as quick as before.

    A kernel that groups processes by session shares a core out between the groups, and `nice` counts only inside its
    group. So the group's own value is set too: sched(7), "The autogroup feature". Without that file, `nice` is enough.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with suppress(OSError):
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                _AUTOGROUP.write_text(str(nice))
                return
            time.sleep(_PAUSE)
