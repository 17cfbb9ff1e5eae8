"""Thousands of small images through prepare, segment and infer: memory and open files must stay as they are.

Each stage runs in a process of its own; every half second the memory (of all its processes, without mapped files) and
the open files (without shards of the store and files being written) are noted. After a third of the time, which is
warm-up, both must stay: at most 5 % and 20 MB more in the last third than in the second, and no more open files.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from record import record
from small import SIZE, write_images

MORE, MORE_MB = 1.05, 20.0


@dataclass
class Course:
    """Memory (MB) and open files of a stage over time."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def note(self, process: psutil.Process) -> None:
        """Add what a process and those below it use now."""
        used = files = 0
        for one in (process, *process.children(recursive=True)):
            try:
                used, files = used + anonymous(one.pid), files + files_of(one)
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
        self.memory.append(used / 1e6)
        self.files.append(files)

    def thirds(self) -> tuple[float, float, int, int]:
        """Return memory and open files of the second and of the last third (medians, highest)."""
        third = max(1, len(self.memory) // 3)
        middle, last = slice(third, 2 * third), slice(2 * third, -max(1, third // 10))
        memory, files = np.array(self.memory), np.array(self.files)
        return (
            float(np.median(memory[middle])),
            float(np.median(memory[last])),
            int(np.median(files[middle])),
            int(np.median(files[last])),
        )


def anonymous(pid: int) -> int:
    """Return the bytes that are a process's own, without pages of files that the system can take back."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def files_of(process: psutil.Process) -> int:
    """Return how many files are open, but for shards of the store, of which a process keeps OPEN_SHARDS at most."""
    places = (str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir())
    return sum("/shards/" not in place and not place.endswith(".part") for place in places)


def follow(stage: str, words: list[str]) -> Course:
    """Run a stage and note its course.

    Raises:
        SystemExit: it did not end well.
    """
    began = subprocess.Popen([sys.executable, "-m", f"wsss.{stage}", *words], stdout=subprocess.DEVNULL)
    process, course = psutil.Process(began.pid), Course()
    while began.poll() is None:
        try:
            course.note(process)
        except psutil.Error:
            break
        time.sleep(0.5)
    if began.wait():
        raise SystemExit(f"{stage} ended with exit code {began.returncode}")
    return course


def main() -> int:
    """Send the images through the stages; record a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", default="1")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="wsss-long-") as folder:
        home = Path(folder)
        write_images(home / "few", 12)
        write_images(home / "many", options.images)
        few, many, run = home / "few/data", home / "many/data", home / "run"
        size = ["--size", str(SIZE), "--workers", options.workers]
        follow(
            "prepare", ["--images", f"{home}/few/images", "--labels", f"{home}/few/train.csv", "--out", f"{few}", *size]
        )
        words = ["--backbone", "test_resnet", "--weights", "none", "--crop", str(SIZE), "--batch", "4", "--epochs", "1"]
        follow("train", ["--data", str(few), "--run", str(run), *words, "--device", "cpu", "--workers", "0"])
        stages = {
            "prepare": ["--images", f"{home}/many/images", "--out", str(many), *size],
            "segment": ["--data", str(many), "--workers", options.workers],
            "infer": ["--data", str(many), "--run", str(run), "--out", f"{home}/preds", "--crops.size", "32"],
        }
        stages["infer"] += ["--device", "cpu"]
        for stage, arguments in stages.items():
            began = time.monotonic()
            course = follow(stage, arguments)
            before, after, files_before, files_after = course.thirds()
            flat = after <= MORE * before + MORE_MB and files_after <= files_before
            note = f"{before:.0f} then {after:.0f} MB, highest {max(course.memory):.0f} MB; "
            note += f"{files_before} then {files_after} open files"
            what = f"memory and open files of {stage} over many small images"
            tried = options.images
            bad += record(14, what, tried, tried if flat else 0, time.monotonic() - began, note)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
