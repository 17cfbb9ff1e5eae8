"""What a stage tells while it runs: lines for people, nothing, or a JSON object a line for programs."""

import io
import json
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

from wsss.core.checks import ConfigError
from wsss.core.files import without_nan

WAIT = 2.0
"""What takes fewer seconds shows no progress."""


@dataclass(frozen=True)
class OutputOptions:
    """How much is told while it runs."""

    quiet: bool = False
    """Tell errors only; what was found is in the files, what failed in the exit code."""
    json: bool = False
    """Tell everything in JSON, one object a line on stdout: time, stage, event, and what the event is about."""

    def __post_init__(self) -> None:
        if self.quiet and self.json:
            raise ConfigError("--quiet and --json are two ways to tell things: pass one of them.")


class _Now:
    """What this process was asked to do."""

    options = OutputOptions()
    stage = "wsss"
    began = time.monotonic()


def tell_as(options: OutputOptions, stage: str) -> None:
    """Tell what follows as the options say, in the name of `stage`."""
    _Now.options, _Now.stage, _Now.began = options, stage, time.monotonic()


def flags() -> list[str]:
    """Return the words that make a stage called from this one tell things in the same way."""
    return [f"--{name}" for name in ("quiet", "json") if getattr(_Now.options, name)]


_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text in which characters that steer a terminal, from names of files say, stand as escapes."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def in_one_line(text: str) -> str:
    """Return `printable` text without line breaks."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def say(line: str, /, event: str = "message", **facts: Any) -> None:
    """Tell the user one thing (stdout, at once): a line, or an object with `facts` and the line as their `text`."""
    if _Now.options.json:
        record(event, **({"text": line} | facts))
    elif not _Now.options.quiet:
        print(printable(line), flush=True)


def record(event: str, **facts: Any) -> None:
    """Write one object with the event's facts, where JSON is asked for; figures that are no numbers become null."""
    if _Now.options.json:
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "stage": _Now.stage, "event": event}
        print(json.dumps(without_nan(head | facts), default=str), flush=True)


def record_end(code: int) -> None:
    """Write the last object: the exit code, and the seconds since the stage began."""
    record("end", code=code, seconds=round(time.monotonic() - _Now.began, 3))


def progress(items: Iterable[Any] | None, what: str, total: int | None = None, **more: Any) -> "tqdm[Any]":
    """Show progress with rate and ETA of what takes longer than two seconds.

    A bar on stderr; where stderr is no terminal, a line each 10 s; an object on stdout each 2 s for --json; nothing
    for --quiet. `more` goes to tqdm.
    """
    more = {"delay": WAIT, **more, "disable": more.get("disable", False) or _Now.options.quiet}
    if _Now.options.json:
        return _JsonBar(items, desc=what, total=total, mininterval=2.0, file=io.StringIO(), **more)
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(items, desc=what, total=total, mininterval=interval, dynamic_ncols=True, **more)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show how long the block has been at work: for one call of a library whose end cannot be foreseen."""
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
        """Write where it stands; tqdm asks for an empty text to wipe a bar away."""
        if msg is not None:
            return
        now = self.format_dict
        rate = now["rate"] or (now["n"] / now["elapsed"] if now["elapsed"] else 0.0)
        left = (self.total - now["n"]) / rate if self.total and rate else None
        facts = {"what": self.desc, "done": now["n"], "total": self.total, "seconds": round(now["elapsed"], 1)}
        record("progress", **facts, eta_seconds=None if left is None else round(left, 1))
