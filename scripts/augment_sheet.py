"""Draw a contact sheet of an augmentation recipe on one field: every op alone at its strongest, then the whole recipe.

An op's strongest draw is the one of 24 seeds that changes the crop most. With --label-map the outlines of the cells are
drawn as the op moved them, so that a slip between image and masks shows.

    python scripts/augment_sheet.py --image FOLDER/ID --out sheet.png [--label-map ID.png]
    python scripts/augment_sheet.py --image ID --data data/NAME --out sheet.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from wsss import cli
from wsss.core import files
from wsss.core.checks import DataError, nearest
from wsss.core.console import say
from wsss.core.label_maps import Geometry, read_label_map
from wsss.core.labels import HPA_CHANNELS
from wsss.data.augment import alone, build_augment, load_recipe
from wsss.data.catalog import DataSet
from wsss.data.pixels import read_image

SEEDS = 24
WHOLE = 8
COLUMNS = 6
RGBY_TO_RGB = np.array([[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, 0]], np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="path without _red.png, or the ID of an image of --data")
    parser.add_argument("--data", type=Path, help="folder of a prepared data set")
    parser.add_argument("--label-map", type=Path, help="label map of the image's cells")
    parser.add_argument("--recipe", default="hpa", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("--crop", type=int, default=384, help="edge of the crop, pixels")
    parser.add_argument("--size", type=int, default=512, help="edge at which an image file is stored, pixels")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args(argv)

    image = read_files(args.image, args.size) if args.data is None else read_stored(args.data, args.image)
    label_map = np.zeros(image.shape[1:], np.int32)
    if args.label_map is not None:
        native = read_label_map(args.label_map)
        label_map = Geometry(native.shape[0], native.shape[1], image.shape[1]).labels_to_store(native)
    files.write_bytes(args.out, encode_png(draw_sheet(image, label_map, args.recipe, args.crop)))
    say(f"wrote {args.out}")
    return 0


def read_files(prefix: str, size: int) -> np.ndarray:
    """Read <prefix>_red.png ... as (4, size, size) uint8."""
    image, _ = read_image([Path(f"{prefix}_{colour}.png") for colour in HPA_CHANNELS], len(HPA_CHANNELS))
    return Geometry(image.shape[1], image.shape[2], size).image_to_store(image)


def read_stored(folder: Path, name: str) -> np.ndarray:
    """Read one image of a prepared data set as it is stored."""
    data = DataSet.open(folder)
    if name not in data.ids:
        raise DataError(f"{folder} has no image '{name}'.{nearest(name, data.ids)}")
    return np.array(data.image(data.ids.index(name)))


def draw_sheet(image: np.ndarray, label_map: np.ndarray, source: str, crop: int) -> np.ndarray:
    """Return the sheet as (H, W, 3) uint8 RGB."""
    recipe = load_recipe(source)
    (_, first), *ops = alone(recipe)
    cut, masks = build_augment(first, crop).with_masks(image, [label_map], 0)  # one crop, so that tiles compare
    tiles = [draw_tile("stored image, cropped", cut, masks)]
    for name, steps in ops:
        augment = build_augment(steps, crop)
        seed = int(np.argmax([change(augment(cut, s), cut) for s in range(SEEDS)]))
        tiles.append(draw_tile(f"{name} (seed {seed})", *augment.with_masks(cut, masks, seed)))
    whole = build_augment(recipe, crop)
    for seed in range(WHOLE):
        tiles.append(draw_tile(f"whole recipe, seed {seed}", *whole.with_masks(image, [label_map], seed)))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[i : i + COLUMNS], axis=1) for i in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows)


def change(after: np.ndarray, before: np.ndarray) -> float:
    """Return the mean absolute difference of two images."""
    return float(np.abs(after.astype(np.int16) - before).mean())


def draw_tile(title: str, image: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Draw one image in colour, with cell outlines in white and a title above."""
    rgb = np.einsum("oc,chw->hwo", RGBY_TO_RGB, image.astype(np.float32)).clip(0, 255).astype(np.uint8)
    label_map = masks[0].astype(np.float32)
    edge = cv2.dilate(label_map, np.ones((3, 3))) != cv2.erode(label_map, np.ones((3, 3)))
    rgb[edge] = 255
    bar = np.zeros((22, rgb.shape[1], 3), np.uint8)
    cv2.putText(bar, title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.pad(np.concatenate([bar, rgb]), ((0, 2), (0, 2), (0, 0)))


def encode_png(rgb: np.ndarray) -> bytes:
    done, content = cv2.imencode(".png", rgb[..., ::-1])
    if not done:
        raise RuntimeError("OpenCV could not encode the sheet as PNG")
    return content.tobytes()


if __name__ == "__main__":
    cli.run(main)
