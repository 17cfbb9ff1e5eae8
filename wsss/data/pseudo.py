"""Pseudo-masks on disk: what `wsss.pseudo` writes and a U-Net of class maps learns from.

FOLDER/pseudo.json       what made them: data set, options, networks, and every image those were trained on
FOLDER/masks/<ID>.npz    classes (n,) int16, masks (n, S, S) uint8: 1 of the class, 0 not, 255 ignored; classes that
                         are not listed are nowhere in the image
FOLDER/shares.csv        ID, class, share of the image that is of the class, share that is ignored
"""

import io
import math
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError, DataError
from wsss.core.files import (
    BLANK,
    PSEUDO_MASKS,
    check_seal,
    digest_file,
    kind_of,
    not_that,
    read_record,
    sealed,
    write_bytes,
)
from wsss.core.reading import ZIP_FAULTS, check_npy, open_zip, parse_npy
from wsss.data.catalog import DataSet
from wsss.runs.inputs import Digests
from wsss.runs.output import settle
from wsss.runs.record import Lineage, lineage_from
from wsss.runs.result_record import check_entry, check_recorded, files_of_record

MANIFEST, MASKS = "pseudo.json", "masks"
FORMAT = 1


def write_masks(folder: Path, name: str, classes: np.ndarray, masks: np.ndarray) -> None:
    """Write one image's masks."""
    stream = io.BytesIO()
    np.savez_compressed(stream, classes=classes.astype(np.int16), masks=masks)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = BLANK.encode()
    write_bytes(folder / MASKS / f"{name}.npz", sealed(stream.getvalue()))


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
            if kind_of(folder.parent) == PSEUDO_MASKS:
                raise ConfigError(f"{folder} holds no finished pseudo-masks ({MANIFEST}): run python -m wsss.pseudo.")
            raise ConfigError(f"{not_that(folder.parent, PSEUDO_MASKS)}: check --pseudo.")
        check_recorded(folder / MANIFEST)
        needed, again = ("format", "ids", "trained_on"), "run wsss.pseudo again"
        manifest = read_record(folder / MANIFEST, *needed, newest=FORMAT, what="set of pseudo-masks", again=again)
        now = {"folds": data.folds_digest, "classes": list(data.classes.names), "size": data.size}
        for name, value in now.items():
            if manifest.get(name) != value:
                raise DataError(f"{folder} was made of another data set than {data.folder}: its {name} differ.")
        return cls(folder, manifest)

    @property
    def ids(self) -> list[str]:
        """The images that have masks."""
        return list(self.manifest["ids"])

    @property
    def seen(self) -> frozenset[str]:
        """Every image whose labels have shaped these masks: its own, and those the networks were trained on."""
        return frozenset(self.manifest["ids"]) | frozenset(self.manifest["trained_on"])

    @property
    def ancestors(self) -> Lineage | None:
        """What reached these masks through networks that theirs were made from; None if that is not known."""
        return lineage_from(self.manifest.get("ancestors"))

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of the record and of the masks, as a network's record keeps them."""
        return {"pseudo": digest_file(self.folder / MANIFEST), "pseudo_masks": Digests().of(self.folder / MASKS) or ""}

    @cached_property
    def _recorded(self) -> dict[str, list[str]]:
        return files_of_record(self.folder)

    def masks(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes (n,) that an image bears, and their masks (n, S, S) uint8 of 0, 1 and 255.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.folder / MASKS / f"{name}.npz"
        check_entry(path, self.folder, self._recorded)
        again = "Make the pseudo-masks again."
        size, most = self.manifest["size"], len(self.manifest["classes"])
        try:
            check_seal(path, again)
            with open_zip(path) as archive:
                classes, masks = (_member(archive, key, most * size**2, path) for key in ("classes", "masks"))
        except FileNotFoundError:
            raise DataError(f"{path} is missing. {again}") from None
        except DataError:
            raise
        except ZIP_FAULTS as error:
            raise DataError(f"{path} is damaged ({' '.join(str(error).split())}). {again}") from error
        fits = classes.ndim == 1 and classes.dtype.kind in "iu" and masks.dtype == np.uint8
        if not fits or masks.shape != (len(classes), size, size) or not ((classes >= 0) & (classes < most)).all():
            raise DataError(f"{path} holds {masks.dtype} of shape {masks.shape}, no masks of this data set. {again}")
        return classes.astype(np.int64), masks


def _member(archive: zipfile.ZipFile, key: str, most: int, path: Path) -> np.ndarray:
    """Read one array of an .npz of at most `most` numbers."""
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as stream:
        shape, _ = check_npy(stream, info.file_size, path)
    if math.prod(shape) > most:
        raise DataError(f"{path} promises {math.prod(shape)} values, expected {most} at most: it is damaged.")
    return parse_npy(archive.read(info), path)
