"""What a stage tells while it runs: lines for people, nothing, or a JSON object a line for programs."""

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wsss.core.checks import ConfigError
from wsss.core.files import without_nan


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


def asked() -> OutputOptions:
    """Return how much this process was asked to tell."""
    return _Now.options


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
