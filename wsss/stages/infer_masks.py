"""The task 'masks' of `infer`: masks, objects, probabilities and a submission for every image of a mask set.

masks/<ID>.png      0 and 255
objects/<ID>.png    label map of the objects (.tif beyond 65535)
probs/<ID>.npy      (K, H, W) uint8, probability x 255
images.csv          ID, fold, n_objects, area_px, status
submission.csv      id,rle_mask: one mask an image; or ImageId,EncodedPixels: one line an object

Images larger than memory (`--large`, or a folder of them) get instead:

masks/<ID>.tif      tiled TIFF of 0 and 255
objects/<ID>.geojson  outlines of the objects (segmentation.objects), numbered from 1 in each image
images.csv          ID, fold, height, width, n_objects, area_px, status
submission.csv      id,rle_mask: one mask an image
"""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from wsss.cells.instances import decode
from wsss.core.checks import ConfigError, DataError, exit_code
from wsss.core.console import progress, say
from wsss.core.files import BLANK, as_read, digest_json, sealed, write_bytes, write_csv
from wsss.core.label_maps import write_label_map
from wsss.core.rasters import stem_of
from wsss.core.rle import encode_pairs
from wsss.core.runtime import versions
from wsss.data.large import LargeImage
from wsss.data.masks import MaskSet
from wsss.data.origin import PROVENANCE, write_provenance
from wsss.data.tile_set import TileSet, open_set
from wsss.inference.checkpoints import Checkpoint, MaskPlan, load_unets, plan_masks
from wsss.inference.large import large_runs, predict_large
from wsss.inference.semantic import MaskPredictor
from wsss.models.device import Device, choose_device
from wsss.models.unet import Unet
from wsss.options.infer import InferOptions
from wsss.options.masks import MaskInferConfig
from wsss.runs.journal import Digests, Journal
from wsss.runs.output import Output, in_folder


def infer_masks(options: InferOptions, run: Path) -> int:
    """Predict masks as the options say; return the exit code."""
    if (options.data is None) == (not options.large):
        raise ConfigError(
            f"{run} finds masks, which needs a folder of images or large files: pass --data FOLDER or "
            "--large FILE ..., one of them."
        )
    if options.large and options.oof:
        raise ConfigError("oof needs the folder of images that was trained on: pass --data FOLDER instead of --large.")
    device = choose_device(options.device, options.precision, predicts=True)
    checkpoints = load_unets(run, device, "masks", options.encoder, snapshots=options.snapshots)
    config = checkpoints[0].recipe.masks
    if options.data is None:
        out = options.out or Path("preds") / f"large-{run.name}"
        return infer_large(options, out, [(checkpoints, {stem_of(path.name): path for path in options.large})], device)
    masks = open_set(options.data, config.channels, config.tile)
    name = f"{masks.folder.resolve().name}-{run.name}{'-oof' if options.oof else ''}"
    out = options.out or Path("preds") / name
    plan = plan_masks(checkpoints, masks, oof=options.oof)
    if isinstance(masks, TileSet):
        whole = [(group, masks.paths_of(indices)) for group, indices in plan]
        return infer_large(options, out, whole, device)
    with in_folder(out, "infer") as output:
        return _predict(output, options, masks, checkpoints, plan)


def _predict(
    output: Output, options: InferOptions, masks: MaskSet, checkpoints: list[Checkpoint[Unet]], plan: MaskPlan
) -> int:
    """Predict the missing images and publish masks and tables; return the exit code."""
    provenance = _provenance(options, masks, checkpoints)
    wanted = [masks.items[i] for _, indices in plan for i in indices]

    def marks(digests: Digests) -> dict[str, str]:
        file_digests = digests.of_files([item.image for item in wanted])
        return {item.id: digest or "" for item, digest in zip(wanted, file_digests, strict=True)}

    if not output.begin(lambda digests: provenance, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)):
        return 0
    with output.journal() as journal:
        _run(options, masks, plan, output, journal)
        again = [name for name, record, _ in journal.items() if record["failed"]]
        failed = _write_tables(output, masks, journal, options.segmentation)
    write_provenance(output, provenance)
    output.publish(failed=again)
    return exit_code(failed, len(masks))


def _provenance(options: InferOptions, masks: MaskSet, checkpoints: list[Checkpoint[Unet]]) -> dict[str, Any]:
    """Return everything that determines these predictions."""
    provenance = {
        "task": "masks",
        "data": str(options.data),
        "ids": digest_json(masks.ids),
        "run": str(options.run),
        "oof": options.oof,
        "target": checkpoints[0].recipe.masks.target,
        "channels": masks.channels,
        "segmentation": asdict(options.segmentation),
        "members": [{"path": str(one.path), "weights": one.digest, "held_out": one.fold} for one in checkpoints],
        "versions": versions(),
    }
    return as_read(provenance)


def _run(options: InferOptions, masks: MaskSet, plan: MaskPlan, output: Output, journal: Journal) -> None:
    """Predict what the journal lacks; a broken image is recorded with its reason."""
    done, total = output.fresh(journal), sum(len(indices) for _, indices in plan)
    device = choose_device(options.device, options.precision, predicts=True)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for checkpoints, indices in plan:
            predictor = MaskPredictor(checkpoints, options.segmentation, device)
            fold = checkpoints[0].fold if options.oof and checkpoints[0].fold is not None else -1
            for i in indices:
                name = masks.ids[i]
                if name in done:
                    continue
                try:
                    image = masks.image(i)
                except DataError as error:
                    row = {"fold": fold, "status": f"failed: {error}", "n_objects": 0, "area_px": 0, "failed": True}
                    journal.add(name, row)
                else:
                    probs = predictor(image)
                    row = write_image(output.home, name, probs, predictor.target, options)
                    journal.add(name, {"fold": fold, "mark": output.items[name], "failed": False} | row)
                bar.update()


def write_image(out: Path, name: str, probs: np.ndarray, target: str, options: InferOptions) -> dict[str, Any]:
    """Write one image's files; return its row with the run-length texts of its masks."""
    config = options.segmentation
    label_map = decode(probs, target, config.threshold, config.min_size, objects=config.objects)
    write_bytes(
        out / "masks" / f"{name}.png", cv2.imencode(".png", (label_map > 0).astype(np.uint8) * 255)[1].tobytes()
    )
    if config.objects:
        write_label_map(out / "objects" / name, label_map)
    stream = io.BytesIO()
    np.save(stream, np.rint(probs * 255).astype(np.uint8), allow_pickle=False)
    stream.write(BLANK.encode())  # behind the array, where readers of .npy do not look
    write_bytes(out / "probs" / f"{name}.npy", sealed(stream.getvalue()))
    parts = range(1, int(label_map.max(initial=0)) + 1) if config.objects else [1]
    runs = [encode_pairs(label_map == k, config.runs) for k in parts]
    row = {"status": "ok", "n_objects": int(label_map.max(initial=0)), "area_px": int((label_map > 0).sum())}
    return row | {"runs": runs}


def _write_tables(output: Output, masks: MaskSet, journal: Journal, config: MaskInferConfig) -> int:
    """Write images.csv and submission.csv; return the number of images that failed."""
    columns = ["fold", "n_objects", "area_px", "status"]
    nothing: dict[str, Any] = {"fold": -1, "n_objects": 0, "area_px": 0, "status": "failed: no fold holds it out"}
    rows, lines, failed = [], [], []
    for name in masks.ids:
        entry = journal.get(name)
        row = nothing if entry is None else entry[0]
        rows.append([name, *(row[column] for column in columns)])
        lines += [[name, text] for text in row.get("runs") or [""]]
        if row["status"] != "ok":
            failed.append(f"  {name}: {row['status']}")
    write_csv(output.path("images.csv"), pd.DataFrame(rows, columns=["ID", *columns]))
    names = ["ImageId", "EncodedPixels"] if config.objects else ["id", "rle_mask"]
    write_csv(output.path("submission.csv"), pd.DataFrame(lines, columns=names), guard=False)
    empty = sum(row[3] == 0 for row in rows)
    say(f"{output.folder}: masks of {len(rows)} images, {empty} of them empty, {len(failed)} failed")
    for line in failed[:10]:
        say(line)
    return len(failed)


LargePlan = list[tuple[list[Checkpoint[Unet]], dict[str, Path]]]


def infer_large(options: InferOptions, out: Path, plan: LargePlan, device: Device) -> int:
    """Predict every image of the plan, members by ID and file; return the exit code."""
    count = len(options.large)
    if count and len({stem_of(path.name) for path in options.large}) < count:
        raise ConfigError("--large names several files of one ID: their masks would overwrite each other.")
    provenance = _large_provenance(options, plan)
    paths = {name: path for _, files in plan for name, path in files.items()}

    def marks(digests: Digests) -> dict[str, str]:
        file_digests = digests.of_files(paths.values())
        return {name: digest or "" for name, digest in zip(paths, file_digests, strict=True)}

    with in_folder(out, "infer") as output:
        if not output.begin(lambda digests: provenance, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)):
            return 0
        with output.journal() as journal:
            failed = _predict_large(output, options, plan, device, journal)
            again = [name for name, record, _ in journal.items() if record["failed"]]
        write_provenance(output, provenance)
        output.publish(failed=again)
    return exit_code(failed, len(output.items))


def _large_provenance(options: InferOptions, plan: LargePlan) -> dict[str, Any]:
    """Return everything that determines these predictions."""
    checkpoints = plan[0][0]
    provenance = {
        "task": "masks",
        "large": {name: str(path) for _, paths in plan for name, path in paths.items()},
        "run": str(options.run),
        "oof": options.oof,
        "target": checkpoints[0].recipe.masks.target,
        "channels": checkpoints[0].recipe.masks.channels,
        "tile": checkpoints[0].recipe.masks.tile,
        "segmentation": asdict(options.segmentation),
        "members": [[one.digest, one.fold] for group, _ in plan for one in group],
        "versions": versions(),
    }
    return as_read(provenance)


def _predict_large(output: Output, options: InferOptions, plan: LargePlan, device: Device, journal: Journal) -> int:
    """Predict what the journal lacks and write the tables; return the number of images that failed."""
    done = output.fresh(journal)
    total = sum(len(paths) for _, paths in plan)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for checkpoints, paths in plan:
            predictor = MaskPredictor(checkpoints, options.segmentation, device)
            fold = checkpoints[0].fold if options.oof and checkpoints[0].fold is not None else -1
            for name, path in paths.items():
                if name not in done:
                    row = _predict_file(output.home, name, path, predictor, options)
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


def _predict_file(out: Path, name: str, path: Path, predictor: Any, options: InferOptions) -> dict[str, Any]:
    """Write the mask of one image; return its record. A broken image is recorded with its reason."""
    target = out / "masks" / f"{name}.tif"
    objects = out / "objects" / f"{name}.geojson" if options.segmentation.objects else None
    try:
        image = LargeImage(path)
        measured = predict_large(predictor, image, target, objects)
    except DataError as error:
        empty = dict.fromkeys(("height", "width", "n_objects", "area_px"), 0)
        return {**empty, "status": f"failed: {error}", "runs": ""}
    height, width = image.size
    runs = large_runs(target, options.segmentation.runs)
    return {"height": height, "width": width, **measured._asdict(), "status": "ok", "runs": runs}
