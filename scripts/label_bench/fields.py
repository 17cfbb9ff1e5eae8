"""The fields that methods learn from and are measured on: given, composed from single cells, or drawn."""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from wsss.core.checks import ConfigError, DataError
from wsss.data.synthetic import Look, write_fields

COMPOSE = Path(__file__).resolve().parents[1] / "compose_cells.py"
FILES = ("images", "masks", "train.csv", "cells_truth.csv")


@dataclass(frozen=True)
class FieldSet:
    """A folder of fields: images/, masks/, train.csv and cells_truth.csv."""

    name: str
    folder: Path

    @property
    def truth(self) -> Path:
        """True classes of every cell."""
        return self.folder / "cells_truth.csv"

    @property
    def labels(self) -> Path:
        """Labels of every image."""
        return self.folder / "train.csv"


def find_fields(options: argparse.Namespace) -> tuple[FieldSet, list[FieldSet]]:
    """Return the fields to learn from and those to measure on, made where they are not given.

    Raises:
        ConfigError: a set is misspelt or named twice, only one side is given, or --natural has no cells.
        DataError: a given folder lacks a part.
    """
    if bool(options.train) != bool(options.sets):
        raise ConfigError("--train and --sets belong together: give both, or neither and --cells.")
    if options.train:
        sets = [_given(*_split(text)) for text in options.sets]
        if len({one.name for one in sets} | {"train"}) <= len(sets):
            raise ConfigError("--sets names a set twice, or 'train': choose other names.")
        return _given("train", options.train), sets
    if options.natural and not options.cells:
        raise ConfigError("--natural composes fields of single cells: pass them as --cells (drawn fields are natural).")
    make = _compose if options.cells else _draw
    return make("train", options), [make(name, options) for name in ("val", *([] if options.natural else ["hard"]))]


def _count(name: str, count: int, options: argparse.Namespace) -> int:
    return {"train": 24}.get(name, 8) if options.quick else count


def _split(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name.isidentifier() and equals and folder):
        raise ConfigError(f"--sets has '{text}', expected NAME=FOLDER such as val=fields/val.")
    return name, Path(folder)


def _given(name: str, folder: Path) -> FieldSet:
    lacking = [part for part in FILES if not (folder / part).exists()]
    if lacking:
        raise DataError(f"{folder} lacks {lacking[0]}, expected {', '.join(FILES)}: see scripts/compose_cells.py.")
    return FieldSet(name, folder)


def _compose(name: str, options: argparse.Namespace) -> FieldSet:
    """Compose fields from single cells, unless they are there."""
    fields = FieldSet(name, options.out / "fields" / name)
    split, seed, count = {"train": ("train", 1, 400), "val": ("val", 2, 120), "hard": ("val", 7, 60)}[name]
    if not fields.truth.exists():  # the last file that is written
        words = [str(options.cells), str(fields.folder), "--split", split, "--seed", str(seed)]
        words += ["--fields", str(_count(name, count, options)), "--size", str(options.size)]
        how = ["--natural"] if options.natural else ["--hard"] if name == "hard" else []
        command = [sys.executable, str(COMPOSE), *words, *how]
        if subprocess.run(command, check=False).returncode:
            raise DataError(f"{options.cells} could not be composed into fields: see above.")
    return fields


def _draw(name: str, options: argparse.Namespace) -> FieldSet:
    """Draw fields by code, unless they are there; the hard ones are noisier, with more cells without signal."""
    fields = FieldSet(name, options.out / "fields" / name)
    seed, count = {"train": (1, 400), "val": (2, 120), "hard": (7, 60)}[name]
    if not fields.truth.exists():
        look = Look(photons=0.3, lost=0.25) if name == "hard" else Look()
        count = _count(name, count, options)
        write_fields(fields.folder, count, options.size, seed, prefix=name, look=look)
    return fields
