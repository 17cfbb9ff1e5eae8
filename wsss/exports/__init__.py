"""Results in the forms of other tools: AnnData, COCO, GeoJSON, TIFF, tables. Needs no torch."""
