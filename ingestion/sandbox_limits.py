"""What a process that reads untrusted files may not do. Applied by the worker to itself, needs no privileges; Linux.

Limits of the kernel where it has them (memory, CPU time, file size, core dumps, system calls), and an audit hook of
the interpreter, which gives a readable error, in front of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

from serving.errors import DocumentError

_NICE = 5
#: What a worker may write in all, bytes: its own error messages.
_MAX_WRITTEN = 1024**2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY = Path("/proc/self/statm")
_FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.spawn",
    "os.system",
    "os.truncate",
    "pty.spawn",
    "socket.__new__",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
)

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# prctl(2), seccomp(2): constants of <linux/prctl.h>, <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>.
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000
#: Per machine: its audit number, and the numbers of clone, clone3 and of the calls that are refused: socket, connect,
#: fork, vfork, execve, execveat, ptrace, process_vm_writev, kill, unlink(at), rename(at, at2), io_uring_setup.
_CALLS = {
    "x86_64": (0xC000003E, 56, 435, (41, 42, 57, 58, 59, 322, 101, 311, 62, 87, 263, 82, 264, 316, 425)),
    "aarch64": (0xC00000B7, 220, 435, (198, 203, 221, 281, 117, 271, 129, 35, 38, 276, 425)),
}


def bind_to_parent(parent: int) -> None:
    """Ends with its parent (however that ends), does not compete with it, and leaves no core dump."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be bound to
        os._exit(1)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_WRITTEN, _MAX_WRITTEN))


def confine() -> None:
    """From here on: no sockets, no other programs, no child processes, nothing written or removed."""
    sys.addaudithook(_audit)
    _filter_calls()


def limit_memory(more: int) -> None:
    """The process may take `more` bytes than it has now; what goes beyond fails inside of it."""
    taken = data_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if taken:
        resource.setrlimit(resource.RLIMIT_DATA, (taken + more, hard))


def lift_memory_limit() -> None:
    """Room to report that there was no room."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def limit_cpu(seconds: float) -> None:
    """The process ends (SIGPROF) when it has used so much CPU time from now on; 0 takes the limit away.

    CPU time, because a busy machine must not make a file fail that an idle one can read.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)


def data_bytes() -> int:
    """Private memory the process has asked for; 0 where the kernel does not say."""
    return _statm(5)


def resident_bytes() -> int:
    """Memory the process occupies; 0 where the kernel does not say."""
    return _statm(1)


def _statm(field: int) -> int:
    try:
        return int(_MEMORY.read_text().split()[field]) * _PAGE
    except OSError:
        return 0


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN or (event == "open" and arguments[2] & _WRITING):
        raise DocumentError(f"its parser tried what it may not do ({event})")


def _prctl(option: int, value: int, pointer: Any = None) -> bool:
    done = ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), pointer, 0, 0)
    return bool(done == 0)


def _filter_calls() -> None:
    """A seccomp filter, as a BPF program; where the kernel or the machine knows none, the audit hook remains."""
    if platform.machine() not in _CALLS:
        return
    program = _program(*_CALLS[platform.machine()])
    code = ctypes.create_string_buffer(b"".join(program), len(program) * 8)
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1):
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog)


def _program(architecture: int, clone: int, clone3: int, refused: tuple[int, ...]) -> list[bytes]:
    """Refused calls fail with EPERM; clone makes threads only, and so does clone3, for which libc then uses clone."""
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _EPERM),
        _step(_LOAD, _NUMBER),
        _step(_EQUAL, clone3, 0, 1),
        _step(_RETURN, _ENOSYS),
    ]
    for number in refused:
        program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _EPERM)]
    return [
        *program,
        _step(_EQUAL, clone, 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, _EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _step(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
