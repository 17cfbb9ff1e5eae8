"""Write a contact sheet of a segmented data set, cells and nuclei outlined.

    python scripts/segment_sheet.py data/mine sheet.png [--images 20] [--edge 320] [--columns 5] [--ids ID ...]

Images are taken at even steps through the data set, so that good and bad ones come as they are.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.core.label_maps import find_label_map, read_label_map
from wsss.data.catalog import DataSet
from wsss.reports.overlay import Panel, composite, contact_sheet, fit, mark_cells


def panel(data: DataSet, index: int, edge: int) -> Panel:
    """Draw one image with the outlines of its cells and of their nuclei."""
    name, geometry = data.ids[index], data.geometry(index)
    height, width = geometry.content_height, geometry.content_width
    picture = fit(composite(data.image(index)[:, :height, :width], data.tints), edge)
    cells = 0
    for kind in ("nuclei", "cells"):
        if kind == "cells" or (data.folder / kind).is_dir():
            label_map = geometry.labels_to_store(read_label_map(find_label_map(data.folder / kind, name)))
            cells = len(np.unique(label_map)) - 1
            picture = mark_cells(picture, fit(label_map[:height, :width], edge, labels=True), {}, text=False)
    return Panel(picture, f"{name[:24]}: {cells} cells")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--edge", type=int, default=320, help="longer edge of a tile, in pixels")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--ids", nargs="+", help="show these images instead")
    args = parser.parse_args()
    data = DataSet.open(args.data)
    usable = [i for i in np.flatnonzero(data.ok).tolist() if not args.ids or data.ids[i] in args.ids]
    steps = np.linspace(0, len(usable) - 1, min(args.images, len(usable))).round().astype(int)
    panels = [panel(data, usable[k], args.edge) for k in steps]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(panels, [], data.classes.names, args.columns)).save(args.out)


if __name__ == "__main__":
    main()
