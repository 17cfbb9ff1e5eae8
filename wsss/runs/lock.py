"""The lock of a folder: it names its holder, and the kernel ends it with the holder's process."""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.files import disk_errors, remove_parts
from wsss.core.reading import check_no_link, parse_json

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()


@contextmanager
def hold(folder: Path, *inside: str, lock: str = LOCK, clean: bool = True) -> Iterator[None]:
    """Keep other runs out of `folder` for the duration of the block, and remove what killed writers left there.

    The lock is an flock of `folder/.lock`: it ends with the process that holds it, however that ends, so none is ever
    stale. The file names its holder for others. On a disk without locks the run continues without
    one and prints a note.

    Args:
        folder: made if missing, and removed again if it is still empty in the end.
        inside: sub-folders that the run writes to.
        lock: name of the lock's file; runs that may work side by side have different ones.
        clean: whether to remove leftovers; False for a user's folder in which only one file is locked.

    Raises:
        ConfigError: another run holds it; the text names its process, host and start.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(folder, lock)
    try:
        if handle is not None and clean:
            for place in (folder, *(folder / name for name in inside)):
                remove_parts(place)
        yield
    finally:
        if handle is not None:
            (folder / lock).unlink(missing_ok=True)  # before it is let go: a new lock is then a new file
            _held.discard(handle)
            os.close(handle)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path, name: str) -> int | None:
    """Return the handle of the locked file, or None where there are no locks."""
    path = folder / name
    while True:
        check_no_link(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # less the umask
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in _NO_LOCKS:
                say(f"note: {folder} is on a disk without locks: start no second run into it.")
                return None
            if not isinstance(error, BlockingIOError):
                raise
            raise ConfigError(
                f"{folder} is in use by {holder}: wait until it is done, end it, or choose another folder."
            ) from None
        if _is_at(handle, path):
            break
        os.close(handle)  # its holder removed it between our open and our lock
    _held.add(handle)
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with disk_errors(path):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(entry | {"command": " ".join(sys.argv)[:500]}).encode(), 0)
    return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Return who holds a lock, from its file."""
    for _ in range(5):
        try:
            entry = parse_json(os.pread(handle, 4096, 0), LOCK)
            return f"process {entry['pid']} on {entry['host']} since {entry['since']} ({entry['command']})"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.1)  # it has the lock, but has not written its entry yet
    return "another process"


def _let_go() -> None:
    """Close the copies of the handles that a forked child got: they would keep the lock after its holder's death."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
