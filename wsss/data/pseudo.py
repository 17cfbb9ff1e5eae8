"""Pseudo-masks on disk: what `wsss.pseudo` writes and a U-Net of class maps learns from.

FOLDER/pseudo.json       what made them: data set, options, networks, and every image those were trained on
FOLDER/masks/<ID>.npz    classes (n,) int16, masks (n, S, S) uint8: 1 of the class, 0 not, 255 ignored; classes that
                         are not listed are nowhere in the image
FOLDER/shares.csv        ID, class, share of the image that is of the class, share that is ignored
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.files import digest_file, read_json, write_bytes
from wsss.data.catalog import DataSet
from wsss.runs.output import settle

MANIFEST, MASKS = "pseudo.json", "masks"
FORMAT = 1


def write_masks(folder: Path, name: str, classes: np.ndarray, masks: np.ndarray) -> None:
    """Write one image's masks."""
    stream = io.BytesIO()
    np.savez_compressed(stream, classes=classes.astype(np.int16), masks=masks)
    write_bytes(folder / MASKS / f"{name}.npz", stream.getvalue())


@dataclass(frozen=True, eq=False)
class PseudoSet:
    """One folder of pseudo-masks, opened; cheap to hand to worker processes."""

    folder: Path
    manifest: dict[str, Any]
    """The content of pseudo.json."""

    @classmethod
    def open(cls, folder: Path, data: DataSet) -> "PseudoSet":
        """Open the pseudo-masks in `folder`, which must be of this data set.

        Raises:
            ConfigError: there are none, or they are unfinished.
            DataError: they are of other images, labels, folds, classes or another size.
        """
        settle(folder)
        if not (folder / MANIFEST).exists():
            raise ConfigError(f"{folder} holds no finished pseudo-masks ({MANIFEST}): run python -m wsss.pseudo.")
        found = read_json(folder / MANIFEST)
        now = {"folds": data.folds_digest, "classes": list(data.classes.names), "size": data.size}
        for name, value in now.items():
            if found.get(name) != value:
                raise DataError(f"{folder} was made of another data set than {data.folder}: its {name} differ.")
        return cls(folder, found)

    @property
    def ids(self) -> list[str]:
        """The images that have masks."""
        return list(self.manifest["ids"])

    @property
    def seen(self) -> frozenset[str]:
        """Every image whose labels have shaped these masks: its own, and those the networks were trained on."""
        return frozenset(self.manifest["ids"]) | frozenset(self.manifest["trained_on"])

    @property
    def digest(self) -> str:
        """What tells these masks from others."""
        return digest_file(self.folder / MANIFEST)

    def masks(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes (n,) that an image bears, and their masks (n, S, S) uint8 of 0, 1 and 255.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.folder / MASKS / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as found:
                return found["classes"].astype(np.int64), found["masks"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is missing or damaged ({error}): make the pseudo-masks again.") from error

    def check_held_out(self, ids: set[str]) -> None:
        """Refuse masks that the labels of these images have shaped.

        Raises:
            DataError: some have.
        """
        if leaked := sorted(self.seen & ids):
            raise DataError(
                f"{self.folder} was made with the labels of {some(leaked)}, which this fold holds out: make "
                "pseudo-masks without --oof, so that each fold has its own, or train with --fold none."
            )
