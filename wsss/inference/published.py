"""Published networks as sources of scores: their files, by path or address, and how they fit a data set."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss.cells.instances import Window
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say, waiting
from wsss.core.files import digest_bytes
from wsss.data.catalog import DataSet
from wsss.data.fetch import FetchError, Manners, fetch_file
from wsss.models.device import Device
from wsss.models.published import DenseNet, SubCell, read_densenet, read_subcell
from wsss.options.infer import InferOptions, parse_source
from wsss.runs.run_folder import read_tensors

READERS: dict[str, Callable[[Sequence[dict[str, Tensor]]], SubCell | DenseNet]]
READERS = {"subcell": read_subcell, "densenet": read_densenet}
MANNERS = Manners("wsss", deadline=3600)
"""How servers of weights, files of some 350 MB, are treated."""
PIXEL_UM, RIM_UM = 0.16, 0.24
"""SubCell's authors cut out 896 px of 0.08 um, keep 3 px around the cell, and halve the size. The DenseNet's show it
whole fields, 164 um in 1024 px."""
SHOWS = {
    "r": "microtubules (a channel called red, or the first of role cell)",
    "y": "the endoplasmic reticulum (a channel called yellow, or the second of role cell)",
    "b": "nuclei (role nucleus)",
    "g": "the protein (role signal)",
}
"""What the letters of the authors' channels stand for."""


@dataclass(frozen=True)
class Published:
    """A published network, ready to score the cells of a data set."""

    name: str
    net: SubCell | DenseNet
    planes: tuple[int, ...]
    """The channels of the data set that it takes, in its order."""
    outputs: tuple[tuple[int, ...], ...]
    """For each class of the data set the network's classes that are counted as it; none for Negative where the network
    does not know it."""
    digests: tuple[str, ...]
    """SHA-256 of each of its files."""
    share: float
    """Weight of all published networks in the blend."""
    pixel_um: float | None
    """Micrometres per pixel of the original images; None for what they declare, else whole fields of the Atlas."""

    @property
    def window(self) -> Window:
        """How it wants cells to be cut out."""
        return Window(self.net.size, PIXEL_UM, RIM_UM)

    def facts(self) -> dict[str, Any]:
        """Return what stands in provenance.json."""
        pixel = {} if self.pixel_um is None else {"pixel_um": self.pixel_um}
        return {
            "sha256": list(self.digests),
            "planes": list(self.planes),
            "share": self.share,
            "seen": "unknown",
        } | pixel

    def to_classes(self, probs: np.ndarray) -> np.ndarray:
        """Turn (N, L) probabilities into those of the data set's classes, (N, K): the highest of those counted as one.

        Negative is the product of 1 - p over the other classes where the network does not know it.
        """
        scores = [probs[:, list(k)].max(axis=1) if k else np.prod(1 - probs, axis=1) for k in self.outputs]
        return np.stack(scores, axis=1).astype(np.float32)


def load_published(options: InferOptions, data: DataSet, device: Device) -> tuple[Published, ...]:
    """Load the networks of `--source`, in the order in which they are named.

    Raises:
        ConfigError: a file cannot be fetched, or the data set lacks a channel or its classes are not the network's.
        DataError: a file is missing or damaged, has another digest, or is of another network.
    """
    return tuple(_load(text, options, data, device) for text in options.source)


def _load(text: str, options: InferOptions, data: DataSet, device: Device) -> Published:
    name, letters, files = parse_source(text)
    paths = [_at_hand(file, name) for file in files]
    try:
        net = READERS[name]([read_tensors(path) for path, _ in paths])
    except DataError as error:
        raise DataError(f"--source {name}: {error}") from error
    return Published(
        name,
        device.settle(net).eval(),
        _planes(name, letters, net.channels, data),
        _outputs(name, net.classes, data),
        tuple(digest for _, digest in paths),
        options.source_share,
        options.pixel_um,
    )


def _at_hand(file: str, name: str) -> tuple[Path, str]:
    """Return the path of a file, fetched if it is an address, and its SHA-256, which must be the one behind '#sha256='.

    Raises:
        ConfigError: it cannot be fetched.
        DataError: it is not there, or has another digest.
    """
    place, _, wanted = file.partition("#sha256=")
    path = Path(place)
    if is_address := place.startswith(("http://", "https://")):
        own_name = re.sub(r"[^\w.-]", "_", place.rpartition("/")[2])
        path = Path(torch.hub.get_dir()) / "wsss" / f"{digest_bytes(place.encode())}-{own_name}"
        try:
            with waiting(f"fetching {place}"):
                fetch_file(place, path, MANNERS)
        except FetchError as error:
            raise ConfigError(
                f"--source {name}: {place} could not be fetched ({error}): download it elsewhere and pass the file."
            ) from error
    if not path.is_file():
        raise DataError(f"--source {name}: {path} does not exist: expected a .safetensors or .pth file of weights.")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(wanted.lower()):
        raise DataError(
            f"--source {name}: {path} has the SHA-256 {digest}, expected {wanted}: remove it, or correct that."
        )
    if is_address and not wanted:
        say(f"{path}: fetched from {place}; to have it compared next time, pass {place}#sha256={digest}")
    return path, digest


def _planes(name: str, letters: str, count: int, data: DataSet) -> tuple[int, ...]:
    """Return the channels of the data set that a network takes, in its order: r, y, b, g as in the Atlas.

    Raises:
        ConfigError: one is missing, or it is not clear which cell stain is meant.
    """
    roles: dict[str, list[int]] = {role: [k for k, has in enumerate(data.roles) if has == role] for role in data.roles}
    stains = sorted(roles.get("cell", []), key=lambda k: {"red": 0, "yellow": 2}.get(data.channels[k], 1))
    if count == 3 and not letters and len(stains) > 1:
        raise ConfigError(
            f"--source {name}: the network takes one cell stain and {data.folder} has several: pass {name}:rbg=... for "
            f"a network of microtubules, {name}:ybg=... for one of the endoplasmic reticulum."
        )
    letters = letters or {"densenet": "rgby"}.get(name) or {2: "bg", 3: "rbg", 4: "rybg"}.get(count, "")
    if len(letters) != count:
        raise ConfigError(f"--source {name}: the network takes {count} channels, expected {letters or '2, 3 or 4'}.")
    found = {"r": stains[:1], "y": stains[1:2] if "r" in letters or stains[1:] else stains}
    found |= {"b": roles.get("nucleus", []), "g": roles.get("signal", [])}
    if missing := [SHOWS[letter] for letter in letters if not found[letter]]:
        raise ConfigError(
            f"--source {name}: the network needs {some(missing)}, which {data.folder} has not (channels "
            f"{some(data.channels)}): choose a network of fewer channels (SubCell's bg), or prepare it with --roles."
        )
    return tuple(found[letter][0] for letter in letters)


def _outputs(name: str, classes: Sequence[str | None], data: DataSet) -> tuple[tuple[int, ...], ...]:
    """Return which of the network's classes are counted as each class of the data set.

    Raises:
        ConfigError: one has none.
    """
    out, unknown = [], []
    for k, wanted in enumerate(data.classes.names):
        mine = tuple(n for n, known in enumerate(classes) if known and _plain(known) == _plain(wanted))
        out.append(mine)
        unknown += [] if mine or k == data.classes.negative else [wanted]
    if unknown:
        raise ConfigError(
            f"--source {name}: {data.folder} has the class {some(unknown)}, which the network does not know: it scores "
            "the 19 classes of the Human Protein Atlas, by name."
        )
    return tuple(out)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
