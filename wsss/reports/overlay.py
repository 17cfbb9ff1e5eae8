"""Pictures of one image with its cells: outlines in class colours, names and scores, a legend. Needs no torch.

A page is a row of panels under a title and over a legend. Every panel is an RGB array; see `overlay_page`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.cells.instances import cell_boxes
from wsss.core.labels import HPA_CHANNELS
from wsss.reports.figures import NO_CLASS, Colour, colour, ink_on, short_names

TINTS = {
    "red": (0.8, 0.05, 0.0),
    "green": (0.1, 1.0, 0.1),
    "blue": (0.1, 0.3, 1.0),
    "yellow": (0.22, 0.2, 0.0),
    "white": (1.0, 1.0, 1.0),
}
"""What each channel adds to R, G, B: the protein leads, the nucleus is a blue that screens show, ER is faint."""
OTHER_TINT = (0.5, 0.5, 0.5)
"""What a channel of any other name adds."""

INK: Colour = (240, 240, 240)
PAPER: Colour = (18, 18, 20)
LEAST_RANGE = 48
"""Grey levels a channel's contrast is stretched from at least, so that noise of an empty channel stays dark."""


@dataclass(frozen=True)
class Note:
    """The annotation of one cell: its classes give the colours, the text is written on it."""

    classes: tuple[int, ...]
    """The surest first; none for a cell of which no class is sure."""
    text: str

    @property
    def colour(self) -> Colour:
        """Return that of the first class."""
        return colour(self.classes[0]) if self.classes else NO_CLASS


@dataclass(frozen=True)
class Panel:
    """A picture with a line of text above it."""

    picture: np.ndarray
    """(h, w, 3) uint8."""
    caption: str


def composite(image: np.ndarray, tints: Sequence[str] = HPA_CHANNELS) -> np.ndarray:
    """Merge channels into one RGB picture, the contrast of each stretched to its own range.

    Args:
        image: (C, H, W) uint8.
        tints: C names out of TINTS; any other is grey, and '' is left out.

    Returns:
        (H, W, 3) uint8.
    """
    rgb = np.zeros((*image.shape[1:], 3), np.float32)
    for name, plane in zip(tints, image, strict=True):
        if name:
            rgb += stretch(plane)[..., None] * np.array(TINTS.get(name, OTHER_TINT), np.float32)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def stretch(plane: np.ndarray) -> np.ndarray:
    """Stretch the contrast of one (H, W) uint8 channel to its own range, and lighten it: (H, W) float32 in [0, 1]."""
    low, high = np.percentile(plane[::2, ::2], (5, 99.7))
    grey = np.clip((plane - np.float32(low)) / np.float32(max(high - low, LEAST_RANGE)), 0, 1)
    return np.asarray(grey**0.8, np.float32)


def fit(picture: np.ndarray, edge: int, *, labels: bool = False) -> np.ndarray:
    """Scale a picture or label map (labels=True: nearest neighbour) so that its longer edge is `edge` px."""
    height, width = picture.shape[:2]
    scale = edge / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, shape, interpolation=cv2.INTER_NEAREST if labels else smooth))


def scale_bar(width_um: float) -> tuple[float, str] | None:
    """Return the scale bar of a field: its length in percent of the width, and in words; None without a width.

    It is the longest of 1, 2, 5, 10, 20, ... µm that takes no more than a quarter of the width.

    Args:
        width_um: of the field in µm; 0 where it is not known.
    """
    if width_um <= 0:
        return None
    power = 10.0 ** math.floor(math.log10(width_um / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_um / 4)
    return 100 * length / width_um, f"{length:g} µm"


def draw_scale(picture: np.ndarray, scale: tuple[float, str] | None) -> np.ndarray:
    """Return an (H, W, 3) picture with a scale bar at the lower right, as `scale_bar` gives it; None leaves it out."""
    if scale is None:
        return picture
    height, width = picture.shape[:2]
    right, low, length = round(0.97 * width), round(0.97 * height), round(scale[0] / 100 * width)
    sheet = Image.fromarray(picture)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((right - length, low - 3, right, low), fill="white")
    place = (right - length / 2, low - 6)
    text = scale[1].replace("µ", "u")  # the font has no such letter
    pen.text(place, text, fill="white", font=_font(16), anchor="mb", stroke_width=2, stroke_fill="black")
    return np.asarray(sheet)


def mark_cells(
    picture: np.ndarray, label_map: np.ndarray, notes: Mapping[int, Note], *, text: bool = True
) -> np.ndarray:
    """Draw the outline of every cell in the colours of its first two classes and, if wanted, its text on it.

    Args:
        picture: (H, W, 3) uint8.
        label_map: (H, W) int32 of the same size, 0 background; ids may have gaps.
        notes: cell id -> note; cells without one get a thin pale outline.
        text: write the notes' texts; lines part at a blank, and cells too small for them stay bare.

    Returns:
        (H, W, 3) uint8, a new picture.
    """
    out = picture.copy()
    width = max(2, round(max(picture.shape[:2]) / 400))
    places: list[tuple[Note, tuple[float, float], np.ndarray]] = []
    ids, boxes = cell_boxes(label_map)
    for cell_id, (y0, x0, y1, x1) in zip(ids.tolist(), boxes.tolist(), strict=True):
        mask = np.pad((label_map[y0:y1, x0:x1] == cell_id).astype(np.uint8), 1)
        note = notes.get(cell_id)
        lines = [colour(k) for k in note.classes[:2]] if note and note.classes else [NO_CLASS]
        outer = mask
        for line in lines:
            inner = cv2.erode(outer, np.ones((3, 3), np.uint8), iterations=width if note and note.classes else 1)
            out[y0:y1, x0:x1][(outer > inner)[1:-1, 1:-1]] = line
            outer = inner
        if note:
            places.append((note, (y0 - 1, x0 - 1), mask))
    if not text:
        return out
    sheet = Image.fromarray(out)
    pen = ImageDraw.Draw(sheet)
    for note, corner, mask in places:
        _write_on_cell(pen, note, corner, mask, sheet.size)
    return np.asarray(sheet)


def heat(image: np.ndarray, cam01: np.ndarray, *, green: int = 1) -> np.ndarray:
    """Lay a class activation map over the grey protein channel.

    Args:
        image: (C, H, W) uint8.
        cam01: (h, w) float in [0, 1], of any size; it is stretched over the image.
        green: number of the protein channel.

    Returns:
        (H, W, 3) uint8: grey where the map is 0, through red to yellow where it is 1.
    """
    plane = composite(image[green : green + 1], ("grey",)).astype(np.float32)
    full = cv2.resize(cam01.astype(np.float32), plane.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    level = np.clip(full, 0, 1)
    warm = cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_HOT)[..., ::-1]
    share = 0.65 * level[..., None] ** 0.7
    return np.rint(plane * (1 - share) + warm * share).astype(np.uint8)


def describe(scores: np.ndarray, names: Sequence[str], threshold: float) -> Note:
    """Return the note of a cell from its (K,) scores: classes from the threshold on, else the best guess and '?'."""
    order, short = [int(k) for k in np.argsort(-scores, kind="stable")], short_names(tuple(names))
    sure = tuple(k for k in order if scores[k] >= threshold)
    if len(sure) > 1:
        return Note(sure, " ".join(short[k] for k in sure))
    return Note(sure, f"{short[order[0]]}{'' if sure else '?'} {scores[order[0]]:.2f}")


def describe_truth(ids: Sequence[int], names: Sequence[str]) -> Note:
    """Return the note of a cell from its true class ids."""
    return Note(tuple(ids), " ".join(short_names(tuple(names))[k] for k in ids))


def overlay_page(title: str, panels: Sequence[Panel], shown: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """Put panels of one height side by side, under a title and over the legend of the classes shown.

    Returns:
        (H, W, 3) uint8.
    """
    gap, head = 10, 34
    font = _font(17)
    heights = [panel.picture.shape[0] for panel in panels]
    page_width = sum(panel.picture.shape[1] for panel in panels) + gap * (len(panels) + 1)
    legend = _legend(shown, names, page_width - 2 * gap)
    lines = _wrap(title, _font(20), page_width - 2 * gap)
    top = 10 + 26 * len(lines)
    page = Image.new("RGB", (page_width, top + head + max(heights) + legend.height + gap), PAPER)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((gap, 8 + 26 * number), line, fill=INK, font=_font(20))
    left = gap
    for panel in panels:
        pen.text((left, top + 6), panel.caption, fill=INK, font=font)
        page.paste(Image.fromarray(panel.picture), (left, top + head))
        left += panel.picture.shape[1] + gap
    page.paste(legend, (gap, top + head + max(heights) + gap))
    return np.asarray(page)


def contact_sheet(
    panels: Sequence[Panel], shown: Sequence[int], names: Sequence[str], columns: int = 5, pale: str = ""
) -> np.ndarray:
    """Put small panels in rows under their captions, over one legend of the classes shown.

    Args:
        pale: what a pale outline means; '' where there is none.

    Returns:
        (H, W, 3) uint8.
    """
    gap, head = 8, 20
    columns = max(1, min(columns, len(panels)))
    wide = max(panel.picture.shape[1] for panel in panels)
    high = max(panel.picture.shape[0] for panel in panels) + head
    rows = -(-len(panels) // columns)
    width = gap + columns * (wide + gap)
    legend = _legend(shown, names, width - 2 * gap, pale)
    sheet = Image.new("RGB", (width, gap + rows * (high + gap) + legend.height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = gap + column * (wide + gap), gap + row * (high + gap)
        pen.text((left, top), _shorten(panel.caption, _font(13), wide), fill=INK, font=_font(13))
        sheet.paste(Image.fromarray(panel.picture), (left, top + head))
    sheet.paste(legend, (gap, sheet.height - legend.height))
    return np.asarray(sheet)


def _write_on_cell(
    pen: ImageDraw.ImageDraw, note: Note, corner: tuple[float, float], mask: np.ndarray, sheet: tuple[int, int]
) -> None:
    """Write a note where the cell is widest, as large as the cell allows."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    room = 2 * float(depth[y, x])
    lines = note.text.replace(" ", "\n")
    font = _font(int(np.clip(0.24 * room, 11, 17)))
    box = pen.multiline_textbbox((0, 0), lines, font=font, spacing=1, align="center")
    width, height = box[2] - box[0] + 6, box[3] - box[1] + 5
    if width > 1.9 * room:
        return
    left = float(np.clip(corner[1] + x - width / 2, 1, max(1, sheet[0] - width - 1)))
    top = float(np.clip(corner[0] + y - height / 2, 1, max(1, sheet[1] - height - 1)))
    plate = note.colour
    pen.rounded_rectangle((left, top, left + width, top + height), 3, fill=plate, outline=PAPER)
    place = (left + 3 - box[0], top + 2 - box[1])
    pen.multiline_text(place, lines, font=font, spacing=1, align="center", fill=ink_on(plate))


def _legend(shown: Sequence[int], names: Sequence[str], width: int, pale: str = "") -> Image.Image:
    """Draw a swatch, the short name and the name of each class, in rows of a width; `pale`: see `contact_sheet`."""
    font, row_height = _font(15), 24
    entries = [(colour(k), _entry(k, names)) for k in sorted(set(shown))] + ([(NO_CLASS, pale)] if pale else [])
    places: list[tuple[int, int]] = []
    left, row = 0, 0
    for _, text in entries:
        wanted = 20 + int(font.getlength(text)) + 22
        if left and left + wanted > width:
            left, row = 0, row + 1
        places.append((left, row))
        left += wanted
    legend = Image.new("RGB", (width, (row + 1) * row_height + 6 if entries else 1), PAPER)
    pen = ImageDraw.Draw(legend)
    for (swatch, text), (x, line) in zip(entries, places, strict=True):
        y = line * row_height
        pen.rectangle((x, y + 5, x + 13, y + 18), fill=swatch)
        pen.text((x + 20, y + 2), text, fill=INK, font=font)
    return legend


def _entry(k: int, names: Sequence[str]) -> str:
    short = short_names(tuple(names))[k]
    return f"{k} {names[k]}" if short == names[k] else f"{k} {short}: {names[k]}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text at its blanks into lines of at most `width` px."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut a text that is wider than `width` px, ending it with dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
