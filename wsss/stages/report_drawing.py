"""The pictures of the report: which images are needed, and what is drawn of each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wsss.cells.instances import describe_cells
from wsss.core.labels import parse_label
from wsss.exports.label_tiff import label_map_of
from wsss.reports.gallery import ClassMap, Field, FieldCell, crop_uri, pack_field
from wsss.reports.notable import Pick
from wsss.reports.overlay import composite
from wsss.reports.page import Crop, CropGroup
from wsss.reports.palette import short_name
from wsss.stages.report_contents import Contents
from wsss.stages.report_maps import Mapper

PIECES = "In several pieces"


class Drawing:
    """Fields and crops, filled in by `add`, one image at a time, so that memory holds one image."""

    def __init__(self, contents: Contents, picks: Sequence[Pick], mapper: Mapper | None = None) -> None:
        self.contents = contents
        self.picks = picks
        self.mapper = mapper
        self.rows: dict[str, np.ndarray] = {
            str(name): np.asarray(own) for name, own in contents.cells.groupby("ID", sort=False).indices.items()
        }
        self.places = {name: i for i, name in enumerate(contents.data.ids)}
        self.shown = spread_images(contents.images.ID[[self._drawable(name) for name in contents.images.ID]], contents)
        picked = {contents.cells.ID.iloc[row] for pick in picks for row in pick.rows}
        self.wanted = dict.fromkeys([*self.shown, *sorted(picked - set(self.shown))])
        """IDs of the images that are read."""
        self._fields: dict[str, Field] = {}
        self._crops: dict[int, str] = {}
        """Row of a cell -> its picture."""
        self._broken: list[int] = []

    @property
    def fields(self) -> list[Field]:
        """The fields drawn, in the order of the table of images."""
        return [self._fields[name] for name in self.shown]

    def add(self, name: str, masks: pd.DataFrame | None) -> None:
        """Draw one image; `masks` are its cells with their column rle, None where it has no cells."""
        data = self.contents.data
        place = self.places[name]
        geometry = data.geometry(place)
        size = (geometry.height, geometry.width)
        given = ([], []) if masks is None else (masks.cell_id.tolist(), masks.rle.tolist())
        native = label_map_of(*given, size, f"{self.contents.options.preds}: {name}")
        content = (slice(0, geometry.content_height), slice(0, geometry.content_width))
        stored = geometry.labels_to_store(native)
        label_map = stored[content]
        planes = data.image(place)[(slice(None), *content)]
        rows = self.rows.get(name, np.zeros(0, np.intp))
        wanted = {row for pick in self.picks for row in pick.rows} & set(rows.tolist())
        if len(rows):
            wanted |= self._find_broken(native, rows)
        if wanted:
            picture = composite(planes, data.tints)
            for row in sorted(wanted):
                cell, top = int(self.contents.cells.cell_id.iloc[row]), int(self.contents.scores[row].argmax())
                self._crops[row] = crop_uri(picture, label_map, cell, top, self.contents.options.quality)
        if name in self.shown:
            maps = self.mapper.maps(place, stored) if self.mapper else []
            self._fields[name] = self._field(name, planes, label_map, rows, maps)

    def groups(self) -> list[CropGroup]:
        """Return the picked cells with their pictures."""
        about = f"More than one connected piece; looked for in the {len(self.wanted)} images that were drawn."
        broken = Pick("pieces", PIECES, about, self._broken[: self.contents.options.crops], len(self._broken))
        return [
            CropGroup(pick.key, pick.title, pick.about, [self._crop(row) for row in pick.rows], pick.found)
            for pick in [*self.picks, broken]
        ]

    def _drawable(self, name: str) -> bool:
        return bool(self.contents.data.ok[self.places[name]])

    def _find_broken(self, native: np.ndarray, rows: np.ndarray) -> set[int]:
        """Note the cells in several pieces; return those whose picture is needed."""
        table = describe_cells(native)
        broken = set(table.cell_id[table.pieces > 1].tolist())
        own = [int(row) for row in rows if int(self.contents.cells.cell_id.iloc[row]) in broken]
        room = max(0, self.contents.options.crops - len(self._broken))
        self._broken += own
        return set(own[:room])

    def _field(
        self, name: str, planes: np.ndarray, label_map: np.ndarray, rows: np.ndarray, maps: Sequence[ClassMap]
    ) -> Field:
        contents, edge = self.contents, self.contents.options.edge
        longest = max(label_map.shape)
        height, width = (max(1, round(own * edge / longest)) for own in label_map.shape)
        return Field(
            name=name,
            about=self._about(name, len(rows)),
            size=(height, width),
            tops=sorted(set(contents.scores[rows].argmax(axis=1).tolist())) if len(rows) else [],
            packed=pack_field(
                planes, label_map, [self._cell(row) for row in rows], edge, contents.options.quality, maps
            ),
        )

    def _about(self, name: str, cells: int) -> str:
        data, row = self.contents.data, self.contents.data.table.iloc[self.places[name]]
        labels = "no labels"
        if data.has_labels[self.places[name]]:
            labels = "labels: " + (", ".join(data.classes.names[k] for k in parse_label(row.Label)) or "none")
        carried = [f"; {column}: {row[column]}" for column in data.carried if row[column]]
        return f"{row.ImageHeight} × {row.ImageWidth} px, {cells} cells, {labels}{''.join(carried)}"

    def _truth(self, row: int) -> list[int] | None:
        truth = self.contents.evidence.truth
        return None if truth is None or np.isnan(truth[row, 0]) else np.flatnonzero(truth[row]).tolist()

    def _cell(self, row: int) -> FieldCell:
        own = self.contents.cells.iloc[row]
        scores = self.contents.scores[row].tolist()
        return FieldCell(int(own.cell_id), scores, int(own.area_px), bool(own.touches_border), self._truth(row))

    def _crop(self, row: int) -> Crop:
        names, own = self.contents.data.classes.names, self.contents.cells.iloc[row]
        top, truth = int(self.contents.scores[row].argmax()), self._truth(row)
        said = f"{short_name(names[top])} {self.contents.scores[row, top]:.2f}"
        if truth is not None:
            said += "; true: " + ", ".join(short_name(names[k]) for k in truth)
        return Crop(self._crops[row], str(own.ID), int(own.cell_id), said)


def spread_images(ids: pd.Series, contents: Contents) -> list[str]:
    """Return at most `--most` IDs, spread evenly over the set, in its order."""
    names = [str(name) for name in ids]
    step = np.linspace(0, len(names) - 1, min(contents.options.most, len(names)))
    return [names[k] for k in np.rint(step).astype(int)]
