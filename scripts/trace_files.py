"""Count the files of wsss that one has to open to follow the two longest ways through it.

python scripts/trace_files.py [train] [infer]

`train` goes from the call of `fit` to the first update of the weights, `infer` from the first image that is read from
the store to the rows of its cells in cells.csv, with every score source switched on. Both run on a few drawn fields,
and every file with a function that is called on the way counts.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from torch.optim import optimizer

import wsss
from wsss import cli
from wsss.core.console import say
from wsss.data.synthetic import write_fields

ROOT = str(Path(wsss.__file__).parent)
BEGIN = {"train": "fit", "infer": "predict"}
"""The function with which each way begins."""
TINY = ["--backbone", "test_resnet", "--weights", "none", "--crop", "64", "--batch", "4", "--epochs", "1"]
ALL_SOURCES = ["--feature_classifier.enabled", "true", "--feature_classifier.copies", "0"]


class Trace:
    """Files whose functions are called, in all threads, between the call of `begin` and `stop`."""

    def __init__(self, begin: str) -> None:
        self.files: dict[str, None] = {}
        """In the order of their first call."""
        self._begin, self._running, self._ended = begin, False, False

    def __enter__(self) -> "Trace":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, *_: object) -> None:
        """Count no further."""
        self._ended = True
        threading.setprofile(None)
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or self._ended:
            return
        code = frame.f_code
        if code.co_name == "<module>" or not code.co_filename.startswith(ROOT):
            return
        self._running = self._running or code.co_name == self._begin
        if self._running:
            self.files[f"wsss{code.co_filename.removeprefix(ROOT)}"] = None


def stage(name: str, *words: str) -> None:
    """Run a stage of the command line."""
    if code := cli.run_stage(name, words):
        raise RuntimeError(f"{name} ended with {code}")


def prepare(folder: Path) -> list[str]:
    """Draw fields and find their cells; return the words that name the data set."""
    write_fields(folder / "fields", 4, 128, 1, workers=0)
    images, labels = str(folder / "fields/images"), str(folder / "fields/train.csv")
    stage("prepare", "--images", images, "--labels", labels, "--out", str(folder / "data"), "--size", "128")
    data = ["--data", str(folder / "data")]
    stage("segment", *data)
    return data


def trace_train(folder: Path) -> dict[str, None]:
    """Return the files from `fit` to the first update."""
    data = prepare(folder)
    trace = Trace(BEGIN["train"])
    hook = optimizer.register_optimizer_step_post_hook(trace.stop)
    with trace:
        stage("train", *data, "--run", str(folder / "run"), "--fold", "0", "--device", "cpu", "--workers", "0", *TINY)
    hook.remove()
    return trace.files


def trace_infer(folder: Path) -> dict[str, None]:
    """Return the files from an image in the store to its rows in cells.csv."""
    data = [*prepare(folder), "--device", "cpu"]
    run, unet = str(folder / "run"), str(folder / "unet")
    stage("train", *data, "--run", run, "--fold", "none", "--workers", "0", *TINY, *ALL_SOURCES)
    stage("pseudo", *data, "--run", run, "--out", str(folder / "pseudo"))
    masks = ["--task", "maps", "--pseudo", str(folder / "pseudo")]
    stage("train", *masks, *data, "--run", unet, "--fold", "none", "--workers", "0", *TINY)
    from wsss.inference import pipeline  # where the way ends; the rest of infer is not part of it

    with Trace(BEGIN["infer"]) as trace:
        pipeline.write_cells = ending(pipeline.write_cells, trace)
        share = ["--score.feature_share", "0.5"]  # else a run without held-out images leaves the others out
        stage("infer", *data, "--run", run, "--unet", unet, *share, "--out", str(folder / "preds"))
    return trace.files


def ending(function: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
    """Return the function, which ends the trace when it returns."""

    def call(*words: Any, **named: Any) -> Any:
        result = function(*words, **named)
        trace.stop()
        return result

    return call


WAYS = {"train": trace_train, "infer": trace_infer}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", nargs="*", choices=[*WAYS, []], help="train, infer (default: both)")
    for name in parser.parse_args(argv).way or WAYS:
        with tempfile.TemporaryDirectory() as folder:
            files = WAYS[name](Path(folder))
        say(f"{name}: {len(files)} files")
        for path in files:
            say(f"  {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
