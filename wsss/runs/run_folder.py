"""The folder of one fold's training: what is written, and how it is found again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from torch import Tensor

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say
from wsss.core.digests import DIGEST
from wsss.core.files import write_csv, write_text
from wsss.options.recipe import Recipe, recipe_from
from wsss.runs.checkpoint import load_checkpoint, previous, save_checkpoint


@dataclass(frozen=True)
class RunFolder:
    """config.yaml, train_ids.txt, log.csv, last.safetensors (the whole state), best.safetensors (weights)."""

    path: Path

    @property
    def last(self) -> Path:
        """The whole state, for going on."""
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the lowest validation loss, for inference."""
        return self.path / "best.safetensors"

    @property
    def feature_classifier(self) -> Path:
        """The feature classifier, where there is one."""
        return self.path / "feature_classifier.safetensors"

    @property
    def soft_labels(self) -> Path:
        """The soft labels of the training cells that the feature classifier settled on."""
        return self.path / "soft_labels.parquet"

    @property
    def self_trained(self) -> Path:
        """The self-trained network of single cells, where there is one."""
        return self.path / "self_trained.safetensors"

    @property
    def ids(self) -> Path:
        """The IDs the weights were trained on, one a line."""
        return self.path / "train_ids.txt"

    @property
    def used(self) -> list[Path]:
        """The files that other stages read, whether they are there or not."""
        more = [self.path / name for name in ("config.yaml", "log.csv")]
        return [self.best, self.ids, self.feature_classifier, self.self_trained, *more]

    def begin(self, recipe: Recipe, train_ids: list[str]) -> None:
        """Write what is known before the first step."""
        write_text(self.path / "config.yaml", yaml.safe_dump(asdict(recipe), sort_keys=False))
        write_text(self.ids, "".join(f"{name}\n" for name in train_ids))

    def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the whole state."""
        save_checkpoint(self.last, tensors, meta)

    def save_best(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the weights for inference, replacing earlier ones."""
        save_checkpoint(self.best, tensors, meta)
        previous(self.best).unlink(missing_ok=True)

    def save_snapshot(self, number: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save the weights at the end of a cosine cycle, counted from 1."""
        path = self.path / f"snapshot{number}.safetensors"
        save_checkpoint(path, tensors, meta)
        previous(path).unlink(missing_ok=True)

    def snapshots(self) -> list[Path]:
        """Return the snapshots that there are, in their order."""
        found = self.path.glob("snapshot*.safetensors")
        return sorted(found, key=lambda path: (len(path.name), path.name))

    def write_log(self, rows: list[dict[str, Any]]) -> None:
        """Write log.csv: one row an epoch, all of them each time, so that a resumed run has no row twice."""
        table = pd.DataFrame(rows)
        first = [name for name in ("epoch", "lr") if name in table]
        write_csv(self.path / "log.csv", table[[*first, *sorted(str(name) for name in table if name not in first)]])

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the last state; None where training has not been saved yet.

        Raises:
            DataError: the file is damaged.
        """
        if self.last.exists():
            return load_checkpoint(self.last)
        if previous(self.last).exists():  # killed between the two renames of a save
            return load_checkpoint(previous(self.last))
        return None


def check_free(path: Path) -> None:
    """Refuse a folder that holds something, but no training.

    Raises:
        ConfigError: it does.
    """
    names = {own.name for own in path.iterdir() if not own.name.startswith(".")} if path.is_dir() else set()
    ours = (
        "config.yaml",
        "last.safetensors",
        "last.safetensors.previous",
        "best.safetensors",
        "lr_find.csv",
        "lr_find.png",
    )
    if names and not names & set(ours):
        raise ConfigError(f"{path} holds {some(sorted(names), 3)}, and no training: choose another --run.")


FREE = ("versions", "score", "crops", "feature_classifier", "self_training")
"""What may differ when a run goes on: it does not shape the weights."""


SINCE = {
    "pixels": "which pixels it learnt from",
    "cells": "which label maps it learnt from",
    "files": "which images and masks it learnt from",
}
"""What runs of earlier versions do not record, in words."""


def check_same_run(found: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with another recipe, other data, or another fold.

    Raises:
        DataError: the first thing that differs, with both values.
    """
    # Options that are newer than the run had their defaults.
    found = {**found, "recipe": asdict(recipe_from(found.get("recipe", {}), "the checkpoint"))}
    for name in now:
        old, new = (_weight_shaping(facts.get(name)) for facts in (found, now))
        if name in SINCE and name not in found:
            say(f"note: the run is of an earlier version and does not say {SINCE[name]}: they may have changed since.")
        elif name not in FREE and old != new:
            raise DataError(
                f"the run was begun with another {name}: {_difference(old, new)}. Choose another "
                "--run folder, go back to the first value, or pass --resume never to start over."
            )


def _weight_shaping(value: object) -> object:
    return {k: v for k, v in value.items() if k not in FREE} if isinstance(value, dict) else value


def _difference(old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return f"{key} was {_difference(old.get(key), new[key])}"
    if isinstance(new, str) and DIGEST.fullmatch(new):
        return "what was read has changed"
    return f"{old}, now {new}"
