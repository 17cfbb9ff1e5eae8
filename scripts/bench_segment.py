"""Figures of a backend on folders with true masks, in one table.

    python scripts/bench_segment.py --fields composed/ --fields hpa_fields/ --nuclei dsb2018/stage1_train \
        [--backend unet] [--weights FILE] [--size 512] [--threads 1] [--cpu] [--limit N]

--fields: a folder with images/<ID>_{red,green,blue,yellow}.png and masks/<ID>.png (cells); images without a mask are
left out. --nuclei: a folder in the layout of the Data Science Bowl 2018, <ID>/images/<ID>.png and <ID>/masks/*.png; of
these only the fluorescence images count, whose one grey plane stands for all four channels.

Found at IoU 0.6 (F1), mean IoU of every true cell with its best match, true cells split in several, found cells that
merge several, error of the count (found / true - 1; in brackets the mean of its size over the images), and images per
second of one process for the whole way, and milliseconds an image of each step (a network runs on --threads threads).
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from wsss.core.label_maps import Geometry, find_label_map, read_label_map, write_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.metrics.instances import compare_objects, match_pairs, overlap
from wsss.segmenters import AnyBackend, BackendOptions, CellMaps, Field, NetworkBackend, make_backend

FOUND = 0.6
DARK = 80
"""Mean grey level below which an image of the Bowl is one of fluorescence."""


now = time.perf_counter


@dataclass
class Tally:
    """What has been counted so far."""

    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    ious: list[float] = field(default_factory=list)
    count_errors: list[float] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Compare one image's label maps, (H, W) both."""
        pairs = overlap(predicted, truth)
        iou, compared = pairs.iou, compare_objects(pairs)
        self.images += 1
        self.counts["true"] += iou.shape[1]
        self.counts["found"] += iou.shape[0]
        self.counts["right"] += int((match_pairs(iou, FOUND) >= 0).sum())
        self.counts["split"] += compared.splits
        self.counts["merged"] += compared.mergers
        self.ious += iou.max(axis=0, initial=0).tolist()
        self.count_errors.append(abs(iou.shape[0] / max(iou.shape[1], 1) - 1))

    def line(self, name: str) -> str:
        """Return the row of the table."""
        n = self.counts
        f1 = 2 * n["right"] / (n["true"] + n["found"])
        parts = " ".join(f"{1000 * spent / self.images:>9.1f}" for spent in self.seconds.values())
        return (
            f"{name:<16} {self.images:>6} {n['true']:>6} {n['found']:>6} {f1:>6.3f} "
            f"{np.mean(self.ious):>8.3f} {n['split']:>6} {n['merged']:>6} {n['found'] / n['true'] - 1:>+7.1%} "
            f"({np.mean(self.count_errors):>5.1%}) {self.images / self.seconds.total():>8.1f} {parts}"
        )


def cell_fields(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, image (4, H, W) and true cells of every field that has a mask."""
    for mask in sorted((folder / "masks").iterdir()):
        name = mask.stem
        planes = [cv2.imread(str(folder / "images" / f"{name}_{c}.png"), cv2.IMREAD_GRAYSCALE) for c in HPA_CHANNELS]
        there = [plane for plane in planes if plane is not None]
        if len(there) == len(planes):
            yield name, np.stack(there), read_label_map(find_label_map(folder / "masks", name))


def nuclei_images(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, image (4, H, W) with the same plane four times, and true nuclei of the fluorescence images."""
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        colour = _picture(home / "images" / f"{home.name}.png", cv2.IMREAD_COLOR)
        grey = colour[..., 0]
        if grey.mean() > DARK or (colour != grey[..., None]).any():
            continue
        truth = np.zeros(grey.shape, np.int32)
        for k, path in enumerate(sorted((home / "masks").glob("*.png"))):
            truth[_picture(path, cv2.IMREAD_GRAYSCALE) > 0] = k + 1
        yield home.name, np.stack([grey] * 4), truth


def _picture(path: Path, how: int) -> np.ndarray:
    picture = cv2.imread(str(path), how)
    if picture is None:
        raise SystemExit(f"{path} is no picture that can be read")
    return picture


def measure(
    images: Iterator[tuple[str, np.ndarray, np.ndarray]], backend: AnyBackend, size: int | None, nuclei: bool
) -> Tally:
    """Segment every image at the stored size (None: its own), compare at its own size."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        last = now()
        for name, image, truth in images:
            native = (image.shape[1], image.shape[2])
            geometry = Geometry(*native, size or max(native))
            height, width = geometry.content_height, geometry.content_width
            stored = geometry.image_to_store(image)[:, :height, :width]
            read = now()
            looked, segmented = _call(backend, Field(name, np.ascontiguousarray(stored), *native, geometry.size))
            done = now()
            for kind, label_map in (("cells", segmented.cells), ("nuclei", segmented.nuclei)):
                if label_map is not None:
                    write_label_map(Path(folder) / kind / name, label_map)
            written = now()
            tally.seconds.update(  # type: ignore[call-overload]
                reading=read - last, network=looked - read, labelling=done - looked, writing=written - done
            )
            chosen = segmented.nuclei if nuclei and segmented.nuclei is not None else segmented.cells
            square = np.pad(chosen, ((0, geometry.size - height), (0, geometry.size - width)))
            tally.add(truth, geometry.labels_to_native(square))
            last = now()
    return tally


def _call(backend: AnyBackend, one: Field) -> tuple[float, CellMaps]:
    """Return when a network had seen the field (at once where there is none), and the maps."""
    if not isinstance(backend, NetworkBackend):
        return now(), backend(one)
    finish = backend.segment_batch([one])[0]
    return now(), finish()


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, action="append", default=[])
    parser.add_argument("--nuclei", type=Path, action="append", default=[])
    parser.add_argument("--backend", default="unet")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=512, help="stored size of the fields; nuclei keep their own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU, not of the clock: for a busy machine")
    parser.add_argument("--limit", type=int, help="only so many images of each set")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    global now
    now = time.process_time if args.cpu else time.perf_counter
    backend = make_backend(args.backend, BackendOptions(weights=args.weights))
    if isinstance(backend, NetworkBackend):
        import torch

        torch.set_num_threads(args.threads)
    print(
        f"{'':<16} {'images':>6} {'true':>6} {'found':>6} {'F1':>6} {'mean IoU':>8} {'split':>6} {'merged':>6} "
        f"{'count error':>15} {'images/s':>8} {'read ms':>9} {'network':>9} {'labelling':>9} {'writing':>9}"
    )
    for folder in args.fields:
        print(measure(islice(cell_fields(folder), args.limit), backend, args.size, False).line(folder.name), flush=True)
    for folder in args.nuclei:
        print(
            measure(islice(nuclei_images(folder), args.limit), backend, None, True).line(f"{folder.name} nuclei"),
            flush=True,
        )


if __name__ == "__main__":
    main()
