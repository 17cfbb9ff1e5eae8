import numpy as np

from wsss.segmenters.classical import part_touching


def discs(*centres: tuple[int, int], radius: int = 12) -> np.ndarray:
    rows, columns = np.ogrid[:60, :100]
    return np.any([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in centres], axis=0)


def part(mask: np.ndarray, light: np.ndarray | None = None) -> np.ndarray:
    return part_touching(mask, np.ones(mask.shape, np.float32) if light is None else light, sigma=2, neck=0.74)


def test_discs_that_touch_are_parted_at_their_neck() -> None:
    parts = part(discs((30, 30), (30, 50)))
    assert parts.max() == 2
    assert len(np.unique(parts[:, :38])) == 2
    assert len(np.unique(parts[:, 43:])) == 2


def test_one_long_body_stays_whole() -> None:
    mask = np.zeros((60, 100), bool)
    mask[20:36, 10:90] = True
    assert part(mask).max() == 1


def test_a_dark_line_parts_what_has_no_neck() -> None:
    mask = np.zeros((60, 100), bool)
    mask[20:36, 30:70] = True
    light = np.ones(mask.shape, np.float32)
    light[:, 49:51] = 0.3
    rough = mask.copy()
    rough[20:22, 49:51] = rough[34:36, 49:51] = False
    assert part(rough).max() == 1
    assert part(rough, light).max() == 2


def test_an_empty_mask_has_no_parts() -> None:
    assert part(np.zeros((60, 100), bool)).max() == 0
