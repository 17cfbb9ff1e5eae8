"""The report as one HTML page that needs nothing from outside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from wsss.reports.gallery import Field
from wsss.reports.overlay import OTHER_TINT, TINTS
from wsss.reports.palette import NO_CLASS, Colour, colour, short_name


@dataclass(frozen=True)
class Crop:
    """One cell cut out."""

    uri: str
    """Its picture as a data URI."""
    name: str
    """ID of its image."""
    cell_id: int
    caption: str


@dataclass(frozen=True)
class CropGroup:
    """Cells of one kind."""

    key: str
    title: str
    about: str
    crops: Sequence[Crop]
    found: int | None = None
    """How many such cells there are, where that is known."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and what it says in words."""

    title: str
    uri: str
    about: str


@dataclass(frozen=True)
class Page:
    """All that the report shows, ready to be laid out."""

    title: str
    facts: Sequence[tuple[str, str]]
    """What was run and on what: name, value."""
    tiles: Sequence[tuple[str, float | None, str]]
    """The few figures that matter most: name, value in [0, 1], what it is."""
    classes: Sequence[Mapping[str, Any]]
    """A row a class: id, name, and the columns named in `columns`."""
    columns: Sequence[tuple[str, str, str]]
    """Columns of the table of classes: key, heading, 'count' or 'share'."""
    class_names: Sequence[str]
    channels: Sequence[str]
    tints: Sequence[str]
    """The colour of each channel, see `wsss.reports.overlay`."""
    fields: Sequence[Field]
    images: int
    """How many images there are, in the gallery or not."""
    scores_note: str
    """Where the figures come from, or why there are none."""
    training: Sequence[Figure]
    calibration: Sequence[Figure]
    mistakes: Sequence[Figure]
    """Who is mistaken for whom; empty where no truth is known."""
    groups: Sequence[CropGroup]
    failures: Sequence[tuple[str, str, str]]
    """ID, status, reason."""
    records: Sequence[tuple[str, str]]
    """Files told in full: name, text."""
    has_truth: bool
    has_maps: bool


def render(page: Page) -> str:
    """Lay out the report.

    Every text is escaped by the template engine, and a content security policy forbids the page to fetch anything.
    """
    rules = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    engine = Environment(loader=PackageLoader("wsss.reports"), **rules)  # type: ignore[arg-type]
    engine.filters.update(css=css_colour, figure=figure_text, percent=percent, short=short_name)
    places = {field.name: number for number, field in enumerate(page.fields)}
    largest = {key: max((_known(row[key]) for row in page.classes), default=0) for key, _, _ in page.columns}
    setup = {
        "classes": [
            {"name": name, "short": short_name(name), "colour": css_colour(colour(k))}
            for k, name in enumerate(page.class_names)
        ],
        "tints": [css_colour(_tint(name)) for name in page.tints],
        "pale": css_colour(NO_CLASS),
    }
    template = engine.get_template("report.html")
    return template.render(page=page, places=places, largest=largest, setup=setup, colour=colour)


def css_colour(rgb: Colour) -> str:
    """Return '#rrggbb'."""
    return "#" + "".join(f"{part:02x}" for part in rgb)


def figure_text(value: float | None) -> str:
    """Return a share with three digits, or a dash where there is none."""
    return f"{value:.3f}" if _known(value) or value == 0 else "–"


def percent(value: float | None, most: float = 1.0) -> str:
    """Return the length of a bar, a number of percent of `most`."""
    return f"{100 * _known(value) / most:.1f}" if most else "0"


def _known(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else float(value)


def _tint(channel: str) -> Colour:
    red, green, blue = (round(255 * part) for part in TINTS.get(channel, OTHER_TINT))
    return red, green, blue
