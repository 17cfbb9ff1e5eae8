"""What a stage prints while it runs, progress too: lines for people, nothing, or one JSON object per line."""

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

from wsss.core.checks import ConfigError, DiskError
from wsss.core.files import without_nan


@dataclass(frozen=True)
class OutputOptions:
    """How much a stage prints while it runs."""

    quiet: bool = False
    """Print errors only; results are in the files, failures in the exit code."""
    json: bool = False
    """Print everything as JSON, one object per line on stdout: time, stage, event and its details."""

    def __post_init__(self) -> None:
        if self.quiet and self.json:
            raise ConfigError("--quiet and --json exclude each other: pass one of them.")


class _Now:
    """The output options of this process."""

    options = OutputOptions()
    stage = "wsss"
    began = time.monotonic()


def set_output(options: OutputOptions, stage: str) -> None:
    """Print from now on as the options say, in the name of `stage`."""
    _Now.options, _Now.stage, _Now.began = options, stage, time.monotonic()


def asked() -> OutputOptions:
    """Return the output options of this process."""
    return _Now.options


def flags() -> list[str]:
    """Return the flags that make a stage called from this one print in the same way."""
    return [f"--{name}" for name in ("quiet", "json") if getattr(_Now.options, name)]


_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text with control characters, which may come from file names, replaced by escapes."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def in_one_line(text: str) -> str:
    """Return `printable` text without line breaks."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def say_notes(notes: Iterable[str]) -> None:
    """Print what the user should know, a line each."""
    for note in notes:
        say(f"note: {note}")


def say(line: str, /, event: str = "message", **fields: Any) -> None:
    """Print one message (stdout, at once): a line, or an object with `fields` and the line as its `text`."""
    if _Now.options.json:
        record(event, **({"text": line} | fields))
    elif not _Now.options.quiet:
        _print(printable(line))


def _print(line: str) -> None:
    with _printing():
        print(line, flush=True)


@contextmanager
def _printing() -> Iterator[None]:
    """End with one line if stdout cannot be written, and write nothing more to it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        close_stdout()
        raise DiskError(
            f"stdout cannot be written ({error.strerror}): let what is printed go elsewhere, or pass --quiet. What was "
            "done is kept: start the same command again."
        ) from error


def close_stdout() -> None:
    """Let what is still printed, at the end of the process too, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush() -> None:
    """Write what other packages have printed.

    Raises:
        DiskError: stdout cannot be written.
    """
    with _printing():
        sys.stdout.flush()


def record(event: str, **fields: Any) -> None:
    """Write one object with the event's fields if --json is set; NaN and infinity become null."""
    if _Now.options.json:
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "stage": _Now.stage, "event": event}
        _print(json.dumps(without_nan(head | fields), default=str))


def record_end(code: int) -> None:
    """Write the last object: the exit code, and the seconds since the stage began."""
    record("end", code=code, seconds=round(time.monotonic() - _Now.began, 3))


WAIT = 2.0
"""Shorter tasks show no progress."""


def progress(items: Iterable[Any] | None, what: str, total: int | None = None, **more: Any) -> "tqdm[Any]":
    """Show progress, with rate and ETA, of tasks that take longer than two seconds.

    A bar on stderr; where stderr is no terminal, a line each 10 s; an object on stdout each 2 s for --json; nothing
    for --quiet. `more` goes to tqdm.
    """
    more = {"delay": WAIT, **more, "disable": more.get("disable", False) or asked().quiet}
    if asked().json:
        return _JsonBar(items, desc=what, total=total, mininterval=2.0, file=io.StringIO(), **more)
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(items, desc=what, total=total, mininterval=interval, dynamic_ncols=True, **more)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show how long the block has been running: for a library call whose duration is unknown."""
    over = threading.Event()
    interval = 1.0 if sys.stderr.isatty() else 10.0

    def tick() -> None:
        pause = WAIT
        while not over.wait(pause):
            bar.refresh()
            pause = interval

    with progress(None, what, bar_format="{desc}: {elapsed}", leave=False) as bar:
        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class _JsonBar(tqdm):
    """Progress as objects."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the progress; tqdm passes an empty text to clear the bar."""
        if msg is not None:
            return
        now = self.format_dict
        rate = now["rate"] or (now["n"] / now["elapsed"] if now["elapsed"] else 0.0)
        left = (self.total - now["n"]) / rate if self.total and rate else None
        fields = {"what": self.desc, "done": now["n"], "total": self.total, "seconds": round(now["elapsed"], 1)}
        record("progress", **fields, eta_seconds=None if left is None else round(left, 1))
