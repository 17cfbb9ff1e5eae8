"""Which files make which image: one per channel, or one (OME-Zarr: a folder) per image, in a folder or by a list."""

import itertools
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsss.core.channels import SEPARATORS, split_channel, unnamed_channels
from wsss.core.checks import DataError, pasted, some
from wsss.core.csv_text import open_rows
from wsss.core.files import as_on_disk
from wsss.core.labels import HPA_CHANNELS
from wsss.core.rasters import SUFFIXES, UNREAD, stem_of
from wsss.core.tiff import ome_files
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
    companions: tuple[str, ...] = ()
    """Other files of the same OME set that hold planes of the image."""


@dataclass
class ImageListing:
    """What a folder holds."""

    images: list[ImageFiles] = field(default_factory=list)
    """Sorted by ID."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, a line each."""


def find_images(folder: Path, channels: tuple[str, ...], named: Collection[str] = ()) -> ImageListing:
    """Look for `<ID>_<channel>.<suffix>` and `<ID>.<suffix>` right in `folder`; hidden and other files do not count.

    Channels may be named in any case, and in the ways of `wsss.core.channels.split_channel`.

    Of `<ID>.ome.tif` and `<ID>.ome.zarr` the ID has no '.ome'.

    Results of programs that segment are no images (see `wsss.data.ids.by_products`), except those in `named`.

    An image with a channel missing or there twice is listed with its reason. The files of an OME set are one image,
    named after the file of its first plane.

    Raises:
        DataError: no such folder, no image in it, or a name that cannot be an ID.
    """
    names, unread = _names(folder)
    results = ids.by_products({stem_of(name) for name in names}, channels).difference(named)
    planes, merged = _by_image((name for name in names if stem_of(name) not in results), channels)
    listing = ImageListing(notes=ids.unread_notes(unread))
    others = [stem for stem in sorted(merged) if stem not in planes and any(head in planes for head in _heads(stem))]
    extra = [name for stem in others for name in merged.pop(stem)]
    sets = _join_sets(folder, merged)
    for ID in sorted(planes.keys() | merged.keys()):
        reason = ids.fault(ID)
        if reason:
            raise DataError(f"{folder}: the ID {ids.shown(ID)} {reason}: rename its files.")
        image = _image(ID, planes.get(ID, {}), merged.get(ID, []), channels)
        listing.images.append(replace(image, companions=sets.get(ID, ())))
    if sets:
        listing.notes.append(
            f"{len(sets)} images lie in several OME-TIFFs each, with the ID of the first: {some(sets)}."
        )
    listing.notes += ids.result_notes(results)
    if extra:
        listing.notes.append(f"{len(extra)} files are no channel of their image, not read: {some(extra)}.")
    if marks := unnamed_channels(merged):
        can_name = any(split_channel(stem, marks)[1] for stem in merged)
        way_out = f"name those that are wanted, such as --channels {channels[0]}={marks[0]}"
        listing.notes.append(
            f"names of files differ in {some(marks)} alone, as those of channels do: if they are channels, "
            f"{way_out if can_name else f'rename the files as <ID>_{marks[0]}'}."
        )
    deeper = _deeper(folder)
    if not listing.images and deeper:
        one = f"--images {pasted(folder / deeper[0])}"
        raise DataError(
            f"{folder} holds no images, but sub-folders do, which are not read ({some(deeper, 3)}): pass one of them "
            f"({one}), or {FLATTEN}."
        )
    if not listing.images:
        raise DataError(
            f"{folder} holds no images{' but ' + some(sorted([*results, *unread]), 3) if results or unread else ''}: "
            f"expected files like ID_{channels[0]}.png, one for each of "
            f"{', '.join(channels)}, or one file of {len(channels)} channel(s) per image ({', '.join(SUFFIXES)})."
        )
    if deeper:
        listing.notes.append(
            f"pictures in sub-folders are not read ({some(deeper, 3)}); if they are images, {FLATTEN}."
        )
    ids.check_distinct((image.ID for image in listing.images), str(folder))
    return listing


def _by_image(
    names: Iterable[str], channels: tuple[str, ...]
) -> tuple[dict[str, dict[str, list[str]]], dict[str, list[str]]]:
    """Return ID -> channel -> files of single channels, and ID -> files of all channels."""
    planes: dict[str, dict[str, list[str]]] = {}
    merged: dict[str, list[str]] = {}
    for name in names:
        stem = stem_of(name)
        ID, channel = split_channel(stem, channels)
        if channel:
            planes.setdefault(ID, {}).setdefault(channel, []).append(name)
        else:
            merged.setdefault(stem, []).append(name)
    alone = [ID for ID, found in planes.items() if len(found) == 1 < len(channels)]
    for ID in [ID for ID in alone if split_channel(ID, channels)[1]]:
        for name in itertools.chain(*planes.pop(ID).values()):  # a_DAPI_GFP.tif, of all channels
            merged.setdefault(stem_of(name), []).append(name)
    return planes, merged


def _join_sets(folder: Path, merged: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Leave of each OME set only the first file that is there in `merged`; return the others under its ID."""
    alone = [names[0] for names in merged.values() if len(names) == 1]
    several = dict.fromkeys(name for name in alone if name.lower().endswith((".tif", ".tiff")))
    sets: dict[str, tuple[str, ...]] = {}
    for name in several if len(several) > 1 else []:
        files = tuple(file for file in ome_files(folder / name) if file in several)
        if len(files) > 1 and files[0] == name:
            sets[stem_of(name)] = files[1:]
    for files in sets.values():
        for name in files:
            merged.pop(stem_of(name), None)
    return sets


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files and folders that may be images, and those that are of forms that are not read."""
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: _is_folder(entry) for entry in entries if entry.name[0] != "."}
    except OSError as error:
        raise DataError(f"--images {folder} cannot be read ({error.strerror}): pass a folder of images.") from None
    names = {name for name, is_folder in kinds.items() if name.lower().endswith(ZARR if is_folder else SUFFIXES)}
    return sorted(names), sorted(name for name in kinds.keys() - names if name.lower().endswith(UNREAD))


FLATTEN = "link all files into one folder (docs/formats.md, Images in sub-folders)"


def _deeper(folder: Path) -> list[str]:
    """Return the sub-folders, at any depth, that hold files of the forms that are read."""
    found = []
    for place, folders, files in os.walk(folder):
        zarr = any(name.lower().endswith(ZARR) for name in folders)
        folders[:] = sorted(name for name in folders if name[0] != "." and not name.lower().endswith(ZARR))
        if Path(place) != folder and (zarr or any(f.lower().endswith(SUFFIXES) and f[0] != "." for f in files)):
            found.append(str(Path(place).relative_to(folder)))
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle: said when the image is read
        return False


def _heads(stem: str) -> list[str]:
    """Return what stands before each separator of a name, and behind its first '-': 'a_b-c' gives 'a', 'a_b', 'c'."""
    return [stem[:k] for k, sign in enumerate(stem) if sign in SEPARATORS] + [stem.partition("-")[2]]


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


LIST_COLUMNS = dict(zip(HPA_CHANNELS, ("r_image", "g_image", "b_image", "y_image"), strict=True))
"""Channel -> its column."""
_OLD_COLUMNS = ("r_image", "y_image", "b_image", "g_image", "output_folder", "output_prefix")
"""Columns of a list without a header."""


def read_path_list(path: Path, channels: tuple[str, ...]) -> ImageListing:
    """Read a list of images; paths in it start from its own folder.

    The first line may be a header, also one behind '#'. Channels named red, green, blue or yellow are those of their
    columns, others take the columns that are left, in this order. An image's ID is its output_prefix without a '_' at
    the end and with '_' for '/'; without a prefix, the name of its green file without the channel.

    Raises:
        DataError: the list is missing, empty or lacks a column, or an ID is none or comes twice.
    """
    rows = _listed_rows(path)
    listing = ImageListing()
    left = {colour: column for colour, column in LIST_COLUMNS.items() if colour not in map(str.lower, channels)}
    columns = [LIST_COLUMNS.get(name.lower()) or left.pop(next(iter(left))) for name in channels]
    for line, row in rows:
        ID = _listed_id(row, channels)
        reason = ids.fault(ID)
        if reason:
            raise DataError(f"{path} row {line}: the ID {ids.shown(ID)} {reason}: fix its output_prefix.")
        files = tuple(as_on_disk(path.parent, row[column]) for column in columns)
        listing.images.append(_listed_image(ID, files, channels, line))
    listing.images.sort(key=lambda image: image.ID)
    names = [image.ID for image in listing.images]
    twice = sorted({name for name, after in itertools.pairwise(names) if name == after})
    if twice:
        raise DataError(f"{path}: the ID(s) {some(twice)} come twice: give each row its own output_prefix.")
    ids.check_distinct(names, str(path))
    return listing


def _listed_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line, column -> value) of every row, with '/' in paths of Windows."""
    every = [(line, row, [value.lstrip("# ").lower() for value in row]) for line, row in open_rows(path).rows]
    lines = [entry for entry in every if not entry[1][0].startswith("#") or "r_image" in entry[2]]
    header = list(_OLD_COLUMNS)
    if lines and "r_image" in lines[0][2]:
        header, lines = lines[0][2], lines[1:]
    missing = [name for name in LIST_COLUMNS.values() if name not in header]
    if missing or not lines:
        what = f"lacks the column(s) {some(missing)}" if missing else "lists no images"
        raise DataError(f"{path} {what}: expected {', '.join(LIST_COLUMNS.values())} and output_prefix.")
    if short := [(line, len(row)) for line, row, _ in lines if len(row) < len(LIST_COLUMNS)]:
        raise DataError(f"{path} row {short[0][0]}: has {short[0][1]} fields, expected {', '.join(header)}.")
    rows = [(line, [value.replace("\\", "/") for value in row]) for line, row, _ in lines]
    return [(line, dict(zip(header, [*row, *[""] * len(header)], strict=False))) for line, row in rows]


def _listed_id(row: dict[str, str], channels: tuple[str, ...]) -> str:
    prefix = row.get("output_prefix", "").strip("/").replace("/", "_").rstrip("_")
    if prefix:
        return prefix
    return split_channel(stem_of(Path(row["g_image"]).name), (*channels, "green"))[0]


def _listed_image(ID: str, names: tuple[str, ...], channels: tuple[str, ...], line: int) -> ImageFiles:
    missing = [channel for channel, name in zip(channels, names, strict=True) if not name]
    if missing:
        return ImageFiles(ID, tuple(filter(None, names)), f"channel {', '.join(missing)} is missing (row {line})")
    foreign = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if foreign:
        return ImageFiles(ID, names, f"{foreign[0]} is no image that is read, expected {', '.join(SUFFIXES)}")
    return ImageFiles(ID, names, channels=channels)
