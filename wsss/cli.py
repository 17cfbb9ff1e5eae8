"""The commands: which options and which function each stage has, and how a command ends.

This is the only place that imports late: `--help` reads the options of one stage and nothing else.

Exit codes: 0 done; 1 done, but some images failed (they are listed), or a bug, with its traceback; 2 no image done, a
mistake the user can fix, a full disk or a killed worker; 130 interrupted by Ctrl-C; 143 ended by SIGTERM; 141 the
reader of its output has gone (`| head`). After 2, 130, 141 and 143 the same command goes on from what is done.
"""

import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from wsss.core import __version__
from wsss.core.checks import ConfigError, Terminated, UserError, check_choice, nearest, says_no_memory
from wsss.core.console import close_stdout, flush, in_one_line, record, record_end, say
from wsss.core.files import disk_errors
from wsss.options.command_line import EXIT_CODES, SHELLS, completion
from wsss.options.parsing import read_options

Main = Callable[[Sequence[str] | None], int]
"""A command: takes its words (None for those of the command line) and returns its exit code."""

STAGES = {
    "prepare": "images + labels -> a data set",
    "segment": "a data set -> its cells",
    "train": "a data set -> a trained run",
    "infer": "a run -> scores of every cell",
    "pseudo": "a run -> pseudo-masks for a U-Net",
    "evaluate": "scores -> figures",
    "overlay": "scores -> pictures",
    "report": "scores -> one HTML page",
    "review": "scores -> cells labelled by you in a browser, and what the scores are worth",
    "compare": "scores -> shares of cells per class and condition, with intervals",
    "export": "scores or a run -> the forms of other tools",
    "ensemble": "several scores -> one",
    "calibrate": "scores of unseen images -> curves that make scores mean what they say",
    "download": "IDs -> images of the public Atlas",
    "configs": "the recipes that come with it, each with a line",
    "doctor": "machine, data sets and runs -> what needs fixing",
    "demo": "all of it on fields drawn by code",
}
"""Every stage with its line in `wsss --help`. The stage NAME has its options in wsss.options.NAME (docstring, EXAMPLES,
OPTIONS, `read` where reading takes more than parsing, `check` where that is not all) and its function in
wsss.stages.NAME (`run`)."""

EXAMPLES = """\
examples:
  wsss demo                                    try it, with nothing else
  wsss doctor                                  is this machine fit for it?
  wsss prepare --images images --labels train.csv --out data/mine
  wsss segment --data data/mine
  wsss train --data data/mine --fold all --run runs/mine
  wsss infer --data data/mine --run runs/mine --out preds/mine --oof
  wsss report --preds preds/mine --maps --out mine.html
"""


LONGEST = 2000
"""Characters of an error that are shown, at most."""
PIPE_CLOSED = 128 + signal.SIGPIPE
"""Exit code where the reader of what is printed has gone, as of other programs."""


def options_of(name: str) -> ModuleType:
    """Return the module with the options of a stage."""
    return importlib.import_module(f"wsss.options.{name}")


def run_stage(name: str, words: Sequence[str] | None = None) -> int:
    """Read the options of a stage from words (those of the command line if None), run it, return its exit code."""
    module = options_of(name)
    options = read_options(name, module, words)
    if hasattr(module, "check"):  # what can be refused before the stage is imported, which takes seconds
        module.check(*options)
    code: int = importlib.import_module(f"wsss.stages.{name}").run(*options)
    return code


def command(name: str) -> Main:
    """Return the command of a stage: a function of its words."""
    return partial(run_stage, name)


def stages(argv: Sequence[str] | None = None) -> int:
    """Run the stage named by the first word: `wsss STAGE ...`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        say("usage: wsss STAGE [options]     (wsss STAGE --help shows them; --quiet and --json go with all)\n")
        for name, about in STAGES.items():
            say(f"  {name:10} {about}")
        say(f"\n{EXAMPLES}\n{EXIT_CODES}")
        return 0
    if words[0] == "--version":
        say(f"wsss {__version__}")
        return 0
    if words[0] == "--completion":
        shell = words[1] if len(words) > 1 else ""
        check_choice("--completion", shell, SHELLS)
        say(completion(shell, STAGES, options_of))
        return 0
    if words[0] not in STAGES:
        raise ConfigError(f"there is no stage '{words[0]}', expected {', '.join(STAGES)}.{nearest(words[0], STAGES)}")
    return run_stage(words[0], words[1:])


def main() -> None:
    """Entry point of the `wsss` script."""
    run(stages)


def run(main: Main, argv: Sequence[str] | None = None) -> NoReturn:
    """Call a stage's `main` and exit with its code; a UserError becomes one line on stderr and exit code 2."""
    before = signal.signal(signal.SIGTERM, _terminate)
    _open_streams()
    try:
        with disk_errors():
            code = main(argv)
        flush()
    except UserError as error:
        code = _refused(error)
    except (MemoryError, ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError) and not says_no_memory(reason):
            raise
        code = _refused(
            UserError(
                f"no memory is left{f' ({reason})' if reason else ''}: free some, raise its limit (ulimit -v), or use "
                "fewer --workers or a smaller --batch; then start the same command again."
            )
        )
    except KeyboardInterrupt as error:
        print("interrupted: start the same command again to go on from here.", file=sys.stderr)
        code = 143 if isinstance(error, Terminated) else 130
    except BrokenPipeError:
        close_stdout()
        code = PIPE_CLOSED
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        record_end(code or 0)
    except BrokenPipeError:
        close_stdout()
    except UserError as error:
        code = _refused(error)
    sys.exit(code or 0)


def _refused(error: UserError) -> int:
    """Print a mistake, or what cannot be written; return the exit code."""
    text = in_one_line(str(error))
    print(f"error: {text if len(text) <= LONGEST else f'{text[:LONGEST]} ...'}", file=sys.stderr)
    try:
        record("error", text=str(error))
    except (BrokenPipeError, UserError):
        close_stdout()
    return 2


class _Stderr(io.FileIO):
    """The standard error: what cannot be written there is left out."""

    def write(self, content: Any, /) -> int:
        with suppress(OSError):
            super().write(content)
        return len(content)


def _open_streams() -> None:
    """Let nothing that is printed end a command: names that the terminal cannot show, a stream that is closed.

    A closed one is replaced by the null device, or the next file that is opened would be taken for it.
    """
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(_Stderr(2, "w", closefd=False), sys.stderr.encoding, write_through=True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 (as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _terminate(number: int, frame: object) -> None:
    raise Terminated
