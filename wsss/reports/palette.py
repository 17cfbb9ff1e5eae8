"""One colour and one short name per class, the same in every picture."""

import colorsys

from wsss.core.labels import HPA_NAMES

Colour = tuple[int, int, int]

_HPA = (
    ("Nucpl", (60, 150, 255)),
    ("NucMem", (0, 225, 255)),
    ("Nucleoli", (255, 60, 60)),
    ("FibCen", (255, 165, 165)),
    ("Speckle", (176, 128, 255)),
    ("NucBod", (255, 110, 235)),
    ("ER", (255, 230, 0)),
    ("Golgi", (255, 135, 0)),
    ("IntFil", (185, 255, 90)),
    ("Actin", (0, 190, 60)),
    ("Microt", (190, 115, 50)),
    ("Spindle", (255, 255, 255)),
    ("Centro", (110, 80, 255)),
    ("PlasMem", (0, 255, 165)),
    ("Mito", (225, 0, 140)),
    ("Aggre", (150, 165, 0)),
    ("Cytosol", (255, 210, 150)),
    ("Vesicle", (0, 150, 150)),
    ("Neg", (150, 150, 150)),
)
_SHORT = {name: short for name, (short, _) in zip(HPA_NAMES, _HPA, strict=True)}

NO_CLASS: Colour = (235, 235, 235)
"""Outline of a cell of which nothing is known."""


def colour(k: int) -> Colour:
    """Return the RGB colour of class `k`: fixed by hand for the first 19, then turning round the hues."""
    if k < len(_HPA):
        return _HPA[k][1]
    red, green, blue = colorsys.hsv_to_rgb((k * 0.618034) % 1, 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(plate: Colour) -> Colour:
    """Return black or white, whichever is easier to read on `plate`."""
    red, green, blue = plate
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 115 else (255, 255, 255)


def short_name(name: str) -> str:
    """Return a class name short enough to stand on a cell: at most 8 letters."""
    return _SHORT.get(name, name[:8])
