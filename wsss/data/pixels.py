"""Find image files and read them to uint8: one per channel, or one (OME-Zarr: a folder) per image; no silent cast."""

import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wsss.core.channels import BITS, SEPARATORS, split_channel, unnamed_channels
from wsss.core.checks import DataError, some
from wsss.core.csv_text import open_rows
from wsss.core.files import as_on_disk
from wsss.core.rasters import SUFFIXES, Header, check_size, ome_files, open_raster, stem_of
from wsss.core.stacks import NO_CHOICE, PlaneChoice
from wsss.data import ids
from wsss.data.large import open_zarr

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
    extra: list[str] = field(default_factory=list)
    """Image files that belong to an image but are none of its channels (previews, masks), sorted."""
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
    planes: dict[str, dict[str, list[str]]] = {}
    merged: dict[str, list[str]] = {}
    names = _names(folder)
    results = ids.by_products({stem_of(name) for name in names}, channels).difference(named)
    for name in names:
        stem = stem_of(name)
        if stem in results:
            continue
        ID, channel = split_channel(stem, channels)
        if channel:
            planes.setdefault(ID, {}).setdefault(channel, []).append(name)
        else:
            merged.setdefault(stem, []).append(name)
    listing = ImageListing()
    for stem in sorted(merged):
        if stem not in planes and any(head in planes for head in _heads(stem)):
            listing.extra += merged.pop(stem)
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
    if marks := unnamed_channels(merged):
        listing.notes.append(
            f"names of files differ in {some(marks)} alone, as those of channels do: if they are channels, name those "
            f"that are wanted, such as --channels {channels[0]}={marks[0]}."
        )
    if not listing.images:
        raise DataError(
            f"{folder} holds no images{' but ' + some(sorted(results), 3) if results else ''}: "
            f"expected files like ID_{channels[0]}.png, one for each of "
            f"{', '.join(channels)}, or one file of {len(channels)} channel(s) per image ({', '.join(SUFFIXES)})."
        )
    ids.check_distinct((image.ID for image in listing.images), str(folder))
    return listing


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


LIST_COLUMNS = ("r_image", "g_image", "b_image", "y_image")
"""Columns of the channels, in the order red, green, blue, yellow."""
_OLD_COLUMNS = ("r_image", "y_image", "b_image", "g_image", "output_folder", "output_prefix")
"""Columns of a list without a header."""


def read_path_list(path: Path, channels: tuple[str, ...]) -> ImageListing:
    """Read a list of images; paths in it start from its own folder.

    The first line may be a header, also one behind '#'. An image's ID is its output_prefix without a '_' at the end
    and with '_' for '/'; without a prefix, the name of its green file without the channel.

    Raises:
        DataError: the list is missing, empty or lacks a column, or an ID is none or comes twice.
    """
    rows = _listed_rows(path)
    listing = ImageListing()
    for line, row in rows:
        ID = _listed_id(row, channels)
        reason = ids.fault(ID)
        if reason:
            raise DataError(f"{path} row {line}: the ID {ids.shown(ID)} {reason}: fix its output_prefix.")
        listing.images.append(_listed_image(ID, row, channels, line, path.parent))
    listing.images.sort(key=lambda image: image.ID)
    names = [image.ID for image in listing.images]
    twice = sorted({name for name, after in itertools.pairwise(names) if name == after})
    if twice:
        raise DataError(f"{path}: the ID(s) {some(twice)} come twice: give each row its own output_prefix.")
    ids.check_distinct(names, str(path))
    return listing


def _listed_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return (line, column -> value) of every row."""
    every = [(line, row, [value.lstrip("# ").lower() for value in row]) for line, row in open_rows(path).rows]
    lines = [entry for entry in every if not entry[1][0].startswith("#") or "r_image" in entry[2]]
    header = list(_OLD_COLUMNS)
    if lines and "r_image" in lines[0][2]:
        header, lines = lines[0][2], lines[1:]
    missing = [name for name in LIST_COLUMNS if name not in header]
    if missing or not lines:
        what = f"lacks the column(s) {some(missing)}" if missing else "lists no images"
        raise DataError(f"{path} {what}: expected {', '.join(LIST_COLUMNS)} and output_prefix.")
    if short := [(line, len(row)) for line, row, _ in lines if len(row) < len(LIST_COLUMNS)]:
        raise DataError(f"{path} row {short[0][0]}: has {short[0][1]} fields, expected {', '.join(header)}.")
    return [(line, dict(zip(header, [*row, *[""] * len(header)], strict=False))) for line, row, _ in lines]


def _listed_id(row: dict[str, str], channels: tuple[str, ...]) -> str:
    prefix = row.get("output_prefix", "").replace("\\", "/").strip("/").replace("/", "_").rstrip("_")
    if prefix:
        return prefix
    stem = Path(row["g_image"].replace("\\", "/")).stem
    return split_channel(stem, (*channels, "green"))[0]


def _listed_image(ID: str, row: dict[str, str], channels: tuple[str, ...], line: int, folder: Path) -> ImageFiles:
    names = tuple(as_on_disk(folder, row[column]) for column in LIST_COLUMNS)
    missing = [channel for channel, name in zip(channels, names, strict=True) if not name]
    if missing:
        return ImageFiles(ID, tuple(filter(None, names)), f"channel {', '.join(missing)} is missing (row {line})")
    foreign = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if foreign:
        return ImageFiles(ID, names, f"{foreign[0]} is no image that is read, expected {', '.join(SUFFIXES)}")
    return ImageFiles(ID, names, channels=channels)


TINTS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
"""Channel -> the samples of an RGB picture that carry its signal."""

BLEED, LEAST = 0.1, 2.0
"""Other samples may hold, on average, this share of the signal plus this many of 255 levels: what JPEG leaves there."""


def signal_of(samples: np.ndarray, channel: str, name: str) -> np.ndarray:
    """Return the one plane that an RGB picture of a single channel holds.

    Three equal samples are grey, and any of them is the plane. Else the channel's name says which samples carry the
    signal: red R, green G, blue B, yellow the mean of R and G. The other samples must be dark, and R and G of yellow
    alike: a composite picture is not taken for a channel.

    Args:
        samples: (H, W, 3) of any integer or float type.
        channel: name of the channel, '' if unknown.
        name: of the file, for messages.

    Returns:
        (H, W) of the same type.

    Raises:
        DataError: it is a colour picture.
    """
    if np.array_equal(samples[..., 0], samples[..., 1]) and np.array_equal(samples[..., 0], samples[..., 2]):
        return np.ascontiguousarray(samples[..., 0])
    carriers = TINTS.get(channel.lower())
    if carriers is None:
        raise DataError(f"{name} is a colour image, expected one grey plane: save the channel as grey.")
    planes = [samples[..., k] for k in carriers]
    signal = planes[0] if len(planes) == 1 else np.mean(planes, axis=0, dtype=np.float64)
    top = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    allowed = BLEED * float(signal.mean()) + LEAST / 255 * top
    others = [samples[..., k] for k in range(3) if k not in carriers]
    apart = float(np.abs(planes[0].astype(np.float64) - planes[-1]).mean())
    if max(float(plane.mean()) for plane in others) > allowed or apart > allowed:
        raise DataError(
            f"{name} is a colour image that is not {channel} alone, expected one plane: save the channel as grey."
        )
    if samples.dtype.kind != "f":
        signal = np.rint(signal)
    return np.ascontiguousarray(signal.astype(samples.dtype))


def in_order_of_colours(header: Header, names: Sequence[str]) -> bool:
    """Whether an RGB picture is read as channels of other names: red as the first, green as the second ..."""
    colours = ("red", "green", "blue")
    return header.names[:3] == colours and len(names) > 1 and not {name.casefold() for name in names} & {*colours}


_NUMBERED = re.compile(r"(channel|chan|ch|c)?[\s:_#-]*\d*(/\d+)?", re.IGNORECASE)
"""Names that say no more than a position: '', '2', 'Channel 2', 'C:1/4'."""


def order_of(names: Sequence[str], binding: bool, samples: int, wanted: Sequence[str], file: str) -> list[int]:
    """Return which of a file's channels are the wanted ones, in the wanted order.

    Named channels are found by name, in any order and among any number of others. Channels without
    names are taken in the order of the file.

    Args:
        names: what the file calls its channels.
        binding: whether names that fit nothing are an error, or are ignored; one that fits elsewhere is an error.
        samples: how many channels the file has.
        wanted: names of the channels that are needed.
        file: for messages.

    Raises:
        DataError: there are too few or too many channels, or not exactly one has a wanted name.
    """
    given = [name.strip().casefold() for name in names] if len(names) == samples else []
    places = [given.index(name.casefold()) if name.casefold() in given else -1 for name in wanted]
    if max(places, default=-1) < 0:  # words of longer names, such as those of files that ImageJ made a stack of
        words = [re.split(r"[\W_]+", name) for name in given]
        having = [[k for k, have in enumerate(words) if name.casefold() in have] for name in wanted]
        places = [found[0] if len(found) == 1 else -1 for found in having]
        places = places if len({*places}) == len(places) else [-1] * len(wanted)
    if given and min(places, default=-1) >= 0:
        if twice := [name for name in wanted if given.count(name.casefold()) > 1]:
            raise DataError(f"{file} has several channels of the name {some(twice)}: give each a name of its own.")
        return places
    descriptive = [name for name in names if not _NUMBERED.fullmatch(name.strip())]
    elsewhere = any(place not in (-1, k) for k, place in enumerate(places))
    if given and wanted and (elsewhere or (binding and descriptive)):
        raise DataError(
            f"{file} calls its channels {some(names, 8)}, expected {', '.join(wanted)}: name them with --channels "
            f"{wanted[0]}=NAME,... in this order."
        )
    return list(range(samples))


DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
SAVE_AS = "save it as 16 bit (ImageJ: Image, Type, 16-bit; Python: pixels.clip(0, 65535).astype('uint16'))"
"""What to do with values of other types."""


def read_header(path: Path, choice: PlaneChoice = NO_CHOICE, *, join: bool = True) -> Header:
    """Read size, samples per pixel and type of an image file without decoding it.

    Raises:
        DataError: the file is unreadable, no image, or of a kind that is refused.
    """
    if _is_zarr(path):
        header = open_zarr(path).header(choice)
        check_size(header, path.name)
    else:
        with open_raster(path, choice=choice, join=join) as raster:
            header = raster.header
            if raster.greys is not None:
                header = replace(header, palette=False, bits=8, dtype="uint8")
    if header.photometric:
        raise DataError(
            f"{path.name} is a TIFF of kind {header.photometric}, expected grey values (MINISBLACK, MINISWHITE) or RGB."
        )
    if header.palette or header.bits < 8:
        what = "a palette" if header.palette else f"{header.bits} bit"
        raise DataError(f"{path.name} is a {header.kind} with {what}, expected 8 or 16 bit grey values.")
    if header.dtype not in DTYPES:
        raise DataError(
            f"{path.name} holds {header.dtype} values, expected 8 or 16 bit without sign, or floats in 0..1: {SAVE_AS}."
        )
    return header


def check_headers(
    paths: Sequence[Path], channels: int, names: Sequence[str] = (), choice: PlaneChoice = NO_CHOICE
) -> Header:
    """Check from the headers that files make one image of `channels` channels; return the first header.

    Raises:
        DataError: what does not fit, with the file.
    """
    if len(paths) == 1:
        header = read_header(paths[0], choice)
        if _is_tinted(header, channels, names):
            return header
        order = _order(paths[0], header, names)
        if len(order) != channels:
            hint = _alpha_hint(header, names) or " Other channels are named by --channels, such as --channels DAPI,GFP."
            raise DataError(f"{paths[0].name} has {_counted(header)}, expected {channels}.{hint}")
        return header
    headers = [read_header(path, choice, join=False) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if header.samples not in (1, 3):
            raise DataError(f"{path.name} has {_counted(header)}, expected one grey plane.")
        if (header.height, header.width) != (headers[0].height, headers[0].width):
            raise DataError(
                f"{path.name} is {header.height} x {header.width}, {paths[0].name} is {headers[0].height} x "
                f"{headers[0].width}: the planes of an image must match."
            )
    return headers[0]


def _is_tinted(header: Header, channels: int, names: Sequence[str]) -> bool:
    """Whether the only channel wanted is saved as an RGB picture, of greys or tinted in its colour."""
    named = [name.casefold() for name in names]
    return channels == 1 and header.names[:3] == ("red", "green", "blue") and not set(named) & set(header.names)


def _counted(header: Header) -> str:
    text = "1 channel" if header.samples == 1 else f"{header.samples} channels"
    return f"{text} and transparency, which is none" if header.alpha else text


def _alpha_hint(header: Header, names: Sequence[str]) -> str:
    if not header.alpha or header.samples + header.alpha != len(names):
        return ""
    channels = ",".join([*names[:-1], f"{names[-1]}=alpha"])
    return f" If a channel was saved as transparency, pass --channels {channels}."


def _order(path: Path, header: Header, names: Sequence[str]) -> list[int]:
    """Return which samples of the file are the channels wanted; transparency only where it is wanted by name."""
    asked = header.alpha and "alpha" in [name.casefold() for name in names]
    samples = header.samples + (header.alpha if asked else 0)
    return order_of(header.names[:samples], header.binding, samples, names, path.name)


def read_image(
    paths: Sequence[Path],
    channels: int,
    bits: int | None = None,
    names: Sequence[str] = (),
    choice: PlaneChoice = NO_CHOICE,
) -> tuple[np.ndarray, str]:
    """Decode the files of one image.

    Args:
        paths: one file per channel, or a single file of all channels.
        channels: how many there must be.
        bits: that 16-bit files use, one of BITS; None to take the fewest that hold the largest value of the image,
            which is right only for an image that stands by itself. 8-bit files are taken as they are, floats must lie
            in 0..1.
        names: of the channels, in order: which channels of a file that names its own are meant, and which samples of
            a tinted picture carry the signal (see `signal_of`). '' where nothing is known.
        choice: what is taken of a stack.

    Returns:
        (channels, H, W) uint8 and the bits: '8', '10', '12', '14', '16' or 'float'.

    Raises:
        DataError: a file is damaged, or does not fit; the text names it.
    """
    header, planes = read_planes(paths, channels, names, choice)
    return to_uint8(planes, [path.name for path in paths], declared_bits(header) or bits)


def read_planes(
    paths: Sequence[Path], channels: int, names: Sequence[str] = (), choice: PlaneChoice = NO_CHOICE
) -> tuple[Header, list[np.ndarray]]:
    """Decode the files of one image: the header of the first, and the channels, each (H, W) of the file's own type.

    Raises:
        DataError: see `read_image`.
    """
    header = check_headers(paths, channels, names, choice)
    if len(paths) == 1:
        merged = _decode(paths[0], choice, join=True)
        if _is_tinted(header, channels, names):
            return header, [signal_of(merged[..., :3], names[0] if names else "", paths[0].name)]
        return header, [np.ascontiguousarray(merged[..., k]) for k in _order(paths[0], header, names)]
    given = names or [""] * len(paths)
    return header, [_decode_plane(path, name, choice) for path, name in zip(paths, given, strict=True)]


def declared_bits(header: Header) -> int | None:
    """Return the bits per sample that a file of 9 to 15 bits declares; None of any other."""
    return header.bits if 8 < header.bits < 16 else None


def bits_for(most: int) -> int:
    """Return the fewest of BITS that hold a value."""
    return next(bits for bits in BITS if most < 2**bits)


def to_uint8(planes: Sequence[np.ndarray], names: Sequence[str], bits: int | None) -> tuple[np.ndarray, str]:
    """Bring (H, W) planes of one image to (C, H, W) uint8, all on one scale; `names` are for messages."""
    kinds = {plane.dtype.kind for plane in planes}
    if len(kinds) > 1 or len({plane.dtype.itemsize for plane in planes}) > 1:
        kinds_text = ", ".join(str(plane.dtype) for plane in planes)
        raise DataError(f"{names[0]} and the other planes are of different types ({kinds_text}).")
    if kinds == {"f"}:
        return np.stack([_from_float(plane, names[0]) for plane in planes]), "float"
    if planes[0].dtype == np.uint8:
        return np.stack(planes), "8"
    most = max(int(plane.max()) for plane in planes)
    bits = bits or bits_for(most)
    if most >= 2**bits:
        raise DataError(f"{names[0]} or another plane has the value {most}, too large for {bits} bits: see --bits.")
    # The shift is exact both for 8-bit values that were moved up and for those that were stretched.
    return np.stack([(plane >> (bits - 8)).astype(np.uint8) for plane in planes]), str(bits)


def _from_float(plane: np.ndarray, name: str) -> np.ndarray:
    low, high = plane.min(), plane.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{name} or another plane has values that are not finite (NaN or infinite).")
    if low < 0 or high > 1:
        raise DataError(f"{name} or another plane has floats from {low:g} to {high:g}, expected 0..1: {SAVE_AS}.")
    return np.rint(plane * 255).astype(np.uint8)


def _decode_plane(path: Path, channel: str, choice: PlaneChoice) -> np.ndarray:
    """Return (H, W); three equal samples count as grey, a picture tinted in the channel's colour as its plane."""
    pixels = _decode(path, choice, join=False)
    return signal_of(pixels[..., :3], channel, path.name) if pixels.shape[-1] > 2 else pixels[..., 0]


def _decode(path: Path, choice: PlaneChoice, *, join: bool) -> np.ndarray:
    """Return (H, W, samples + alpha) of the file's own type, as it is shown."""
    header = read_header(path, choice, join=join)
    if _is_zarr(path):
        pixels = open_zarr(path).read(choice)
    else:
        with open_raster(path, choice=choice, join=join) as raster:
            greys = raster.greys
            pixels = raster.shown() if greys is None else greys[np.minimum(raster.numbers(), len(greys) - 1)]
    expected = header.height, header.width, header.samples + header.alpha
    if pixels.shape != expected or str(pixels.dtype) != header.dtype:
        raise DataError(f"{path.name} holds {pixels.dtype} {pixels.shape}, its header says {header.dtype} {expected}.")
    return pixels


def _is_zarr(path: Path) -> bool:
    return path.suffix.lower() == ".zarr"
