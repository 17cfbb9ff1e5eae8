"""What microscopes write: the bits of a value, the channels of an image, and what each channel shows (its stain)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsss.core.checks import ConfigError, nearest, some
from wsss.core.files import composed
from wsss.core.labels import HPA_CHANNELS

BITS = (8, 10, 12, 14, 16)
"""Bits that microscopes use of files of 16."""

ROLES = ("nucleus", "signal", "cell", "outline")
"""What a channel shows: nuclei; the protein to be classified; what fills the cell; the cells' borders."""
ALIASES = {"nuclei": "nucleus", "dna": "nucleus", "protein": "signal", "cytoplasm": "cell", "membrane": "outline"}
HPA_ROLES = ("cell", "signal", "nucleus", "cell")
"""Roles of red, green, blue and yellow."""

_OF_NAMES = {**dict(zip(HPA_CHANNELS, HPA_ROLES, strict=True)), **{role: role for role in ROLES}, **ALIASES}
_TINTS = {"nucleus": ("blue",), "signal": ("green",), "cell": ("red", "yellow"), "outline": ("yellow",)}


def channel_names(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read 'red=Cy3,green,...': the names of the channels, and what the files call them.

    Raises:
        ConfigError: a name comes twice, in whatever case, or holds more than letters, digits and '-'.
    """
    parts = [part.partition("=") for part in composed(text).split(",")]
    names = tuple(name.strip() for name, _, _ in parts)
    in_files = tuple(other.strip() or name.strip() for name, _, other in parts)
    wrong = [name for name in names if not name.replace("-", "").isalnum()]
    if wrong or any(len({name.casefold() for name in every}) < len(every) for every in (names, in_files)):
        raise ConfigError(
            f"--channels is '{text}', expected different names of letters and digits with commas between them, such as "
            "DAPI,GFP or nucleus=DAPI,signal=GFP."
        )
    return names, in_files


SEPARATORS = "_- ."
"""What may stand between the ID and the channel in a file's name."""
_GUID = re.compile(r"(?<=_w\d)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)
"""What MetaMorph puts behind the channel."""
_GLUED = re.compile(r"C\d\d?", re.IGNORECASE)
"""A channel that stands behind a digit without a separator, as in Yokogawa's ...A01Z01C01 and Nikon's ...xy01c1."""
_OF_IMAGEJ = re.compile(r"C\d+", re.IGNORECASE)
"""What ImageJ puts before the ID; other words there, as in cell-1, are part of it."""


def split_channel(stem: str, channels: Iterable[str]) -> tuple[str, str]:
    """Return ID and channel of a file's name without its suffix; the channel may be in any case.

    Names are '<ID>_<channel>', with another of SEPARATORS for '_', or 'C1-<ID>', as ImageJ splits channels.
    Where several fit, it is the longest; where none does, the whole name is the ID and the channel ''.
    """
    stem = _GUID.sub("", stem)
    plain = stem.lower()
    longer = [name for name in channels if len(name) + 1 < len(stem)]
    ending = [name for name in longer if plain.endswith(name.lower())]
    if fitting := [name for name in ending if stem[-len(name) - 1] in SEPARATORS]:
        channel = max(fitting, key=len)
        return stem[: -len(channel) - 1], channel
    if glued := [name for name in ending if _GLUED.fullmatch(name) and stem[-len(name) - 1].isdigit()]:
        return stem[: -len(glued[0])], glued[0]
    first, _, ID = stem.partition("-")
    channel = next((name for name in longer if name.lower() == first.lower() and _OF_IMAGEJ.fullmatch(name)), "")
    return (ID, channel) if channel else (stem, "")


def with_channel(ID: str, channel: str) -> list[str]:
    """Return the names without suffix that the file of a channel may have, see `split_channel`."""
    in_front = [f"{channel}-{ID}"] if _OF_IMAGEJ.fullmatch(channel) else []
    glued = [f"{ID}{channel}"] if _GLUED.fullmatch(channel) else []
    return [*(f"{ID}{separator}{channel}" for separator in SEPARATORS), *in_front, *glued]


_STAINS = r"dapi|hoechst|e?[gycr]fp|mcherry|fitc|tritc|txred|texasred|cy[2357]|alexa\d+|af\d{3}|red|green|blue|yellow"
_MARK = re.compile(
    r"(?:(?<![a-z0-9])(?:w\d[a-z]+|(?:w|ch|c)\d{1,2}|channel\d{1,3}|c\d{3}(?=z\d))|(?<=\d)c\d\d?$)(?!\d)"
    rf"|(?<![a-z0-9])(?:{_STAINS})(?![a-z0-9])",
    re.IGNORECASE,
)


def unnamed_channels(stems: Iterable[str]) -> list[str]:
    """Return in what names differ that are alike but for w1 and w2, ch1 and ch2, or the names of stains, if most do.

    Where they go on in many ways behind it, it is that word alone, which --channels cannot name.

    Example:
        >>> unnamed_channels(["r01-ch1sk1", "r01-ch2sk1", "r02-ch1sk1", "r02-ch2sk1"])
        ['ch1sk1', 'ch2sk1']
    """
    marks: dict[str, set[tuple[str, str]]] = {}
    stems = [_GUID.sub("", stem) for stem in stems]
    for stem in stems:
        if found := _MARK.search(stem):
            mark = stem[found.start() :] if found.start() else found[0]  # what --channels can name
            rest = stem[found.end() :].replace(found[0], "*")  # it may stand there twice
            marks.setdefault(f"{stem[: found.start()]}*{rest}", set()).add((found[0], mark))
    several = [of_image for of_image in marks.values() if len(of_image) > 1]
    if 2 * sum(map(len, several)) <= len(stems):
        return []
    words, named = ({pair[k] for of_image in several for pair in of_image} for k in (0, 1))
    return sorted(named if len(named) == len(words) else words)


def default_roles(channels: Sequence[str]) -> tuple[str, ...]:
    """Return what channels show by their names: red, green, blue and yellow as in the Atlas, or a role's own name."""
    return tuple(_OF_NAMES.get(name.lower(), "") for name in channels)


def parse_roles(text: str, channels: Sequence[str]) -> tuple[str, ...]:
    """Read 'nucleus=DAPI,signal=GFP,cell=Tubulin+ER': the role of each channel, '' for none.

    Args:
        text: '' for the roles that the names of the channels say.

    Raises:
        ConfigError: no such role or channel, or two roles of one channel.
    """
    if not text:
        return default_roles(channels)
    roles, known = dict.fromkeys(channels, ""), {name.casefold(): name for name in channels}
    for part in composed(text).split(","):
        name, _, wanted = (word.strip() for word in part.partition("="))
        role = ALIASES.get(name.lower(), name.lower())
        if role not in ROLES:
            raise ConfigError(f"--roles has '{name}', expected ROLE=CHANNEL with one of {', '.join(ROLES)}.")
        for word in wanted.split("+"):
            channel = known.get(word.strip().casefold(), "")
            if not channel:
                hint = nearest(word, channels)
                raise ConfigError(f"--roles names the channel '{word}', expected one of {some(channels, 20)}.{hint}")
            if roles[channel]:
                raise ConfigError(f"--roles gives {channel} two roles, {roles[channel]} and {role}: leave one.")
            roles[channel] = role
    return tuple(roles.values())


def roles_text(channels: Sequence[str], roles: Sequence[str]) -> str:
    """Return roles as --roles takes them, such as 'nucleus=DAPI,cell=Tubulin+ER'; 'none' without any."""
    of_role = {role: [name for name, given in zip(channels, roles, strict=True) if given == role] for role in ROLES}
    return ",".join(f"{role}={'+'.join(names)}" for role, names in of_role.items() if names) or "none"


def roles_notes(channels: Sequence[str], roles: Sequence[str]) -> list[str]:
    """Return what the user should know of channels of which nothing says what they show, a line each."""
    if not any(roles):
        return [
            f"nothing says what the channels show, so cells are not found by their stains: pass --roles, such as "
            f"--roles nucleus={channels[0]}, or bring label maps (segment --backend masks)."
        ]
    idle = [name for name, role in zip(channels, roles, strict=True) if not role]
    return [f"no role for {', '.join(idle)}: `segment` and features leave it out; --roles names one."] if idle else []


def tint_names(channels: Sequence[str], roles: Sequence[str]) -> tuple[str, ...]:
    """Return the colour that each channel is drawn in: by its role, else its own name; white if it is the only one.

    A channel without a role, beside others that have one, gets '': it would cover them. Colours are drawn all the same.
    """
    if len(channels) == 1:
        return ("white",)
    if set(channels) <= set(HPA_CHANNELS) and tuple(roles) == default_roles(channels):
        return tuple(channels)
    left = {role: list(tints) for role, tints in _TINTS.items()}
    tints = [left[role].pop(0) if left.get(role) else name for name, role in zip(channels, roles, strict=True)]
    idle = [any(roles) and not role and name not in HPA_CHANNELS for name, role in zip(channels, roles, strict=True)]
    return tuple("" if off else tint for tint, off in zip(tints, idle, strict=True))


_WORDS = {"red": "microtubules", "yellow": "endoplasmic reticulum", "blue": "DNA"}
"""What the Atlas's channels show."""


@dataclass(frozen=True)
class Stain:
    """A channel other than the protein's."""

    name: str
    channel: int
    words: str
    """What it shows."""


@dataclass(frozen=True)
class Stains:
    """The channels of a field, seen from one that is to be classified."""

    signal: int
    """The channel that is classified: the protein's."""
    called: str = "protein"
    """What it is called in words."""
    nucleus: Stain | None = None
    """The nuclear stain, unless it is the signal."""
    others: tuple[Stain, ...] = ()
    """Further stains of the cell."""
    other_stains: tuple[Stain, ...] = ()
    """All of these, the nucleus last."""
    prefix: str = ""
    """What names of features begin with."""
    shape: bool = False
    """Whether the outline of the cell matters: no channel shows a protein."""


def stains_of(channels: Sequence[str], roles: Sequence[str]) -> tuple[Stains, ...]:
    """Return the views of a field that features are made of, one for each channel of the role signal.

    Without such a channel, the nuclei are what is classified, or else the cells, or all channels. Channels without a
    role are left out where others have one.

    Args:
        roles: what each shows, '' for none.
    """
    places: dict[str, list[int]] = {role: [k for k, given in enumerate(roles) if given == role] for role in set(roles)}
    nuclei = places.get("nucleus", [])
    bodies = places.get("cell", []) + places.get("outline", [])
    signals = places.get("signal") or nuclei[:1] or bodies[:1] or list(range(len(channels)))
    is_atlas = tuple(channels) == HPA_CHANNELS and tuple(roles) == HPA_ROLES
    is_whole = "signal" not in places

    def stain(k: int) -> Stain:
        return Stain(channels[k], k, _WORDS[channels[k]] if is_atlas else channels[k])

    nucleus = next((stain(k) for k in nuclei if k not in signals), None)
    views = []
    for n, signal in enumerate(signals):
        others = tuple(stain(k) for k in sorted({*bodies, *signals}) if k != signal)
        other_stains = (*others, nucleus) if nucleus else others
        prefix = f"{channels[signal]}: " if n else ""
        called = "protein" if is_atlas else channels[signal]
        views.append(Stains(signal, called, nucleus, others, other_stains, prefix, is_whole and not n))
    return tuple(views)


HPA_STAINS = stains_of(HPA_CHANNELS, HPA_ROLES)
