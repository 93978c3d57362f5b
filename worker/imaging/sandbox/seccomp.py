"""Takes from a decoding process, before it sees a submitted byte: memory, time, files, the network, new processes.

Linux, through `prctl` and a seccomp filter of our own (seccomp(2), Documentation/userspace-api/seccomp_filter.rst).
Libraries are not used: `pyseccomp` needs a libseccomp of the system, and bubblewrap and nsjail are programs that need
user namespaces, which containers often forbid. This needs neither root nor anything but pip.
"""

import ctypes
import errno
import os
import platform
import resource
import struct

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_SECCOMP_MODE_FILTER = 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld abs, jeq, jset, ret
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, low words first
_PROT_EXEC = 4

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


def limit_resources(memory_bytes: int) -> None:
    """Bound address space; no file may grow, no core be dumped, no process be forked, few files be opened."""
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


def grant_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of processor time (up to one more, the kernel counts whole ones), then die
    of SIGXCPU."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def drop_system_calls() -> str | None:
    """Allow from here on only what computing over pipes takes; any other system call fails with EPERM.

    So no file can be opened (the SQLite ledger and the secrets of this user included), no socket, no program or process
    started, no code mapped; of the limits only the processor time can be moved. Returns None, or why the filter could
    not be set: the limits of `limit_resources` then stand alone.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        return f"no filter is known for {machine}"
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in _filter(machine))
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
    """Return the BPF program as (code, jump if true, jump if false, operand); jumps count instructions to skip."""
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
    program += [(_JUMP_EQUAL, 0, 5, _PRLIMIT[column]), own, (_JUMP_EQUAL, 0, 3, 0)]
    program += [what, (_JUMP_EQUAL, 0, 1, int(resource.RLIMIT_CPU)), allow, deny]
    return program


def _prctl(option: int, *arguments: "int | _Program") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.byref(a) if isinstance(a, _Program) else ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0)]
    if libc.prctl(option, *padded[:4]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
