"""Run Python code of the tests inside another network namespace, where 127.0.0.1 is that machine's.

A thread may have a network namespace of its own (setns(2) works per thread), and a socket stays in the
namespace in which it was opened. So no helper process is needed: `inside(pid, work)` runs `work` in a thread
that entered the namespace first.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


def inside(pid: int, work: Callable[[], T], *, timeout: float = 300) -> T:
    """What `work()` returns, run in the network namespace of process `pid`; its exception is raised here."""
    return start_inside(pid, work).result(timeout)


def start_inside(pid: int, work: Callable[[], T]) -> Future[T]:
    """Like `inside`, without waiting: for work that goes on while the test does something else."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            _enter_network_of(pid)
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"inside-{pid}", daemon=True).start()
    return future


def _enter_network_of(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(namespace, CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter the network of process {pid}: {os.strerror(code)}")
    finally:
        os.close(namespace)
