"""Figures of the masks of large images, added up part by part."""

from pathlib import Path
from typing import Any

import pandas as pd

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.files import write_csv, write_json
from wsss.data.large import LargeImage
from wsss.data.large_masks import LargeMask
from wsss.data.tile_set import TileSet
from wsss.options.evaluate import EvaluateOptions
from wsss.runs.output import Output

PART = 2048
"""Edge of the parts that are read at once, px."""


def evaluate_large(options: EvaluateOptions, truth: TileSet, facts: dict[str, Any], output: Output, out: Path) -> None:
    """Publish Dice and IoU of every large image with truth and a prediction, and their means, with the file `out`.

    Raises:
        ConfigError: a threshold is asked for; only masks are kept of large images.
        DataError: no image has both.
    """
    if options.search:
        raise ConfigError(
            "no threshold can be chosen on large images, of which only masks are kept: leave --search out."
        )
    masks = {path.stem: path for path in (options.preds / "masks").glob("*.tif")}
    common = [name for name in truth.images if name in truth.truths and name in masks]
    if not common:
        raise DataError(
            f"no image of {options.truth} has both a mask and a prediction in {options.preds}: the truth has "
            f"{some(sorted(truth.truths))}, the predictions {some(sorted(masks))}."
        )
    table = pd.DataFrame([{"ID": name, **_score(masks[name], truth.truths[name])} for name in common])
    report = {"format": 1, "task": "masks", "preds": str(options.preds), "truth": str(options.truth)}
    figures = {name: float(table[name].mean()) for name in ("dice", "iou")}
    write_json(output.path(out.name), report | {"images": len(common), "oof": facts["oof"]} | figures)
    write_csv(output.path("image_scores.csv"), table)
    output.publish()
    say(f"{len(common)} large images, {'out of fold' if facts['oof'] else 'not out of fold'}")
    say(f"  Dice {figures['dice']:.4f}  IoU {figures['iou']:.4f}; written to {out}")


def _score(predicted: Path, truth: LargeMask) -> dict[str, float]:
    """Return Dice and IoU of one image; both 1 where prediction and truth are empty."""
    image = LargeImage(predicted)
    height, width = image.size
    found = true = both = 0
    for y in range(0, height, PART):
        for x in range(0, width, PART):
            box = (y, min(y + PART, height), x, min(x + PART, width))
            a, b = image.read(*box)[0] > 0, truth.read(*box) > 0
            found, true, both = found + int(a.sum()), true + int(b.sum()), both + int((a & b).sum())
    empty = found + true == 0
    return {
        "dice": 1.0 if empty else 2 * both / (found + true),
        "iou": 1.0 if empty else both / (found + true - both),
    }
