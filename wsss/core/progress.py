"""Progress of what takes longer than two seconds: a bar for people, nothing, or JSON objects for programs."""

import io
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from wsss.core.console import asked, record

WAIT = 2.0
"""What takes fewer seconds shows no progress."""


def progress(items: Iterable[Any] | None, what: str, total: int | None = None, **more: Any) -> "tqdm[Any]":
    """Show progress with rate and ETA of what takes longer than two seconds.

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
        fields = {"what": self.desc, "done": now["n"], "total": self.total, "seconds": round(now["elapsed"], 1)}
        record("progress", **fields, eta_seconds=None if left is None else round(left, 1))
