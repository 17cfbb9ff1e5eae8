"""Row 18: for each of the twelve commands, kills between the changes of the file system, and pairs at once.

Kills: a command that makes its result anew gets SIGKILL before its n-th rename, removal or new file, n at random, most
of them while files are published. A reader then must find the old result or the new one, or a line that says what to
do; the same command again must end with the very files of a run that nobody killed, and nothing else.

Pairs: two of the command at once, into one place. One ends well, the other well or refused in one line that names the
first; the files are those of one run, and nothing is left over.

Foreign: a file that is not of the command, of the name of its first file, is still there afterwards.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chain import OUT, call, site, words, write_inputs
from record import record

from wsss.core.checks import UserError
from wsss.data.catalog import DataSet
from wsss.runs.output import settle
from wsss.runs.result_record import STATE
from wsss.runs.run_folder import load_checkpoint

CHANGES = ("rename", "replace", "unlink", "link")
OTHER = {
    "prepare": "--size 32 --overwrite true",
    "segment": "--overwrite true",
    "train": "--resume never",
    "infer": "--score.region topk --overwrite true",
    "pseudo": "--pseudo.high 0.6 --overwrite true",
    "ensemble": "--how geometric --overwrite true",
    "calibrate": "--method platt --overwrite true",
    "evaluate": "--threshold 0.4 --overwrite true",
    "export": "--gz false --overwrite true",
    "report": "--threshold 0.4 --overwrite true",
    "overlay": "--max-size 80 --overwrite true",
    "download": "",
}
"""Command -> the words that make another result of it, in the place of the first."""
IN_PLACE = ("prepare", "segment", "train", "download")
"""These go on in place: what is unfinished is said, or seen."""
PRELOAD = [f"wsss.stages.{name}" for name in OUT]
"""What the commands import: read once, so that a process is at work as soon as it starts."""
CLOCKS = ("segment.json", "log.csv", "curves.png", "segment.journal", "last.safetensors")
"""Files that tell times, or hold them."""


def places(home: Path, name: str) -> list[Path]:
    """Return what a command writes."""
    return [home / out for out in OUT[name]]


def files(home: Path, name: str) -> dict[str, str]:
    """Return the digests of all files of a command's result; of hidden ones, those that must not be there."""
    return _digests(home, places(home, name))


def _digests(home: Path, result: list[Path]) -> dict[str, str]:
    digests = {}
    for place in result:
        for path in sorted(place.rglob("*") if place.is_dir() else [place]):
            if path.is_file() and not (path.parent.name == STATE and path.suffix == ".json"):
                known = path.name not in CLOCKS and "previous" not in path.name and path.suffix != ".npy"
                digests[str(path.relative_to(home))] = _digest(path) if known else ""
    hidden = [*home.glob(".*.part"), *home.glob(".*.lock")]
    for path in [*hidden, *(home / STATE).glob("*.work"), *(home / STATE).glob("*.commit")]:
        digests[str(path.relative_to(home))] = "left over"
    return digests


def _digest(path: Path) -> str:
    if path.name == "best.safetensors":
        return str(sorted((key, value.sum().item()) for key, value in load_checkpoint(path)[0].items()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start(name: str, asked: list[str], kill_at: int = -1, report: Path | None = None) -> Any:
    """Start a command in a process of its own, forked from a server that has never computed anything."""
    process = multiprocessing.get_context("forkserver").Process(target=run, args=(name, asked, kill_at, report))
    process.start()
    return process


def run(name: str, asked: list[str], kill_at: int, report: Path | None) -> None:
    """Call a command, with SIGKILL before its n-th change of the file system; note changes and words."""
    done = [0]

    def wrapped(change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*arguments: Any, **more: Any) -> Any:
            if done[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            done[0] += 1
            return change(*arguments, **more)

        return changing

    for change in CHANGES:
        setattr(os, change, wrapped(getattr(os, change)))
    multiprocessing.set_start_method("fork", force=True)
    code, text = call(name, asked)
    if report is not None:
        report.write_text(f"{done[0]}\n{text}")
    sys.exit(code)


def finish(home: Path, name: str, asked: list[str]) -> tuple[int, str, int]:
    """Let a command come to its end; return its exit code, what it said, and its changes of the file system."""
    report = home / "done"
    process = start(name, asked, report=report)
    process.join()
    if not report.exists():
        raise SystemExit(f"{name} ended with {process.exitcode} and said nothing")
    steps, _, text = report.read_text().partition("\n")
    report.unlink()
    return process.exitcode, text, int(steps)


def readable(home: Path, name: str, states: list[dict[str, str]]) -> bool:
    """Say whether a reader finds the old or the new result, or is told what to do."""
    if name == "pseudo":  # every fold is a result of its own, and a reader takes one
        return all(_whole(home, [fold], states) for fold in (home / "pseudo").iterdir() if fold.is_dir())
    return _whole(home, places(home, name), states, in_place=name in IN_PLACE)


def _whole(home: Path, result: list[Path], states: list[dict[str, str]], *, in_place: bool = False) -> bool:
    for place in result:
        settle(place if place.is_dir() else place.parent)
    if in_place:
        try:
            DataSet.open(home / "data")
        except UserError as error:
            return "again" in str(error) or "start the same" in str(error)
        return True
    inside = tuple(str(place.relative_to(home)) for place in result)

    def visible(digests: dict[str, str]) -> dict[str, str]:
        return {path: digest for path, digest in digests.items() if path.startswith(inside) and "/." not in f"/{path}"}

    return visible(_digests(home, result)) in [visible(state) for state in states]


def kills(home: Path, name: str, chain: dict[str, list[str]], count: int, rng: random.Random) -> tuple[int, str]:
    """Kill a command that replaces a result; return how many kills were survived, and why not."""
    other = [*chain[name], *OTHER[name].split()]
    old, saved = files(home, name), home / "saved"
    keep(home, name, saved)
    code, text, steps = finish(home, name, other)
    if code != 0:
        raise SystemExit(f"{name}: {text}")
    new = files(home, name)
    well, why = 0, ""
    for number in range(count):
        restore(home, name, saved)
        last = rng.random() < 0.7  # mostly towards the end, where files are published
        at = rng.randrange(max(0, steps - len(new) * 3 - 6) if last else 0, max(1, steps))
        process = start(name, other, at)
        process.join()
        status = process.exitcode
        if not readable(home, name, [old, new]):
            why = why or f"{name} kill {number} at {at} of {steps} (status {status}): a reader finds a mixture"
            continue
        code, text, _ = finish(home, name, other)
        now = files(home, name)
        if code in (0, 1) and now == new:
            well += 1
        else:
            differing = sorted(set(now.items()) ^ set(new.items()))[:3]
            why = why or f"{name} kill {number} at {at} of {steps}: {text[-200:]} {differing}"
    restore(home, name, saved)
    shutil.rmtree(saved)
    return well, why


def pairs(home: Path, name: str, chain: dict[str, list[str]], count: int) -> tuple[int, str]:
    """Start a command twice at once, with two sets of options; return how many pairs were survived, and why not."""
    other = [*chain[name], *OTHER[name].split()]
    force = ["--overwrite", "true"] if name not in ("train",) else []
    first = [*chain[name], *force]
    saved = home / "saved"
    keep(home, name, saved)
    wanted = []
    for asked in (first, other):
        restore(home, name, saved)
        finish(home, name, asked)
        wanted.append(files(home, name))
    well, why = 0, ""
    for number in range(count):
        restore(home, name, saved)
        processes = [start(name, asked) for asked in (first, other)]
        for process in processes:
            process.join()
        codes = sorted(process.exitcode for process in processes)
        now = files(home, name)
        if codes[0] in (0, 1) and codes[1] in (0, 1, 2) and now in wanted:
            well += 1
        else:
            differing = sorted(set(now.items()) ^ set(wanted[0].items()))[:3]
            why = why or f"{name} pair {number}: exit codes {codes}, {differing}"
    restore(home, name, saved)
    shutil.rmtree(saved)
    return well, why


def foreign(home: Path, name: str, chain: dict[str, list[str]]) -> bool:
    """Say whether a file of the user's in the place of a result is left alone."""
    if name in ("segment", "download"):  # segment writes into a data set; download keeps what is there
        return True
    saved = home / "saved"
    keep(home, name, saved)
    path = next(home / shown for shown in files(home, name) if not Path(shown).name.startswith("."))
    if name == "evaluate":
        path = home / "oof" / "scores.json"
    for place in places(home, name):
        if name != "evaluate" and place.is_dir():
            shutil.rmtree(place)
        elif name != "evaluate":
            place.unlink()
    shutil.rmtree(home / STATE, ignore_errors=True)
    for stale in (home / "oof" / STATE).glob("scores.json.json"):
        stale.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    code, _, _ = finish(home, name, chain[name])
    kept = code == 2 and path.read_text() == "mine"
    restore(home, name, saved)
    shutil.rmtree(saved)
    return kept


def keep(home: Path, name: str, saved: Path) -> None:
    """Save a result, its records included."""
    shutil.rmtree(saved, ignore_errors=True)
    saved.mkdir()
    for place in [*places(home, name), home / STATE]:
        if place.is_dir():
            shutil.copytree(place, saved / place.name)
        elif place.exists():
            shutil.copy2(place, saved / place.name)


def restore(home: Path, name: str, saved: Path) -> None:
    """Put a saved result back."""
    for place in [*places(home, name), home / STATE]:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        source = saved / place.name
        if source.is_dir():
            shutil.copytree(source, place)
        elif source.exists():
            shutil.copy2(source, place)


def main() -> int:
    """Try every command, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=list(OUT))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, "chain"])
    rng, bad = random.Random(0), 0
    with tempfile.TemporaryDirectory(prefix="wsss-stress-") as folder:
        home = Path(folder)
        write_inputs(home)
        chain = words(home)
        with site(home, chain):
            for name in OUT:
                if name == "ensemble":
                    finish(home, "infer-2", chain["infer-2"])
                code, text, _ = finish(home, name, chain[name])
                if code != 0:
                    raise SystemExit(f"{name}: {text}")
                if name not in options.commands:
                    continue
                began = time.monotonic()
                killed, why = kills(home, name, chain, options.kills, rng)
                paired, also = pairs(home, name, chain, options.pairs)
                kept = foreign(home, name, chain)
                tried = options.kills + options.pairs + 1
                note = (
                    f"kills {killed} of {options.kills}, pairs {paired} of {options.pairs}, foreign file kept: {kept}. "
                )
                note += f"{why} {also}"
                bad += record(
                    18, f"{name}: kills, pairs", tried, killed + paired + kept, time.monotonic() - began, note
                )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
