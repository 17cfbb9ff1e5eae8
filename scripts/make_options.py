"""Write docs/options.md, the reference of all options, from the code: python scripts/make_options.py [--out FILE].

A test holds that the file is current.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsss import cli
from wsss.cli import STAGES
from wsss.options.parsing import parser_of

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# All options

Made from the code by `python scripts/make_options.py`; `python -m wsss.STAGE --help` tells the same. Every option is a
flag and a key of the YAML file given with `--config`; flags override the file. A dot goes one level down:
`--optim.lr 1e-4` is `optim: {lr: 1e-4}`. Switches may stand alone: `--oof` is `--oof true`.

`--quiet` (errors only) and `--json` go with every stage. With `--json` each line of stdout is an object with `time`,
`stage` and `event`: `message` (text), `progress` (what, done, total, seconds, eta_seconds), `epoch` (the row of its
log.csv), `finding` (of the doctor: level, topic, text), `error` (text), and at last `end` (code, seconds).
"""
TABLE = "| option | default | what it does |\n|---|---|---|"
BAR = "\\|"


def options_of(parser: Any) -> Iterator[tuple[str, str, str]]:
    """Yield flag, default and help of every option; groups of options are told by their members."""
    dests = {action.dest for action in parser._actions}
    for action in parser._actions:
        group = any(other.startswith(f"{action.dest}.") for other in dests)
        if action.dest in ("help", "config", "print_config", "quiet", "json") or group or not action.option_strings:
            continue
        yield action.option_strings[-1], _default(action), " ".join((action.help or "").split())


def _default(action: Any) -> str:
    if action.required:
        return "needed"
    value = action.default
    if value is None or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def page() -> str:
    """Return the text of docs/options.md."""
    parts = [HEAD]
    for stage, about in STAGES.items():
        rows = [
            f"| `{flag}` | {default} | {text.replace('|', BAR)} |"
            for flag, default, text in options_of(parser_of(stage, cli.options_of(stage)))
        ]
        parts.append("\n".join([f"## {stage}\n\n{about}\n", TABLE, *rows, ""]))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "options.md")
    parser.parse_args().out.write_text(page())


if __name__ == "__main__":
    main()
