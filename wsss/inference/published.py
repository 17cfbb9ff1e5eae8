"""Published networks that score single cells: SubCell, and the DenseNet-121 that won the Atlas's competition of 2018.

Both are written anew on timm's building blocks after their authors' public code (CellProfiling/SubCellPortable and
CellProfiling/densenet, MIT): the same weights give the same outputs. They take (N, C, S, S) crops of cells in 0..255,
uint8 or float, and return (N, L) probabilities of their classes and (N, D) embeddings. As sources of scores they come
from a path or an address, and are checked against the data set.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsss.cells.instances import Window
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import say, waiting
from wsss.core.files import digest_bytes
from wsss.core.labels import ATLAS_TO_HPA, HPA_NAMES, KAGGLE2018_TO_HPA, ClassList
from wsss.core.reading import one_line
from wsss.data.fetch import FetchError, Manners, fetch_file
from wsss.models.device import Device
from wsss.models.weights import load_weights, strip
from wsss.options.infer import parse_source
from wsss.runs.run_folder import read_tensors

SUBCELL_NAMES = (
    "Actin filaments",
    "Aggresome",
    "Cell Junctions",
    "Centriolar satellite",
    "Centrosome",
    "Cytokinetic bridge",
    "Cytoplasmic bodies",
    "Cytosol",
    "Endoplasmic reticulum",
    "Endosomes",
    "Focal adhesion sites",
    "Golgi apparatus",
    "Intermediate filaments",
    "Lipid droplets",
    "Lysosomes",
    "Microtubules",
    "Midbody",
    "Mitochondria",
    "Mitotic chromosome",
    "Mitotic spindle",
    "Nuclear bodies",
    "Nuclear membrane",
    "Nuclear speckles",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nucleoli rim",
    "Nucleoplasm",
    "Peroxisomes",
    "Plasma membrane",
    "Vesicles",
    "Negative",
)
"""SubCell's 31 classes, by the names of the Atlas."""

SUBCELL_TO_HPA = tuple(ATLAS_TO_HPA.get(name, name) for name in SUBCELL_NAMES)
"""The class of the Atlas's 19 that each is counted as; None for those without a counterpart."""
DENSENET_TO_HPA = tuple(None if (k := KAGGLE2018_TO_HPA[n]) is None else HPA_NAMES[k] for n in range(28))
"""The same of the 28 classes of 2018."""

HEAD_WIDTH = 64
"""Width of an attention head of a ViT."""


class GatedPool(nn.Module):
    """Average tokens (N, T, D) by attention, once per head: (N, heads * D)."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.attention_v, self.attention_u = nn.Linear(width, inner), nn.Linear(width, inner)
        self.attention = nn.Linear(inner, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the averages side by side."""
        gates = torch.tanh(self.attention_v(tokens)) * F.gelu(self.attention_u(tokens))
        weights = self.attention(gates).transpose(1, 2).softmax(dim=-1)
        return (weights @ tokens).flatten(1)


class SubCell(nn.Module):
    """A vision transformer, gated attention over its tokens, and the mean of one or several classifiers.

    Args:
        state: its state dict, see `read_subcell`; the sizes of all layers are taken from it.

    Raises:
        DataError: the weights are of another network.
    """

    classes = SUBCELL_TO_HPA

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            width, self.channels, patch = state["encoder.patch_embed.proj.weight"].shape[:3]
            self.size = patch * round((state["encoder.pos_embed"].shape[1] - 1) ** 0.5)
            blocks = {name.split(".")[2] for name in state if name.startswith("encoder.blocks.")}
            self.encoder = VisionTransformer(
                self.size,
                patch,
                self.channels,
                num_classes=0,
                global_pool="",
                embed_dim=width,
                depth=len(blocks),
                num_heads=width // HEAD_WIDTH,
                mlp_ratio=state["encoder.blocks.0.mlp.fc1.weight"].shape[0] / width,
                norm_layer=partial(nn.LayerNorm, eps=1e-12),
            )
            heads, inner = state["pool.attention.weight"].shape
            self.pool = GatedPool(width, inner, heads)
            self.width = width * heads
            self.classifiers = nn.ModuleList(_classifiers(state, self.width))
        except (KeyError, ValueError, ZeroDivisionError, AssertionError) as error:
            lacks = "they lack " if isinstance(error, KeyError) else ""
            raise DataError(f"the weights do not make SubCell: {lacks}{' '.join(str(error).split())}.") from error
        load_weights(self, dict(state))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Scale each crop to 0..1 over all its channels, and return probabilities and embeddings."""
        crops = crops.float()
        low, high = crops.amin((1, 2, 3), keepdim=True), crops.amax((1, 2, 3), keepdim=True)
        pooled = self.pool(self.encoder.forward_features((crops - low) / (high - low + 1e-6)))
        return torch.stack([head(pooled).sigmoid() for head in self.classifiers]).mean(dim=0), pooled


def _classifiers(state: Mapping[str, Tensor], width: int) -> list[nn.Sequential]:
    """Build the perceptrons, of the sizes that their weights have: linear, ReLU, linear, ReLU, linear."""
    heads = []
    for n in sorted({name.split(".")[1] for name in state if name.startswith("classifiers.")}, key=int):
        outputs, inputs = zip(*(state[f"classifiers.{n}.{k}.weight"].shape for k in (0, 2, 4)), strict=True)
        if [*inputs, outputs[-1]] != [width, *outputs[:-1], len(SUBCELL_NAMES)]:
            raise ValueError(f"a classifier turns {inputs[0]} values into {outputs[-1]}, expected {width} into 31")
        layers = [layer for size in zip(inputs, outputs, strict=True) for layer in (nn.Linear(*size), nn.ReLU())]
        heads.append(nn.Sequential(*layers[:-1]))
    if not heads:
        raise ValueError("there is no classifier: name its file behind that of the encoder, with a comma between them")
    return heads


_VIT = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)
"""Names of the authors' encoder -> timm's, one after the other."""


def read_subcell(files: Sequence[Mapping[str, Tensor]]) -> SubCell:
    """Build SubCell from the authors' state dicts: of the encoder with its pooling, and of each classifier.

    One dict may hold all of them, as the `state_dict` of the authors' whole model does.

    Raises:
        DataError: a dict is neither, or they do not fit together.
    """
    state: dict[str, Tensor] = {}
    for given in files:
        if all(re.match(r"\d+\.(weight|bias)$", name) for name in given):
            n = len({name.split(".")[1] for name in state if name.startswith("classifiers.")})
            state |= {f"classifiers.{n}.{name}": tensor for name, tensor in _ranked(given).items()}
            continue
        state |= {f"encoder.{name}": tensor for name, tensor in _as_timm(strip(dict(given), "encoder.")).items()}
        for name, tensor in strip(dict(given), "pool_model.").items():
            state["pool." + re.sub(r"\.[01]\.", ".", name)] = tensor  # behind dropout the layer has another number
        state |= {name: tensor for name, tensor in given.items() if name.startswith("classifiers.")}
    return SubCell(state)


def _ranked(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Number the layers of a classifier as without dropout: 0, 2, 4."""
    numbers = sorted({int(name.split(".")[0]) for name in given})
    return {re.sub(r"^\d+", lambda n: str(2 * numbers.index(int(n[0]))), name): t for name, t in given.items()}


def _as_timm(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder's tensors, and join queries, keys and values."""
    out: dict[str, Tensor] = {}
    for name, tensor in given.items():
        for pattern, new in _VIT:
            name = re.sub(pattern, new, name)
        out[name] = tensor
    for name in [name for name in out if ".query." in name]:
        parts = [out.pop(other) for kind in ("query", "key", "value") if (other := name.replace("query", kind)) in out]
        out[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return out


class DenseNet(nn.Module):
    """DenseNet-121 with a second pooling after the first, and a classifier on mean and maximum.

    Raises:
        DataError: the weights are of another network.
    """

    classes = DENSENET_TO_HPA
    channels, size, width = 4, 448, 1024

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        net: Any = timm.create_model("densenet121", in_chans=self.channels, num_classes=0)
        self.features: nn.Sequential = net.features
        self.bn1, self.fc1 = nn.BatchNorm1d(2 * self.width), nn.Linear(2 * self.width, self.width)
        self.bn2, self.logit = nn.BatchNorm1d(self.width), nn.Linear(self.width, len(self.classes))
        self.register_buffer("mean", torch.tensor(DENSENET_MEAN).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(DENSENET_STD).reshape(1, -1, 1, 1), persistent=False)
        counters = {name: t for name, t in self.state_dict().items() if name.endswith("num_batches_tracked")}
        load_weights(self, counters | dict(state))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Standardise the channels, and return probabilities and embeddings."""
        x = (crops.float() / 255 - self.get_buffer("mean")) / self.get_buffer("std")
        for name, layer in self.features.named_children():
            x = layer(x)
            if name == "pool0":
                x = F.max_pool2d(x, 2)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        embedding = self.bn2(F.relu(self.fc1(self.bn1(x))))
        return self.logit(embedding).sigmoid(), embedding


DENSENET_MEAN = (0.074598, 0.050630, 0.050891, 0.076287)
DENSENET_STD = (0.122813, 0.085745, 0.129882, 0.119411)
"""Of red, green, blue and yellow, in the competition's images."""


def read_densenet(files: Sequence[Mapping[str, Tensor]]) -> DenseNet:
    """Build the DenseNet-121 from the authors' state dict, whose other names for the same layers are left out.

    Raises:
        DataError: there are several, or it is of another network.
    """
    if len(files) != 1:
        raise DataError(f"the DenseNet-121 is one file, got {len(files)}.")
    given = {name.removeprefix("module."): tensor for name, tensor in files[0].items()}
    state = {name: tensor for name, tensor in given.items() if name.split(".")[0] in ("bn1", "fc1", "bn2", "logit")}
    for name, tensor in strip(given, "backbone.features.").items():
        # PyTorch 0.4 wrote norm.1 for norm1
        state["features." + re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", name)] = tensor
    return DenseNet(state)


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
    """Return the path of a file, fetched if it is an address, and its SHA-256, compared with '#sha256=' behind it."""
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
    """Return the channels of the images that a network takes, in its order: r, y, b, g as in the Atlas."""
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
    """Return which of the network's classes are counted as each class of the target."""
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
