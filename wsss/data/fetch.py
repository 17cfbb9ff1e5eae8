"""Fetch files from servers, politely: a limited rate, retries, each file whole or not at all."""

import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar, cast

from wsss.core.checks import DataError
from wsss.core.files import write_bytes
from wsss.core.rasters import open_raster
from wsss.core.reading import read_bytes

A = TypeVar("A")
T = TypeVar("T")

LARGEST = 1 << 28
"""Bytes of the largest picture that is taken."""
LARGEST_FILE = 1 << 32
"""Bytes of the largest other file."""
LONGEST_WAIT = 60.0
"""Longest wait between two tries, in seconds."""


class FetchError(Exception):
    """A file could not be fetched; trying again will not help, or has not."""


class _TryAgain(Exception):
    """This try failed; a later one may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Manners:
    """How a server is treated."""

    agent: str
    """User-Agent: who we are."""
    retries: int = 4
    """Further tries after a failure that may pass."""
    timeout: float = 30.0
    """Seconds without an answer after which a try has failed."""
    deadline: float = 300.0
    """Seconds a try may take in all, however busy it seems."""
    backoff: float = 1.0
    """Seconds before the second try; doubled with each one after."""


class Rate:
    """Limits how many calls start per second, over all threads; once stopped, none starts any more."""

    def __init__(self, per_second: float) -> None:
        self._gap, self._next, self._lock = 1 / per_second, 0.0, threading.Lock()
        self.stopped = threading.Event()

    def wait(self) -> None:
        """Return when the next call may begin.

        Raises:
            FetchError: none may.
        """
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        self.pause(begin - now)

    def pause(self, seconds: float) -> None:
        """Wait so long; see `wait`."""
        if self.stopped.wait(max(0.0, seconds)):
            raise FetchError("the download was interrupted")


def in_threads(work: Callable[[A], T], items: Sequence[A], count: int, rate: Rate) -> Generator[T]:
    """Yield what `work` returns for each item, as it comes, by `count` threads.

    Where this is closed early, as by Ctrl-C, the rate is stopped, and nobody waits for threads whose server is slow.
    """
    todo: queue.SimpleQueue[A] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def run() -> None:
        with suppress(queue.Empty):
            while not rate.stopped.is_set():
                item = todo.get_nowait()
                try:
                    done.put((work(item), None))
                except BaseException as error:
                    done.put((None, error))

    for item in items:
        todo.put(item)
    try:
        for _ in range(min(count, len(items))):
            threading.Thread(target=run, daemon=True).start()
        for _ in items:
            result, error = done.get()
            if error is not None:
                raise error
            yield cast(T, result)
    finally:
        rate.stopped.set()


def fetch(url: str, path: Path, manners: Manners, rate: Rate) -> tuple[int, int]:
    """Fetch a picture to `path`, which appears only once it has arrived whole and been decoded; return its (H, W).

    A file that is there already was written so, and is only looked at. Wrong addresses and files that are no pictures
    fail at once; broken connections, slow answers, files cut short, and a server's own troubles are tried again.

    Raises:
        FetchError: why the file is not to be had.
    """
    if path.exists():
        try:
            return picture_size(read_bytes(path, LARGEST, "a picture"))
        except FetchError:
            path.unlink()  # not by our doing; fetch it again
    return _persist(lambda: _save_picture(url, path, manners), manners, rate)


def _save_picture(url: str, path: Path, manners: Manners) -> tuple[int, int]:
    content = _get(url, manners)
    size = picture_size(content)
    write_bytes(path, content)
    return size


def fetch_file(url: str, path: Path, manners: Manners) -> None:
    """Fetch a file of any kind to `path`, which appears only once it has arrived whole; one that is there is kept.

    Raises:
        FetchError: why it is not to be had.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _persist(lambda: write_bytes(path, _get(url, manners, kind="", largest=LARGEST_FILE)), manners, Rate(1))


def _persist(call: Callable[[], T], manners: Manners, rate: Rate) -> T:
    """Return what `call` returns, tried again as the manners say."""
    for attempt in range(manners.retries + 1):
        rate.wait()
        try:
            return call()
        except _TryAgain as error:
            if attempt == manners.retries:
                raise FetchError(f"{error} (after {attempt + 1} tries)") from error
            rate.pause(min(LONGEST_WAIT, max(error.wait, manners.backoff * 2**attempt)))
    raise AssertionError("unreachable")


def _get(url: str, manners: Manners, *, kind: str = "image", largest: int = LARGEST) -> bytes:
    """Return the content of an address, a picture's unless `kind` is empty, checked against its announced length."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": manners.agent, "Accept": f"{kind or '*'}/*"})
    except ValueError as error:
        raise FetchError(f"the address is not one ({error})") from error
    end = time.monotonic() + manners.deadline
    try:
        with urllib.request.urlopen(request, timeout=manners.timeout) as answer:
            sent = answer.headers.get_content_type()
            if kind and not sent.startswith(f"{kind}/"):
                raise FetchError(f"the server sent {sent}, expected a picture")
            content = _read(answer, end, largest)
            length = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        reason = f"the server says {error.code} {error.reason}"
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _TryAgain(reason, _retry_after(error.headers)) from error
        raise FetchError(reason) from error
    except (InvalidURL, UnicodeError) as error:  # an address, or one that the server sends us on to, that is none
        raise FetchError(f"the address is not one ({' '.join(str(error).split())[:120]})") from error
    except ValueError as error:  # headers of the answer that are no numbers
        raise FetchError(f"the server's answer cannot be read ({' '.join(str(error).split())[:120]})") from error
    except (HTTPException, OSError) as error:  # broken, refused or timed-out connections
        raise _TryAgain(f"the connection failed ({' '.join(str(error).split()) or type(error).__name__})") from error
    if length is not None and re.fullmatch(r"[0-9]{1,18}", length) and len(content) != int(length):
        raise _TryAgain(f"{len(content)} of {length} bytes came")
    return content


def _read(answer: BufferedIOBase, end: float, largest: int) -> bytes:
    parts, total = [], 0
    while part := answer.read1(1 << 16):
        parts.append(part)
        total += len(part)
        if total > largest:
            raise FetchError(f"the file is larger than {largest} bytes")
        if time.monotonic() > end:
            raise _TryAgain(f"only {total} bytes came in time")
    return b"".join(parts)


def _retry_after(headers: Message) -> float:
    """Return the seconds after which a server wants to be asked again (Retry-After)."""
    text = headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return 0.0


def picture_size(content: bytes) -> tuple[int, int]:
    """Decode a JPEG, PNG or TIFF to the end and return its (H, W).

    Raises:
        FetchError: it is none, or damaged.
    """
    try:
        with open_raster(content, where="what came") as raster:
            pixels = raster.shown()
    except DataError as error:
        raise FetchError(f"what came is no picture or damaged ({str(error)[:120]})") from error
    return pixels.shape[0], pixels.shape[1]
