"""Write docs/options.md, the reference of all options, from the code: python scripts/make_options.py [--out FILE].

A test holds that the file is current.
"""

import argparse
from pathlib import Path
from typing import Any

from wsss import cli
from wsss.cli import STAGES
from wsss.options.command_line import default_text, options_of, parser_of

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# All options

Made from the code by `python scripts/make_options.py`; `python -m wsss.STAGE --help` shows the same. Every option is a
flag and a key of the YAML file given with `--config`; flags override the file. A dot goes one level down:
`--optim.lr 1e-4` is `optim: {lr: 1e-4}`. Switches may stand alone: `--oof` is `--oof true`.

`--quiet` (errors only) and `--json` go with every stage. With `--json` each line of stdout is an object with `time`,
`stage` and `event`: `message` (text), `progress` (what, done, total, seconds, eta_seconds), `epoch` (the row of its
log.csv), `finding` (of the doctor: level, topic, text), `error` (text), and at last `end` (code, seconds).
"""
TABLE = "| option | default | what it does |\n|---|---|---|"
BAR = "\\|"


def rows_of(parser: Any) -> dict[str, str]:
    """Return the row of every option by its flag."""
    rows = {}
    for action in options_of(parser):
        if action.dest not in ("quiet", "json"):
            default = "needed" if action.required else default_text(action) and f"`{default_text(action)}`"
            text = " ".join((action.help or "").split()).replace("|", BAR)
            rows[f"--{action.dest}"] = f"| `--{action.dest}` | {default} | {text} |"
    return rows


def tables(stage: str) -> list[str]:
    """Return the table of a stage; of one with tasks, that of all tasks and of each what it has beside."""
    module = cli.options_of(stage)
    if not hasattr(module, "TASKS"):
        return [TABLE, *rows_of(parser_of(stage, module)).values(), ""]
    of_task = {task: rows_of(parser_of(stage, module, task)) for task in module.TASKS}
    common = set.intersection(*map(set, of_task.values()))
    first = next(iter(of_task.values()))
    lines = [TABLE, *(row for flag, row in first.items() if flag in common), ""]
    for task, rows in of_task.items():
        lines += [f"### {stage} --task {task}\n", TABLE, *(r for flag, r in rows.items() if flag not in common), ""]
    return lines


def page() -> str:
    """Return the text of docs/options.md."""
    parts = [HEAD]
    for stage, about in STAGES.items():
        parts.append("\n".join([f"## {stage}\n\n{about}\n", *tables(stage)]))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "options.md")
    parser.parse_args().out.write_text(page())


if __name__ == "__main__":
    main()
