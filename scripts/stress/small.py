"""Small images with round cells, made in no time: what the stress parts work on."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64


def image(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Return (size, size, 4) uint8: a few round cells, their order of channels red, green, blue, yellow."""
    y, x = np.mgrid[:size, :size]
    planes = rng.integers(0, 12, (size, size, 4)).astype(np.float64)
    for cy, cx in rng.integers(8, size - 8, (4, 2)):
        distance = np.hypot(y - cy, x - cx)
        planes[..., 2] += 200 * (distance < 5)
        planes[..., 0] += 90 * (distance < 12)
        planes[..., 3] += 70 * (distance < 11)
        planes[..., 1] += 120 * (distance < 9) * rng.random()
    return np.clip(planes, 0, 255).astype(np.uint8)


def write_images(folder: Path, count: int, seed: int = 0, size: int = SIZE) -> Path:
    """Write `folder/images/<ID>.png`, four channels each, and `folder/train.csv` with two classes by turns."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    names = [f"i{k:05d}" for k in range(count)]
    for name in names:
        Image.fromarray(image(rng, size), "RGBA").save(folder / "images" / f"{name}.png", compress_level=1)
    rows = [f"{name},{k % 2}" for k, name in enumerate(names)]
    (folder / "train.csv").write_text("\n".join(["ID,Label", *rows]) + "\n")
    return folder
