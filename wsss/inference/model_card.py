"""The README.md of a shared model, made from the run's own files."""

import html
import re
from pathlib import Path

import pandas as pd

from wsss.core.checks import DataError
from wsss.core.csv_text import read_numbers
from wsss.inference.checkpoints import CamCheckpoint

FIGURES = {"val_loss": "validation loss", "val_map": "mAP of images", "val_f1": "F1 of images"}
"""Columns of log.csv that the card shows."""

HEAD = """\
---
library_name: wsss
tags:
- microscopy
- weakly-supervised
- class-activation-maps
- human-protein-atlas
---

# {name}

Labels with confidences for every cell of a fluorescence image, learnt from labels of whole images (Puzzle-CAM),
by [wsss](https://pypi.org/project/wsss/) {version}.

## Use

```python
import wsss

model = wsss.load("folder of these files")
cells = model.predict(image)             # ({n_channels}, H, W): {channels}
cells = model.predict(image, label_map)  # with your own cells
```

One row a cell; the columns `0` to `{last}` are the scores of the classes below.
"""


def model_card(members: list[CamCheckpoint], name: str) -> str:
    """Return a README for the networks of the run called `name`; figures that no log holds are left out."""
    record, recipe = members[0].record, members[0].recipe
    parts = [
        HEAD.format(
            name=plain(name),
            version=record.versions["wsss"],
            n_channels=len(record.channels),
            channels=" ".join(", ".join(record.channels).replace("`", "'").split()),
            last=len(record.classes) - 1,
        ),
        "## Training\n",
        f"Backbone `{recipe.backbone}`, images of {record.size} px, crops of {recipe.crop or record.size} px, "
        f"puzzle of {recipe.puzzle.side} x {recipe.puzzle.side} tiles with weight {recipe.puzzle.weight:g}, "
        f"{recipe.optim.name} at {recipe.optim.lr:g}, batch {recipe.batch}, at most {recipe.epochs} epochs. "
        f"All options: `config.json`.\n",
        _figures(members),
        "Figures are of the images each network held out, at the epoch its weights are from; the labels they are "
        "compared with are those of whole images.\n",
        "## Classes\n",
        "\n".join(f"- `{k}` {plain(label)}" for k, label in enumerate(record.classes)) + "\n",
        "## Limits\n",
        "Scores are ranked confidences, no calibrated probabilities. Images of other microscopes, stains or cell "
        "lines than those trained on are outside what these figures say.\n",
    ]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: on one line, nothing of it taken for HTML, links or emphasis."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", escaped)


def _figures(members: list[CamCheckpoint]) -> str:
    rows = [_row(member) for member in members]
    shown = [column for column in FIGURES if any(column in row for row in rows)]
    head = ["network", "images trained on", "epoch", *(FIGURES[column] for column in shown)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([row["network"], row["images"], row["epoch"], *(row.get(column, "-") for column in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(member: CamCheckpoint) -> dict[str, str]:
    """Return the figures of the epoch whose weights are kept, as the log has them."""
    name = "all images" if member.fold is None else f"held out fold {member.fold}"
    row = {"network": name, "images": str(len(member.record.train_ids)), "epoch": "-"}
    log = _log(member.path / "log.csv")
    if log is None:
        return row
    held_out = "val_loss" in log and log["val_loss"].notna().any()
    best = int(log["val_loss"].fillna(float("inf")).to_numpy().argmin()) if held_out else len(log) - 1
    row["epoch"] = f"{log['epoch'].iloc[best]:g}"
    return row | {column: f"{log[column].iloc[best]:.4g}" for column in FIGURES if column in log}


def _log(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        log = read_numbers(path)
    except DataError as error:
        raise DataError(f"{error} Restore it, or delete it to leave its figures out.") from error
    return log if len(log) and "epoch" in log else None
