"""Which planes of a stack make an image: along Z, time and other axes without channels, the user chooses."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsss.core.checks import ConfigError, DataError

CHANNEL_AXES = "CSIQ"
"""Axes that hold channels: channels, samples of a pixel, and pages that no metadata describes (I, Q)."""
UNNAMED = "IQ"
PROJECTIONS = ("max", "mean")
NAMES = {"Z": "Z (focus)", "T": "T (time)", "P": "P (phase or position)", "R": "R (position)", "A": "A (angle)"}


@dataclass(frozen=True)
class PlaneChoice:
    """Which planes of a stack are used."""

    planes: tuple[tuple[str, int], ...] = ()
    """(axis, number from 1) pairs; axis '' stands for the only one there is."""
    project: str = ""
    """How the other axes are projected: max, mean, or '' for not at all."""

    def __bool__(self) -> bool:
        return bool(self.planes or self.project)


NO_CHOICE = PlaneChoice()


def parse_choice(plane: str, project: str) -> PlaneChoice:
    """Read `--plane` ('3' or 'Z=3,T=1', counted from 1) and `--project` ('max', 'mean' or '').

    Raises:
        ConfigError: it is neither.
    """
    if project and project not in PROJECTIONS:
        raise ConfigError(f"--project is '{project}', expected one of {', '.join(PROJECTIONS)}.")
    planes = []
    for part in filter(None, (part.strip() for part in plane.split(","))):
        axis, equals, number = part.rpartition("=")
        axis = axis.strip().upper()
        if not number.strip().isdecimal() or int(number) < 1 or (equals and len(axis) != 1):
            raise ConfigError(
                f"--plane is '{plane}', expected a number from 1 up such as 3, or Z=3,T=1 where there are several axes."
            )
        planes.append((axis, int(number)))
    if len({axis for axis, _ in planes}) < len(planes) or (len(planes) > 1 and any(not axis for axis, _ in planes)):
        raise ConfigError(f"--plane is '{plane}', expected one number for each axis, such as Z=3,T=1.")
    if project and any(not axis for axis, _ in planes):
        raise ConfigError(
            f"--plane {plane} and --project {project} are two ways to make one plane: leave one out, or name the axis "
            f"of the plane (--plane Z={plane.strip()}) where the other axes are to be projected."
        )
    return PlaneChoice(tuple(planes), project)


@dataclass(frozen=True)
class Stack:
    """Pages of one size along named axes; pixels are still in the file."""

    axes: str
    """One letter for each axis that runs over pages."""
    lengths: tuple[int, ...]
    page_axes: str
    """YX, YXS or SYX."""
    page_shape: tuple[int, ...]
    page: Callable[[tuple[int, ...]], np.ndarray]
    """Index along `axes` -> the page, of `page_shape`."""
    names: tuple[str, ...] = ()
    """What the file calls its channels."""
    binding: bool = False
    """Whether `names` are meant as names of channels; ImageJ's labels may be anything."""
    pixel_um: float = 0.0
    """Edge of a pixel in µm, 0 where the file does not say."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as stored."""
        at = self.page_axes.index("Y"), self.page_axes.index("X")
        return self.page_shape[at[0]], self.page_shape[at[1]]

    def samples(self, choice: PlaneChoice | None, where: str) -> int:
        """Return how many channels there are, those that are declared transparent included.

        Args:
            choice: what is taken of it; None where the command has no options to choose by.
            where: the file, for messages.

        Raises:
            DataError: an axis longer than 1 holds no channels and nothing is chosen of it, or two axes hold channels.
        """
        can_choose, choice = choice is not None, choice or NO_CHOICE
        apart = self._apart(choice)
        chosen = [f"{NAMES.get(axis, axis)}: {n}" for axis, n in apart]
        for axis, n in apart:
            if not choice.project and self._plane(choice, axis, len(apart)) is None:
                options = f"pass --plane N (1 to {n}{', or Z=3,T=1' if len(apart) > 1 else ''}), --project max, or "
                raise DataError(
                    f"{where} is a stack ({', '.join(chosen)} planes), and Z, time and positions are no channels: "
                    f"{options if can_choose else ''}save one plane."
                )
            number = self._plane(choice, axis, len(apart))
            if number is not None and number > n:
                raise DataError(f"{where} has {n} planes along {axis}, so --plane {number} is none of them.")
        channels = [(axis, n) for axis, n in self._all() if axis in CHANNEL_AXES and n > 1 and (axis, n) not in apart]
        if len(channels) > 1:
            axes = ", ".join(f"{axis} {n}" for axis, n in channels)
            raise DataError(f"{where} has several axes of channels ({axes}), expected one: save one plane per channel.")
        return channels[0][1] if channels else 1

    def chosen(self, choice: PlaneChoice | None) -> bool:
        """Return whether something of it is taken and the rest left."""
        return bool(choice and self._apart(choice))

    def read(self, choice: PlaneChoice | None, where: str) -> np.ndarray:
        """Return (H, W, samples).

        Raises:
            DataError: see `samples`.
        """
        samples, choice = self.samples(choice, where), choice or NO_CHOICE
        apart = dict(self._apart(choice))
        one: list[Sequence[int]] = []
        over: list[Sequence[int]] = []
        for axis, n in zip(self.axes, self.lengths, strict=True):
            number = self._plane(choice, axis, len(apart)) if axis in apart else None
            projected = axis in apart and number is None
            one.append([0] if projected else [number - 1] if number is not None else range(n))
            over.append(range(n) if projected else [0])
        pages = [self._projected(index, over, choice.project) for index in itertools.product(*one)]
        pages = [np.moveaxis(page, self.page_axes.index("S"), -1) if "S" in self.page_axes else page for page in pages]
        whole = pages[0] if len(pages) == 1 else np.stack(pages, axis=-1)
        return whole.reshape(*self.size, samples)

    def _projected(self, index: tuple[int, ...], over: list[Sequence[int]], project: str) -> np.ndarray:
        count, out = 0, None
        for step in itertools.product(*over):
            page = self.page(tuple(a + b for a, b in zip(index, step, strict=True)))
            count += 1
            if out is None:
                dtype, out = page.dtype, page.astype(np.float64) if project == "mean" else page
            else:
                out = out + page if project == "mean" else np.maximum(out, page)
        assert out is not None
        if project != "mean" or count == 1:
            return out.astype(dtype, copy=False)
        return (out / count if dtype.kind == "f" else np.rint(out / count)).astype(dtype)

    def _all(self) -> list[tuple[str, int]]:
        in_page = [(axis, n) for axis, n in zip(self.page_axes, self.page_shape, strict=True) if axis not in "YX"]
        return [*zip(self.axes, self.lengths, strict=True), *in_page]

    def _apart(self, choice: PlaneChoice) -> list[tuple[str, int]]:
        """Return the axes longer than 1 that hold no channels; pages without a name count where something is chosen."""
        apart = [(axis, n) for axis, n in self._all() if axis not in CHANNEL_AXES and n > 1]
        if not apart and choice:
            pages = [(axis, n) for axis, n in zip(self.axes, self.lengths, strict=True) if axis in UNNAMED and n > 1]
            return pages
        return apart

    def _plane(self, choice: PlaneChoice, axis: str, apart: int) -> int | None:
        """Return the number that is chosen along an axis, from 1; None without one."""
        chosen = dict(choice.planes)
        return chosen.get(axis, chosen.get("") if apart == 1 else None)


MOST_PLANES = 2**16
"""Planes of a file, at most, over all its images."""
