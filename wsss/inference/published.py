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
from wsss.core.labels import ClassList
from wsss.core.reading import one_line
from wsss.data.fetch import FetchError, Manners, fetch_file
from wsss.models.device import Device
from wsss.models.published import DenseNet, SubCell, read_densenet, read_subcell
from wsss.options.infer import parse_source
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


@dataclass(frozen=True)
class Target:
    """The images that a network is to score."""

    name: str
    """What they are called in messages."""
    channels: tuple[str, ...]
    roles: tuple[str, ...]
    """What each channel shows."""
    classes: ClassList


def load_published(
    sources: Sequence[str], target: Target, device: Device, share: float = 0.5, pixel_um: float | None = None
) -> tuple[Published, ...]:
    """Load published networks, in the order in which they are named.

    Args:
        sources: as `infer --source` takes them, such as 'subcell=ENCODER,CLASSIFIER'.
        target: the images.
        device: where the networks run.
        share: of all of them in the blend, in [0, 1].
        pixel_um: micrometres per pixel of the original images; None for what they declare, else whole fields.

    Raises:
        ConfigError: a file cannot be fetched, or the images lack a channel or their classes are not the network's.
        DataError: a file is missing or damaged, has another digest, or is of another network.
    """
    return tuple(_load(text, target, device, share, pixel_um) for text in sources)


def _load(text: str, target: Target, device: Device, share: float, pixel_um: float | None) -> Published:
    name, letters, _ = parse_source(text)
    net, files = read_published(text)
    planes = _planes(name, letters, net.channels, target)
    outputs = _outputs(name, net.classes, target)
    return Published(name, device.settle(net).eval(), planes, outputs, tuple(files.values()), share, pixel_um)


def read_published(text: str) -> tuple[SubCell | DenseNet, dict[Path, str]]:
    """Read the network of a source 'NAME=FILE,FILE'; return it and the SHA-256 of each file.

    Raises:
        ConfigError: the text is no source, or a file cannot be fetched.
        DataError: a file is missing or damaged, has another digest, or is of another network.
    """
    name, _, files = parse_source(text)
    digests = dict(_at_hand(file, name) for file in files)
    try:
        return READERS[name]([read_tensors(path) for path in digests]), digests
    except DataError as error:
        raise DataError(f"--source {name}: {error}") from error


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
                f"--source {name}: {place} could not be fetched ({one_line(error)}): download it elsewhere and pass "
                "the file."
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


def _planes(name: str, letters: str, count: int, target: Target) -> tuple[int, ...]:
    """Return the channels of the images that a network takes, in its order: r, y, b, g as in the Atlas.

    Raises:
        ConfigError: one is missing, or it is not clear which cell stain is meant.
    """
    roles: dict[str, list[int]] = {
        role: [k for k, has in enumerate(target.roles) if has == role] for role in target.roles
    }
    stains = sorted(roles.get("cell", []), key=lambda k: {"red": 0, "yellow": 2}.get(target.channels[k], 1))
    if count == 3 and not letters and len(stains) > 1:
        raise ConfigError(
            f"--source {name}: the network takes one cell stain and {target.name} has several: pass {name}:rbg=... for "
            f"a network of microtubules, {name}:ybg=... for one of the endoplasmic reticulum."
        )
    letters = letters or {"densenet": "rgby"}.get(name) or {2: "bg", 3: "rbg", 4: "rybg"}.get(count, "")
    if len(letters) != count:
        raise ConfigError(f"--source {name}: the network takes {count} channels, expected {letters or '2, 3 or 4'}.")
    found = {"r": stains[:1], "y": stains[1:2] if "r" in letters or stains[1:] else stains}
    found |= {"b": roles.get("nucleus", []), "g": roles.get("signal", [])}
    if missing := [SHOWS[letter] for letter in letters if not found[letter]]:
        raise ConfigError(
            f"--source {name}: the network needs {some(missing)}, which {target.name} has not (channels "
            f"{some(target.channels)}): choose a network of fewer channels (SubCell's bg), or prepare it with --roles."
        )
    return tuple(found[letter][0] for letter in letters)


def _outputs(name: str, classes: Sequence[str | None], target: Target) -> tuple[tuple[int, ...], ...]:
    """Return which of the network's classes are counted as each class of the target.

    Raises:
        ConfigError: one has none.
    """
    out, unknown = [], []
    for k, wanted in enumerate(target.classes.names):
        mine = tuple(n for n, known in enumerate(classes) if known and _plain(known) == _plain(wanted))
        out.append(mine)
        unknown += [] if mine or k == target.classes.negative else [wanted]
    if unknown:
        raise ConfigError(
            f"--source {name}: {target.name} has the class {some(unknown)}, which the network does not know: it scores "
            "the 19 classes of the Human Protein Atlas, by name."
        )
    return tuple(out)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
