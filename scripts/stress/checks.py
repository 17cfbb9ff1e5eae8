"""Parts of the stress run that are tests of the test suite, with more examples than usual or otherwise slow."""

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # of a file that pytest writes on this machine
from dataclasses import dataclass
from pathlib import Path

from record import record


@dataclass(frozen=True)
class Part:
    """Tests that check one row of the promise."""

    row: int
    what: str
    words: str
    """What pytest is told."""


ALL = "-m slow\\ or\\ not\\ slow "
PARTS = {
    "signals": Part(
        1, "SIGTERM and Ctrl-C to process and group", "-m slow tests/stages/test_signals.py -k stop_signal"
    ),
    "saves": Part(1, "SIGKILL of training, each third within a save", "-m slow tests/training/test_kills.py"),
    "disk": Part(3, "disk full at every stage, TMPDIR full", ALL + "tests/stages/test_full_disk.py"),
    "damage": Part(4, "our files cut (200) or one bit flipped (500)", "tests/test_damage.py --examples 700"),
    "small": Part(21, "small files that ask for much, through every reader", "tests/test_hostile_files.py"),
    "strangers": Part(20, "pipes, devices, links, names that lead elsewhere", "tests/test_strangers.py tests/runs"),
    "mistakes": Part(
        22,
        "read-only disks, files where folders should be, names too long, at every stage",
        ALL + "tests/stages/test_disk_refusals.py tests/training/test_loading.py",
    ),
    "text": Part(
        23,
        "formulas, permissions, later formats, HTML",
        "tests/stages/test_disk_refusals.py tests/core/test_csv_text.py tests/test_damage.py "
        "tests/test_hostile_files.py -k csv\\ or\\ permissions\\ or\\ newer\\ or\\ plain",
    ),
    "hostile": Part(5, "pickles, YAML tags, objects, absurd headers", "tests/test_hostile.py"),
    "images": Part(6, "1,000 mutated images, bombs", "tests/stages/test_broken_images.py --examples 1000"),
    "forms": Part(
        6, "other bit depths, odd images and cell maps", "tests/stages/test_odd_images.py tests/data/test_pixels.py"
    ),
    "tables": Part(
        7,
        "label tables, IDs, names of files, formulas",
        ALL + "tests/data/test_label_tables.py tests/data/test_planes.py tests/core/test_csv_text.py",
    ),
    "cells": Part(
        8, "cell maps", "tests/stages/test_odd_images.py tests/stages/test_segment_command.py -k cell\\ or\\ map"
    ),
    "locks": Part(9, "two runs into one folder, stale locks", "tests/runs/test_lock.py"),
    "workers": Part(10, "a worker killed: the end within 60 s", "-m slow tests/stages/test_signals.py -k killed"),
    "ranks": Part(10, "a DDP process killed or stopped", "-m slow tests/training/test_distributed.py"),
    "edges": Part(
        11,
        "losses and gradients, rare classes, one image",
        ALL + "tests/training/test_edge_cases.py tests/training/test_fit.py",
    ),
    "leaks": Part(12, "leaks into predictions out of fold", "tests/inference/test_leaks.py tests/data/test_catalog.py"),
    "offline": Part(13, "no network, read-only input and home", ALL + "tests/stages/test_offline.py"),
    "properties": Part(15, "properties, 10,000 examples each", "tests/test_properties.py --examples 10000"),
    "twice": Part(16, "the whole chain twice, other numbers of workers", "-m slow tests/stages/test_twice.py"),
}


def check(part: Part) -> int:
    """Run a part; record how many of its tests passed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [word.replace("\0", " ") for word in part.words.replace("\\ ", "\0").split()]
        more = ["--junitxml", str(report), "-o", "junit_logging=system-out", "-p", "no:cacheprovider"]
        subprocess.run([sys.executable, "-m", "pytest", *words, *more], check=False)
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    tried = max(1, len(cases) - len(skipped))
    printed = [line for case in cases for line in (case.findtext("system-out") or "").splitlines()]
    notes = [line for line in printed if "{" in line or "kills" in line]
    if skipped:
        notes.append(f"{len(skipped)} skipped here")
    survived = tried - len(failed) if cases else 0
    return record(part.row, part.what, tried, survived, time.monotonic() - began, "; ".join(notes)[:600])


def main() -> int:
    """Run the parts named; all of them if none is."""
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"error: no part {', '.join(unknown)}, expected some of {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    return int(sum(check(PARTS[name]) for name in wanted) > 0)


if __name__ == "__main__":
    sys.exit(main())
