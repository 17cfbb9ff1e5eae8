"""Compare ways from image labels to cell labels on fields whose true cells are known, and print one table.

    python scripts/bench_labels.py --quick                            a sanity run on drawn fields, minutes
    python scripts/bench_labels.py --cells CELLS --seeds 0 1 2        all methods on fields composed from cells
    python scripts/bench_labels.py --cells CELLS --natural            the same where cells may show several classes
    python scripts/bench_labels.py --train fields/train --sets val=fields/val hard=fields/hard --methods recipe composed

Each method of label_bench/methods.py is trained, inferred and evaluated with every seed; methods that differ in
inference only share a training. Every job that is complete is skipped when the same command starts again, and a killed
one goes on. OUT gets table.md, table.csv and runs.csv (a row a method, set and seed), renewed after every row.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from label_bench.methods import METHODS, Method

from wsss import cli
from wsss.core.checks import ConfigError, UserError, nearest
from wsss.core.console import say
from wsss.core.files import read_json, write_json
from wsss.core.runtime import cores
from wsss.models.device import keep_freed_memory

if TYPE_CHECKING:  # worker processes import this file too: they need none of it
    from label_bench.fields import FieldSet
    from label_bench.jobs import Bench

QUICK = "--backbone test_resnet --weights none --crop 64 --batch 8"


def main() -> int:
    options = _options()
    if options.list:
        for method in METHODS:
            say(f"{method.group:12} {method.name:34} {method.about}")
        return 0
    methods = choose(options.methods)

    from label_bench.fields import find_fields
    from label_bench.jobs import Bench
    from label_bench.table import write_table

    keep_freed_memory()
    check_same(options)
    train, sets = find_fields(options)
    flags = f"{QUICK if options.quick else ''} {options.flags}"
    bench = Bench(options.out, train, options.size, flags, options.epochs, options.minutes)
    rows, failed = run(bench, methods, sets, options)
    if rows:
        say("\n" + write_table(options.out, rows, _about(options)))
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-labels"), help="folder for all that is made")
    parser.add_argument("--cells", type=Path, help="single cells to compose fields from, as for compose_cells.py")
    parser.add_argument("--natural", action="store_true", help="compose cells of several classes; no hard fields")
    parser.add_argument("--train", type=Path, help="fields to learn from, made by compose_cells.py or alike")
    parser.add_argument("--sets", nargs="+", default=[], help="fields to measure on, NAME=FOLDER")
    parser.add_argument("--methods", nargs="+", default=[], help="names or groups of methods (--list); default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="epochs of Puzzle-CAM; cheaper methods get more (default 9)")
    parser.add_argument("--minutes", type=float, help="time for each training instead: as many epochs as fit, measured")
    parser.add_argument("--size", type=int, help="edge of the stored images (default 512)")
    parser.add_argument("--flags", default="", help="more flags for every training, such as '--batch 8'")
    parser.add_argument("--quick", action="store_true", help="24 small fields, a tiny network, one epoch")
    parser.add_argument("--list", action="store_true", help="list the methods and do nothing")
    options = parser.parse_args()
    options.epochs = options.epochs or (1 if options.quick else 9)
    options.size = options.size or (128 if options.quick else 512)
    return options


def check_same(options: argparse.Namespace) -> None:
    """Refuse to mix trainings of other fields or budgets in one folder; methods, seeds and sets may come later.

    Raises:
        ConfigError: the folder was begun with other options.
    """
    now = {
        name: str(getattr(options, name))
        for name in ("train", "cells", "natural", "size", "epochs", "minutes", "flags", "quick")
    }
    path = options.out / "options.json"
    if not path.exists():
        write_json(path, now)
    known = read_json(path)
    for name, value in now.items():
        if known.get(name) != value:
            raise ConfigError(
                f"{options.out} was begun with --{name} {known.get(name)}, not {value}: choose another --out."
            )


def choose(wanted: list[str]) -> list[Method]:
    """Return the methods of these names and groups, in the order of the table; all if none is wanted.

    Raises:
        ConfigError: there is no such name.
    """
    known = {method.name for method in METHODS} | {method.group for method in METHODS}
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--methods has '{name}', which is no method or group.{nearest(name, known)} See --list.")
    return [method for method in METHODS if not wanted or method.name in wanted or method.group in wanted]


def run(
    bench: "Bench", methods: list[Method], sets: "list[FieldSet]", options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[str]]:
    """Do all rows, seed after seed, so that one seed of everything is there early; return them and what failed."""
    from label_bench.table import figures, write_table

    rows, failed = [], []
    for seed in options.seeds:
        for method in methods:
            if method.blend and method.blend.seeds and (seed != options.seeds[-1] or len(options.seeds) < 2):
                continue
            for fields in sets:
                try:
                    report = bench.report(method, fields, seed, options.seeds)
                except UserError as error:  # the other methods do not need this one
                    failed.append(f"{method.name}, {fields.name}, seed {seed}: {error}")
                    say(failed[-1])
                    continue
                row = {"method": method.name, "about": method.about, "set": fields.name, "seed": seed}
                rows.append(row | bench.seconds(method, fields, seed) | figures(report))
            if rows:
                write_table(options.out, rows, _about(options))
    return rows, failed


def _about(options: argparse.Namespace) -> str:
    budget = f"{options.minutes:g} minutes each" if options.minutes else f"{options.epochs} epochs of Puzzle-CAM each"
    seeds = ", ".join(map(str, options.seeds))
    return f"Trainings of {budget}, seeds {seeds}, images of {options.size} px, {cores()} cores."


if __name__ == "__main__":
    cli.run(lambda _: main())
