"""What kind of folder of wsss a path is: where one of another kind is given, the message says what it is."""

from pathlib import Path

from wsss.core.checks import some

DATA_SET = "a data set (wsss prepare)"
PSEUDO_MASKS = "a folder of pseudo-masks (wsss pseudo)"
PREDICTIONS = "a folder of predictions (wsss infer)"
RUN = "a run (wsss train)"
MASK_SET = "a folder of images and masks"
SIGNS = {
    DATA_SET: ("dataset.json",),
    PSEUDO_MASKS: ("pseudo.json", "*/pseudo.json"),
    PREDICTIONS: ("provenance.json", "cells.parquet", "cells.csv"),
    RUN: ("best.safetensors", "last.safetensors", "*/best.safetensors", "*/last.safetensors"),
    "an exported model (wsss export)": ("model.safetensors",),
    "a review (wsss review)": ("review.sqlite",),
    MASK_SET: ("masks", "objects"),
}
"""Kind -> files of which a folder of it has one."""


def kind_of(folder: Path) -> str | None:
    """Return which of SIGNS a folder is; None if it is something else, or not there."""
    return next((kind for kind, names in SIGNS.items() if any(any(folder.glob(name)) for name in names)), None)


def within(folder: Path, name: str) -> list[Path]:
    """Return the files of a name in a folder and in its sub-folders, sorted by folder.

    Raises:
        PermissionError: one of these folders may not be read, which `glob` passes over in silence.
    """
    places = [folder, *sorted(place for place in folder.iterdir() if place.is_dir())] if folder.is_dir() else []
    return [place / name for place in places if place / name in place.iterdir()]


def not_that(path: Path, wanted: str) -> str:
    """Return what a path is, and what was expected instead, such as 'runs/a is a run (wsss train), expected ...'."""
    if not path.exists():
        what = "does not exist"
    elif not path.is_dir():
        what = "is a file"
    elif kind := kind_of(path):
        what = f"is {kind}"
    else:
        what = f"holds {some(sorted(entry.name for entry in path.glob('[!.]*')), 3) or 'nothing'}"
    return f"{path} {what}, expected {wanted}"
