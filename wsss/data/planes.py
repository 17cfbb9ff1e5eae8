"""Find the image files of a folder: one file per channel, or one (OME-Zarr: a folder) for all channels of an image."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsss.core.checks import DataError, some
from wsss.core.rasters import SUFFIXES, ome_files, stem_of
from wsss.data import ids

ZARR = ".zarr"


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image: names inside its folder."""

    ID: str
    names: tuple[str, ...]
    """One per channel in the order of the channels, or a single one that holds them all."""
    reason: str = ""
    """Why the image cannot be used, '' if nothing is known against it."""
    channels: tuple[str, ...] = ()
    """Names of the channels as the files have them, in order."""
    beside: tuple[str, ...] = ()
    """Other files of the same OME set that hold planes of the image."""


@dataclass
class Found:
    """What a folder holds."""

    images: list[ImageFiles] = field(default_factory=list)
    """Sorted by ID."""
    extra: list[str] = field(default_factory=list)
    """Image files that belong to an image but are none of its channels (previews, masks), sorted."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, a line each."""


def find_images(folder: Path, channels: tuple[str, ...]) -> Found:
    """Look for `<ID>_<channel>.<suffix>` and `<ID>.<suffix>` right in `folder`; hidden and other files do not count.

    Of `<ID>.ome.tif` and `<ID>.ome.zarr` the ID has no '.ome'.

    An image with a channel missing or there twice is listed with its reason. The files of an OME set are one image,
    named after the file of its first plane.

    Raises:
        DataError: no such folder, no image in it, or a name that cannot be an ID.
    """
    planes: dict[str, dict[str, list[str]]] = {}
    merged: dict[str, list[str]] = {}
    for name in _names(folder):
        stem = stem_of(name)
        ID, _, channel = stem.rpartition("_")
        if ID and channel in channels:
            planes.setdefault(ID, {}).setdefault(channel, []).append(name)
        else:
            merged.setdefault(stem, []).append(name)
    found = Found()
    for stem in sorted(merged):
        if stem not in planes and any(head in planes for head in _heads(stem)):
            found.extra += merged.pop(stem)
    sets = _join_sets(folder, merged)
    for ID in sorted(planes.keys() | merged.keys()):
        reason = ids.fault(ID)
        if reason:
            raise DataError(f"{folder}: the ID {ids.shown(ID)} {reason}: rename its files.")
        image = _image(ID, planes.get(ID, {}), merged.get(ID, []), channels)
        found.images.append(replace(image, beside=sets.get(ID, ())))
    if sets:
        found.notes.append(f"{len(sets)} images lie in several OME-TIFFs each, with the ID of the first: {some(sets)}.")
    if not found.images:
        raise DataError(
            f"{folder} holds no images: expected files like ID_{channels[0]}.png, one for each of "
            f"{', '.join(channels)}, or one file of {len(channels)} channel(s) per image ({', '.join(SUFFIXES)})."
        )
    ids.check_distinct((image.ID for image in found.images), str(folder))
    return found


def _join_sets(folder: Path, merged: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Leave of each OME set only the file of its first plane in `merged`; return the others under its ID."""
    several = [names[0] for names in merged.values() if len(names) == 1 and ".ome.tif" in names[0].lower()]
    sets: dict[str, tuple[str, ...]] = {}
    for name in several if len(several) > 1 else []:
        files = ome_files(folder / name)
        if files and files[0] == name and all(file in several for file in files):
            sets[stem_of(name)] = files[1:]
    for files in sets.values():
        for name in files:
            merged.pop(stem_of(name), None)
    return sets


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(ZARR if _is_folder(entry) else SUFFIXES) and entry.name[0] != "."
            )
    except OSError as error:
        raise DataError(f"--images {folder} cannot be read ({error.strerror}): pass a folder of images.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: said when the image is read
        return False


def _heads(stem: str) -> list[str]:
    """Return what stands before each '_' of a name: 'a_b_c' gives 'a_b' and 'a'."""
    parts = stem.split("_")
    return ["_".join(parts[:k]) for k in range(len(parts) - 1, 0, -1)]


def _image(ID: str, planes: dict[str, list[str]], merged: list[str], channels: tuple[str, ...]) -> ImageFiles:
    missing = [channel for channel in channels if channel not in planes]
    twice = [name for names in [*planes.values(), merged] if len(names) > 1 for name in names]
    every = [name for names in planes.values() for name in names] + merged
    if planes and merged:
        return ImageFiles(ID, tuple(every), f"has both single channels and a merged file: {some(every)}")
    if twice:
        return ImageFiles(ID, tuple(every), f"has several files for one channel: {some(twice)}")
    if planes and missing:
        files = ", ".join(f"{ID}_{channel}.*" for channel in missing)
        return ImageFiles(ID, tuple(every), f"channel {', '.join(missing)} is missing ({files})")
    if merged:
        return ImageFiles(ID, (merged[0],), channels=channels)
    return ImageFiles(ID, tuple(planes[channel][0] for channel in channels), channels=channels)
