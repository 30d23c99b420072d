"""Work on many things, each in a process of its own with a limit on its time and memory.

The parent imports what all need and then forks, so that a child starts in milliseconds. Torch has to run in one thread there: others
would not survive a fork.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A process that gave no result: `why` it ended."""

    why: str


def forked(todo: Sequence[str], work: Callable[[str], Any], jobs: int, seconds: int, gigabytes: int) -> Iterator[tuple[str, Any]]:
    """The result of `work` on each thing as it comes, or `Ended`; `jobs` at a time."""
    running: dict[int, tuple[str, int]] = {}
    queue = list(reversed(todo))

    def fill() -> None:
        while queue and len(running) < jobs:
            name = queue.pop()
            child, reader = _fork(name, work, seconds, gigabytes)
            running[child] = name, reader

    try:
        fill()
        while running:
            child, status = os.wait()
            if child in running:
                name, reader = running.pop(child)
                fill()  # before whoever asked is busy with the result
                yield name, _result(reader, status, seconds)
    finally:
        for child in running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fork(name: str, work: Callable[[str], Any], seconds: int, gigabytes: int) -> tuple[int, int]:
    """A process at work, and the file that its result goes to (a pipe would fill up)."""
    file = os.memfd_create("result")
    child = os.fork()
    if child:
        return child, file
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.alarm(seconds)  # ends the process by default
        gc.disable()  # a tenth of the time of a trace, and the process is gone before its memory matters
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.write(file, pickle.dumps(work(name)))
        status = 0
    finally:
        os._exit(status)


def _result(file: int, status: int, seconds: int) -> Any:
    with os.fdopen(file, "rb") as result:
        result.seek(0)
        data = result.read()
    if data:
        return pickle.loads(data)
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) == signal.SIGALRM
        return Ended(f"it took more than {seconds} s" if late else f"it died of signal {os.WTERMSIG(status)}")
    return Ended("it ended without a result (out of memory?)")
