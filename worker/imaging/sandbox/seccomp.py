"""Confines a decoding process before it gets a submitted byte: limits memory and time, forbids files, network and more.

Uses Linux's `prctl` and a seccomp filter of our own (seccomp(2), Documentation/userspace-api/seccomp_filter.rst).
Libraries are not used: `pyseccomp` needs libseccomp on the system. bubblewrap and nsjail are programs that need user
namespaces, which containers often forbid. This module does not need root or system packages.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Callable

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld abs, jeq, jset, ret
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low word comes first
_PROT_EXEC = 4
_X32 = 0x40000000  # set in system call numbers of x86_64's x32 variant

# By machine: audit architecture, then system call numbers (asm/unistd_64.h, asm-generic/unistd.h).
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "getrusage": (98, 165),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "sched_yield": (24, 124),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_MMAP, _MPROTECT, _PRLIMIT = (9, 222), (10, 226), (302, 261)


_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "io_uring_setup": (425, 425),
    "openat2": (437, 437),
    "open_by_handle_at": (304, 265),
    "creat": (85, None),
    "truncate": (76, 45),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mount": (165, 40),
}
_OPEN, _OPENAT = (2, None), (257, 56)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def forbid_effects() -> str | None:
    """Forbid all effects on other processes, on the network and on files from now on. Files may be read.

    This is for libraries that start threads and open files, which `drop_system_calls` forbids. A forbidden system call
    fails with EPERM. Call this function before the first thread starts. Return None, or why it is not possible.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _install(_deny_filter)


def limit_resources(memory_bytes: int) -> None:
    """Limit the number of open files. Limit the address space to `memory_bytes`; `grant_memory` cannot exceed this.

    The process can then no longer enlarge a file, dump its core or fork.
    """
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 8),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def grant_memory(memory_bytes: int) -> None:
    """Let this process use `memory_bytes` of address space, but at most the limit that `limit_resources` set."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(memory_bytes, most), most))


def grant_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of processor time, and then die of SIGXCPU.

    The process may get up to one second more, because the kernel counts whole seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def drop_system_calls() -> str | None:
    """Allow only the system calls that are needed to compute and to use open pipes. Others fail with EPERM.

    From then on, this process cannot open a file (such as the SQLite ledger or the user's secrets) or a socket, start a
    program or a process, or map executable memory. It can change only two limits: the processor time, and the address
    space up to the limit of `limit_resources`.

    Return None, or why the filter could not be set. In that case only the limits of `limit_resources` hold.
    """
    return _install(_filter)


def _install(make: Callable[[str], list[tuple[int, int, int, int]]]) -> str | None:
    """Set the filter that `make` returns for this machine. Return None, or why it could not be set."""
    machine = platform.machine()
    if machine not in _MACHINES:
        return f"no filter is known for {machine}"
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in make(machine))
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _Program(len(program) // 8, program))
    except OSError as error:
        return f"the kernel refuses it ({error.strerror})"
    return None


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the BPF program as (code, jump if true, jump if false, operand). A jump is a number of instructions."""
    column = list(_MACHINES).index(machine)
    deny = (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _RET_ALLOW)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, _MACHINES[machine]), deny, (_LOAD, 0, 0, _NUMBER)]
    for numbers in _ALLOWED.values():
        program += [(_JUMP_EQUAL, 0, 1, numbers[column]), allow]
    for numbers in (_MMAP, _MPROTECT):
        protection = (_LOAD, 0, 0, _FIRST_ARGUMENT + 2 * 8)
        program += [(_JUMP_EQUAL, 0, 4, numbers[column]), protection, (_JUMP_ANY_BIT, 0, 1, _PROT_EXEC), deny, allow]
    own, what = (_LOAD, 0, 0, _FIRST_ARGUMENT), (_LOAD, 0, 0, _FIRST_ARGUMENT + 8)
    program += [(_JUMP_EQUAL, 0, 6, _PRLIMIT[column]), own, (_JUMP_EQUAL, 0, 4, 0), what]
    cpu, memory = int(resource.RLIMIT_CPU), int(resource.RLIMIT_AS)
    program += [(_JUMP_EQUAL, 1, 0, cpu), (_JUMP_EQUAL, 0, 1, memory), allow, deny]
    return program


def _deny_filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the BPF program of `forbid_effects`, in the form of `_filter`. It denies calls of the x32 variant too."""
    column = list(_MACHINES).index(machine)
    deny = (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _RET_ALLOW)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, _MACHINES[machine]), deny, (_LOAD, 0, 0, _NUMBER)]
    program += [(_JUMP_ANY_BIT, 0, 1, _X32), deny]
    for numbers in _FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            program += [(_JUMP_EQUAL, 0, 1, number), deny]
    for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
        if (number := numbers[column]) is not None:
            load = (_LOAD, 0, 0, _FIRST_ARGUMENT + flags * 8)
            program += [(_JUMP_EQUAL, 0, 4, number), load, (_JUMP_ANY_BIT, 0, 1, _WRITES), deny, allow]
    return [*program, allow]


def _prctl(option: int, *arguments: "int | _Program") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.byref(a) if isinstance(a, _Program) else ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0)]
    if libc.prctl(option, *padded[:4]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
