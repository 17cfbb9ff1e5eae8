"""GeoJSON as QuPath reads it: the schema says what its reader of objects (since version 0.4) takes, and nothing else.

Source: QuPath's documentation, "Exporting annotations", and the reader of objects in qupath.lib.io.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from wsss.core.labels import HPA
from wsss.exports.annotations import cell_features
from wsss.reports.figures import colour

jsonschema = pytest.importorskip("jsonschema")

RING = {"type": "array", "minItems": 4, "items": {"type": "array", "items": {"type": "number"}, "minItems": 2}}
POLYGON = {"type": "array", "minItems": 1, "items": RING}
COLOUR = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3}
UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def record(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


GEOMETRY = {
    "oneOf": [
        record(type={"const": "Polygon"}, coordinates=POLYGON),
        record(type={"const": "MultiPolygon"}, coordinates={"type": "array", "minItems": 2, "items": POLYGON}),
    ]
}
FEATURE = record(
    type={"const": "Feature"},
    id={"type": "string", "pattern": UUID},
    geometry=GEOMETRY,
    properties=record(
        objectType={"enum": ["annotation", "detection", "cell", "tile"]},
        name={"type": "string"},
        classification=record(name={"type": "string", "minLength": 1}, color=COLOUR),
        measurements={"type": "object", "additionalProperties": {"type": "number"}},
    ),
)


def features() -> list[dict[str, Any]]:
    """Return a whole cell, one with a hole, and one in two pieces."""
    label_map = np.zeros((20, 30), int)
    label_map[1:6, 1:6] = 1
    label_map[8:16, 1:10] = 5
    label_map[10:12, 3:5] = 0
    label_map[1:4, 20:24] = label_map[10:14, 20:26] = 900
    cells = pd.DataFrame({"ID": "x<y>", "cell_id": [1, 5, 900], "area_px": [25, 68, 36], "fold": -1})
    cells["touches_border"] = [False, True, False]
    scores = np.random.default_rng(0).random((3, len(HPA)))
    cells[HPA.columns] = scores
    return list(cell_features(cells, label_map, HPA, colour))


def test_every_cell_is_what_qupath_reads_as_a_cell() -> None:
    found = features()
    assert [own["geometry"]["type"] for own in found] == ["Polygon", "Polygon", "MultiPolygon"]
    for own in found:
        jsonschema.validate(own, FEATURE)
    assert len({own["id"] for own in found}) == 3


def test_rings_are_closed_and_holes_turn_the_other_way() -> None:
    (_, holed, _) = features()
    outer, hole = (np.array(ring, float) for ring in holed["geometry"]["coordinates"])
    for ring in (outer, hole):
        np.testing.assert_array_equal(ring[0], ring[-1])
    turns = [np.sign((r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1]).sum()) for r in (outer, hole)]
    assert turns == [1, -1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda own: own.pop("geometry"),
        lambda own: own.update(id="7"),
        lambda own: own["properties"]["measurements"].update(Nucleoplasm="high"),
        lambda own: own["properties"]["classification"].update(color=[0, 0, 300]),
        lambda own: own["geometry"].update(type="Point"),
    ],
)
def test_the_schema_notices_what_qupath_would_drop(spoil: Any) -> None:
    own = features()[0]
    spoil(own)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(own, FEATURE)
