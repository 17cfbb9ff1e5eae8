"""A folder of given masks, one file an image: which file is whose, whatever wrote it."""

from collections.abc import Iterable
from pathlib import Path

from wsss.core.checks import DataError, some
from wsss.core.label_maps import SUFFIXES as LABEL_MAPS
from wsss.core.labels import HPA_CHANNELS
from wsss.core.rasters import stem_of
from wsss.segmenters.geojson import SUFFIXES as OUTLINES
from wsss.segmenters.imagej import SUFFIXES as REGIONS

SUFFIXES = (*OUTLINES, *LABEL_MAPS, *REGIONS)
"""Forms that are read, in this order where an image has several; in any case."""
ENDINGS = ("_cp_masks", "_rois", "", "_masks", "_mask", "_labels", "_label")
"""What programs put behind the name of the image, best first: Cellpose saves its masks beside the images."""
PICKLE = "_seg.npy"
"""Ending of Cellpose's pickles, which are never loaded."""


class MaskFolder:
    """The files of a folder, listed once.

    Args:
        folder: where the masks are.
        channels: names that files of single channels bear, for masks that were made of one.
    """

    def __init__(self, folder: Path, channels: Iterable[str] = HPA_CHANNELS) -> None:
        self.folder = folder
        self.channels = tuple(dict.fromkeys(channels))
        self.names = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        self._files: dict[str, Path] = {}
        ranked = [(rank, name) for name in self.names if (rank := _rank(name)) is not None]
        for _, name in sorted(ranked, reverse=True):
            self._files[_stem(name)] = folder / name

    def __len__(self) -> int:
        return len(self._files)

    def find(self, name: str) -> Path | None:
        """Return the file of the image `name`; None if there is none.

        Raises:
            DataError: there are several, of several channels.
        """
        for ending in ENDINGS:
            if (path := self._files.get(name + ending)) is not None:
                return path
        for ending in ENDINGS:
            stems = [f"{name}_{channel}{ending}" for channel in self.channels]
            paths = [self._files[stem] for stem in stems if stem in self._files]
            if len(paths) > 1:
                files = some(path.name for path in paths)
                raise DataError(f"{self.folder} has masks of several channels of {name} ({files}): leave one.")
            if paths:
                return paths[0]
        return None

    def beside(self, name: str) -> list[str]:
        """Return the names of all files that begin with the image's."""
        return [file for file in self.names if file.startswith(name)]


def _rank(name: str) -> int | None:
    """Return the place of a file's form among SUFFIXES; None for another one."""
    if name.lower().endswith(PICKLE):
        return None
    return next((k for k, suffix in enumerate(SUFFIXES) if name.lower().endswith(suffix)), None)


def _stem(name: str) -> str:
    """Return the name of a file without the ending of its form, as `stem_of` does."""
    return stem_of(name[:-3] if name.lower().endswith(".gz") else name)
