"""Make a report of many drawn images and use it in headless Chromium: size of the page, seconds, memory, pictures.

usage: python scripts/bench_report.py --images 500 --out report-bench

20 fields are drawn; the others are these, shifted, so that no two are alike. Scores are the truth with noise. Needs
selenium, Chromium and its driver for what is measured in the browser; wide.png and narrow.png are to be looked at.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss import report
from wsss.cells.regions import describe_cells
from wsss.core.labels import HPA
from wsss.core.rle import encode_label_map
from wsss.data.build import Spec, create_dataset
from wsss.data.synthetic import Field, Look, draw_field
from wsss.inference import tables

DRAWN, STEP = 20, 37
SIZES = {"wide": (1400, 900), "narrow": (390, 844)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("report-bench"))
    options = parser.parse_args()
    if not (options.out / "preds/provenance.json").exists():
        make_predictions(options.out, options.images, options.size)
    page = options.out / "report.html"
    began = time.monotonic()
    truth = ["--truth", f"{options.out}/truth.csv"]
    report.main(["--preds", f"{options.out}/preds", "--out", str(page), *truth])
    print(f"made in {time.monotonic() - began:.1f} s, {page.stat().st_size / 2**20:.1f} MiB")
    for name, size in SIZES.items():
        print(name, browse(page, size, options.out / f"{name}.png"))


def make_predictions(out: Path, count: int, size: int) -> None:
    """Write a data set of `count` images, and predictions of all their cells."""
    rng = np.random.default_rng(0)
    classes = [[int(k) for k in rng.choice(18, rng.integers(1, 4), replace=False)] for _ in range(DRAWN)]
    drawn = [draw_field(rng, size, labels, Look(cell=0.17)) for labels in classes]
    names = [f"field{n:04}" for n in range(count)]
    images = {name: np.roll(drawn[n % DRAWN].image, n // DRAWN * STEP, axis=2) for n, name in enumerate(names)}
    labels = {name: drawn[n % DRAWN].image_labels for n, name in enumerate(names)}
    create_dataset(out / "data", images, labels, Spec(size=size))
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []

    def frames() -> Iterator[pd.DataFrame]:
        for n, name in enumerate(names):
            frame, cell_rows = predict(name, drawn[n % DRAWN], n // DRAWN * STEP, rng)
            truth.extend(cell_rows)
            scores = {name: float(frame[name].max()) for name in HPA.columns}
            rows.append({"ID": name, "fold": -1, "n_cells": len(frame), "status": "ok", **scores})
            yield frame

    tables.write_cells(out / "preds", frames())
    tables.write_images(out / "preds", pd.DataFrame(rows))
    pd.DataFrame(truth).to_csv(out / "truth.csv", index=False)
    (out / "preds/provenance.json").write_text(json.dumps({"data": str(out / "data"), "run": "drawn"}))


def predict(name: str, field: Field, shift: int, rng: np.random.Generator) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the table of a shifted field's cells, and their true labels."""
    label_map = np.roll(field.label_map, shift, axis=1)
    geometry = describe_cells(label_map)
    ids = geometry.cell_id.to_numpy()
    masks = encode_label_map(label_map, ids)
    cell_labels = [field.cell_labels[k - 1] for k in ids.tolist()]
    scores = np.stack([HPA.encode(labels) for labels in cell_labels]) * rng.uniform(0.3, 1, (len(ids), 1))
    frame = tables.cells_frame(
        name,
        fold=-1,
        size=label_map.shape,
        cell_ids=ids,
        geometry={column: geometry[column] for column in geometry.columns},
        scores=np.clip(scores + rng.gamma(0.5, 0.1, scores.shape), 0, 1),
        rle=[masks[k] for k in ids.tolist()],
    )
    return frame, [
        {"ID": name, "cell": k, "Label": "|".join(map(str, labels))} for k, labels in zip(ids, cell_labels, strict=True)
    ]


def browse(page: Path, size: tuple[int, int], picture: Path) -> dict[str, float]:
    """Open the page, scroll through all of it, take a picture of the gallery; return seconds and MiB."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", f"window-size={size[0]},{size[1]}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        began = time.monotonic()
        driver.get(f"file://{page.resolve()}")
        loaded = time.monotonic() - began
        driver.save_screenshot(picture.with_name(f"{picture.stem}-top.png"))
        slowest = max(_scroll_to(driver, number) for number in (0, 99, 250, 400, 499))
        driver.execute_script('document.getElementById("gallery").scrollIntoView()')
        time.sleep(3)
        driver.save_screenshot(picture)
        heap = driver.execute_script("return performance.memory.usedJSHeapSize") / 2**20
        figures = {"load_s": loaded, "slowest_field_s": slowest, "heap_mib": heap}
        return {name: round(value, 2) for name, value in figures.items()}
    finally:
        driver.quit()


def _scroll_to(driver: Any, number: int) -> float:
    """Scroll to a field and wait until it is drawn; return the seconds."""
    from selenium.webdriver.support.wait import WebDriverWait

    began = time.monotonic()
    field = f'document.querySelectorAll(".field")[Math.min({number}, document.querySelectorAll(".field").length - 1)]'
    driver.execute_script(f"{field}.scrollIntoView()")
    WebDriverWait(driver, 120, 0.05).until(
        lambda page: page.execute_script(f'return {field}.querySelectorAll("path").length > 0')
    )
    return time.monotonic() - began


if __name__ == "__main__":
    main()
