"""Which channel shows what, as features of cells need it: the protein, the nucleus, and the stains to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsss.core.channels import HPA_ROLES
from wsss.core.labels import HPA_CHANNELS

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
    prefix: str = ""
    """What names of features begin with."""
    shape: bool = False
    """Whether the outline of the cell matters: no channel shows a protein."""

    @property
    def other_stains(self) -> tuple[Stain, ...]:
        """All stains except the signal, the nucleus last."""
        return (*self.others, *([self.nucleus] if self.nucleus else []))


def stains_of(channels: Sequence[str], roles: Sequence[str]) -> tuple[Stains, ...]:
    """Return the views of a field that features are made of, one for each channel of the role signal.

    Without such a channel, the nuclei are what is classified, or else the cells, or all channels. Channels without a
    role are left out where others have one.

    Args:
        channels: their names.
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
        others = [k for k in sorted({*bodies, *signals}) if k != signal]
        prefix = f"{channels[signal]}: " if n else ""
        called = "protein" if is_atlas else channels[signal]
        views.append(Stains(signal, called, nucleus, tuple(map(stain, others)), prefix, is_whole and not n))
    return tuple(views)


HPA_STAINS = stains_of(HPA_CHANNELS, HPA_ROLES)
