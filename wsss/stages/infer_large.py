"""Masks of images larger than memory, for `infer` of runs that find masks.

masks/<ID>.tif      tiled TIFF of 0 and 255
objects/<ID>.geojson  outlines of the objects (segmentation.objects), numbered from 1 in each image
images.csv          ID, fold, height, width, n_objects, area_px, status
submission.csv      id,rle_mask: one mask an image
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from wsss.core.checks import ConfigError, DataError
from wsss.core.console import say
from wsss.core.device import Device
from wsss.core.digests import Digests
from wsss.core.files import as_read, write_csv, write_json
from wsss.core.rasters import stem_of
from wsss.core.runtime import progress, versions
from wsss.data.large import LargeImage
from wsss.inference.checkpoints import Checkpoint
from wsss.inference.large import large_runs, predict_large
from wsss.inference.semantic import MaskPredictor
from wsss.models.unet import Unet
from wsss.options.infer import InferOptions
from wsss.runs.journal import Journal
from wsss.runs.output import Output, in_folder

LargePlan = list[tuple[list[Checkpoint[Unet]], dict[str, Path]]]

PROVENANCE = "provenance.json"


def infer_large(options: InferOptions, plan: LargePlan, device: Device) -> int:
    """Predict every image of the plan, members by ID and file; return the exit code."""
    count = len(options.large)
    if count and len({stem_of(path.name) for path in options.large}) < count:
        raise ConfigError("--large names several files of one ID: their masks would overwrite each other.")
    out = options.out or Path("preds") / f"large-{options.run.name}"
    facts = _facts(options, plan)
    paths = {name: path for _, own in plan for name, path in own.items()}

    def marks(digests: Digests) -> dict[str, str]:
        found = digests.of_files(paths.values())
        return {name: digest or "" for name, digest in zip(paths, found, strict=True)}

    with in_folder(out, "infer") as output:
        if not output.begin(lambda digests: facts, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)):
            return 0
        with output.journal() as journal:
            failed = _predict(output, options, plan, device, journal)
            again = [name for name, record, _ in journal.items() if record["failed"]]
        write_json(output.path(PROVENANCE), facts)
        output.publish(failed=again)
    return 1 if failed else 0


def _facts(options: InferOptions, plan: LargePlan) -> dict[str, Any]:
    """Return what these predictions are made of; other facts are other predictions."""
    members = plan[0][0]
    facts = {
        "task": "masks",
        "large": {name: str(path) for _, paths in plan for name, path in paths.items()},
        "run": str(options.run),
        "oof": options.oof,
        "target": members[0].recipe.masks.target,
        "channels": members[0].recipe.masks.channels,
        "tile": members[0].recipe.masks.tile,
        "segmentation": asdict(options.segmentation),
        "members": [[own.digest, own.fold] for own_members, _ in plan for own in own_members],
        "versions": versions(),
    }
    return as_read(facts)


def _predict(output: Output, options: InferOptions, plan: LargePlan, device: Device, journal: Journal) -> int:
    """Predict what the journal lacks and write the tables; return the number of images that failed."""
    done = output.fresh(journal)
    total = sum(len(paths) for _, paths in plan)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for members, paths in plan:
            predictor = MaskPredictor(members, options.segmentation, device)
            fold = members[0].fold if options.oof and members[0].fold is not None else -1
            for name, path in paths.items():
                if name not in done:
                    row = _predict_one(output.home, name, path, predictor, options)
                    row |= {"fold": fold, "mark": output.items[name], "failed": row["status"] != "ok"}
                    journal.add(name, row)
                    bar.update()
    columns = ["fold", "height", "width", "n_objects", "area_px", "status"]
    rows = {name: record for name, record, _ in journal.items()}
    table = [[name, *(record[column] for column in columns)] for name, record in rows.items()]
    write_csv(output.path("images.csv"), pd.DataFrame(table, columns=["ID", *columns]))
    runs = [[name, record["runs"]] for name, record in rows.items()]
    write_csv(output.path("submission.csv"), pd.DataFrame(runs, columns=["id", "rle_mask"]), guard=False)
    failed = [f"  {name}: {record['status']}" for name, record in rows.items() if record["status"] != "ok"]
    say(f"{output.folder}: masks of {len(rows)} large images, {len(failed)} failed")
    for line in failed[:10]:
        say(line)
    return len(failed)


def _predict_one(out: Path, name: str, path: Path, predictor: Any, options: InferOptions) -> dict[str, Any]:
    """Write the mask of one image; return its record. A broken image is recorded with its reason."""
    target = out / "masks" / f"{name}.tif"
    objects = out / "objects" / f"{name}.geojson" if options.segmentation.objects else None
    try:
        image = LargeImage(path)
        found = predict_large(predictor, image, target, objects)
    except DataError as error:
        empty = dict.fromkeys(("height", "width", "n_objects", "area_px"), 0)
        return {**empty, "status": f"failed: {error}", "runs": ""}
    height, width = image.size
    runs = large_runs(target, options.segmentation.runs)
    return {"height": height, "width": width, **found._asdict(), "status": "ok", "runs": runs}
