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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from wsss.cells.instances import decode, without_small
from wsss.core.checks import ConfigError, DataError, exit_code
from wsss.core.console import progress, say
from wsss.core.csv_text import write_csv
from wsss.core.files import BLANK, as_read, digest_json, sealed, write_bytes
from wsss.core.label_maps import write_label_map
from wsss.core.rasters import stem_of
from wsss.core.rle import encode_pairs
from wsss.core.runtime import versions
from wsss.data.large import LargeImage, TileSet, open_set
from wsss.data.masks import MaskSet
from wsss.data.origin import PROVENANCE, write_provenance
from wsss.inference.checkpoints import Checkpoint, MaskPlan, load_unets, plan_masks
from wsss.inference.semantic import MaskPredictor, large_runs, predict_large
from wsss.models.device import Device, choose_device
from wsss.models.unet import Unet
from wsss.options.infer import InferOptions
from wsss.options.masks import MaskConfig, MaskInferConfig
from wsss.runs.inputs import Digests
from wsss.runs.journal import Journal
from wsss.runs.output import Output, in_folder

FilePlan = list[tuple[list[Checkpoint[Unet]], dict[str, Path]]]
"""Which networks predict which images: ID -> file."""


@dataclass(frozen=True)
class Work:
    """Images to find masks in, and how; those larger than memory are read and written otherwise."""

    plan: FilePlan
    provenance: dict[str, Any]
    predict: Callable[[Path, MaskPredictor, str], dict[str, Any]]
    """(folder, networks, ID) -> what the journal says of the image, once its masks are in the folder."""
    write_tables: Callable[[Output, Journal], int]
    """Writes images.csv and submission.csv; returns the number of images that failed."""
    images: int


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
    if options.segmentation.min_size is None:
        least = min(one.record.least_object for one in checkpoints) if options.segmentation.objects else 0
        options = replace(options, segmentation=replace(options.segmentation, min_size=least))
    if options.data is None:
        work = _large_work(options, [(checkpoints, {stem_of(path.name): path for path in options.large})])
        return _predict(options.out or Path("preds") / f"large-{run.name}", options, work, device)
    masks = open_set(options.data, config.channels, config.tile)
    name = f"{masks.folder.resolve().name}-{run.name}{'-oof' if options.oof else ''}"
    plan = plan_masks(checkpoints, masks, oof=options.oof)
    if isinstance(masks, TileSet):
        work = _large_work(options, [(group, masks.paths_of(indices)) for group, indices in plan])
    else:
        work = _work(options, masks, checkpoints, plan)
    return _predict(options.out or Path("preds") / name, options, work, device)


def _predict(out: Path, options: InferOptions, work: Work, device: Device) -> int:
    """Predict the missing images and publish masks and tables; return the exit code."""
    paths = {name: path for _, files in work.plan for name, path in files.items()}

    def marks(digests: Digests) -> dict[str, str]:
        file_digests = digests.of_files(paths.values())
        return {name: digest or "" for name, digest in zip(paths, file_digests, strict=True)}

    with in_folder(out, "infer") as output:
        if not output.begin(
            lambda digests: work.provenance, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)
        ):
            return 0
        with output.journal() as journal:
            _run(options, work, device, output, journal)
            again = [name for name, record, _ in journal.items() if record["failed"]]
            failed = work.write_tables(output, journal)
            small = sum(record.get("small", 0) for _, record, _ in journal.items())
        if small:
            least = options.segmentation.min_size
            say(f"{small} of fewer than {least} px are left out: --segmentation.min_size 0 keeps them.")
        write_provenance(output, work.provenance)
        output.publish(failed=again)
    return exit_code(failed, work.images)


def _run(options: InferOptions, work: Work, device: Device, output: Output, journal: Journal) -> None:
    """Predict what the journal lacks; a broken image is recorded with its reason."""
    done, total = output.fresh(journal), sum(len(files) for _, files in work.plan)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for checkpoints, files in work.plan:
            predictor = MaskPredictor(checkpoints, options.segmentation, device)
            fold = checkpoints[0].fold if options.oof and checkpoints[0].fold is not None else -1
            for name in files:
                if name not in done:
                    row = work.predict(output.home, predictor, name)
                    row |= {"fold": fold, "mark": output.items[name], "failed": row["status"] != "ok"}
                    journal.add(name, row)
                    bar.update()


def _say_result(what: str, failures: Mapping[str, str]) -> int:
    """Print what was done and why images failed, ID -> reason; return their number."""
    say(f"{what}, {len(failures)} failed")
    for name, status in list(failures.items())[:10]:
        say(f"  {name}: {status}")
    return len(failures)


def _work(options: InferOptions, masks: MaskSet, checkpoints: list[Checkpoint[Unet]], plan: MaskPlan) -> Work:
    """Return the work on images that are read at once."""
    files = [(group, {masks.items[i].id: masks.items[i].image for i in indices}) for group, indices in plan]
    place = {name: i for i, name in enumerate(masks.ids)}

    def predict(home: Path, predictor: MaskPredictor, name: str) -> dict[str, Any]:
        try:
            image = masks.image(place[name])
        except DataError as error:
            return {"status": f"failed: {error}", "n_objects": 0, "area_px": 0}
        return write_image(home, name, predictor(image), predictor.target, options)

    members = [{"path": str(one.path), "weights": one.digest, "held_out": one.fold} for one in checkpoints]
    images = {"data": str(options.data), "ids": digest_json(masks.ids), "members": members}
    tables = partial(_write_tables, masks.ids, options.segmentation)
    return Work(files, _provenance(options, checkpoints[0].recipe.masks, images), predict, tables, len(masks))


def _provenance(options: InferOptions, config: MaskConfig, images: dict[str, Any]) -> dict[str, Any]:
    """Return everything that determines these predictions; `images` says of what and by which networks."""
    shared = {
        "task": "masks",
        "run": str(options.run),
        "oof": options.oof,
        "target": config.target,
        "channels": config.channels,
        "segmentation": asdict(options.segmentation),
        "versions": versions(),
    }
    chosen = {} if options.precision == "auto" else {"precision": options.precision}  # entered where it was chosen
    return as_read(shared | images | chosen)


def write_image(out: Path, name: str, probs: np.ndarray, target: str, options: InferOptions) -> dict[str, Any]:
    """Write one image's files; return its row with the run-length texts of its masks."""
    config = options.segmentation
    found = decode(probs, target, config.threshold, 0, objects=config.objects)
    label_map = without_small(found, config.min_size or 0)
    small = int(found.max(initial=0)) - int(label_map.max(initial=0))
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
    return row | {"runs": runs, "small": small}


def _write_tables(ids: Sequence[str], config: MaskInferConfig, output: Output, journal: Journal) -> int:
    """Write images.csv and submission.csv; return the number of images that failed."""
    columns = ["fold", "n_objects", "area_px", "status"]
    nothing: dict[str, Any] = {"fold": -1, "n_objects": 0, "area_px": 0, "status": "failed: no fold holds it out"}
    rows, lines, failures = [], [], {}
    for name in ids:
        entry = journal.get(name)
        row = nothing if entry is None else entry[0]
        rows.append([name, *(row[column] for column in columns)])
        lines += [[name, text] for text in row.get("runs") or [""]]
        if row["status"] != "ok":
            failures[name] = row["status"]
    write_csv(output.path("images.csv"), pd.DataFrame(rows, columns=["ID", *columns]))
    names = ["ImageId", "EncodedPixels"] if config.objects else ["id", "rle_mask"]
    write_csv(output.path("submission.csv"), pd.DataFrame(lines, columns=names), guard=False)
    empty = sum(area == 0 and status == "ok" for *_, area, status in rows)
    return _say_result(f"{output.folder}: masks of {len(rows)} images, {empty} of them empty", failures)


def _large_work(options: InferOptions, plan: FilePlan) -> Work:
    """Return the work on images larger than memory."""
    asked, count = options.segmentation, len(options.large)
    if asked.min_size and not asked.objects:
        raise ConfigError(
            "--segmentation.min_size changes nothing in large images without objects, whose masks are written as they "
            "come: leave it out, or --segmentation.objects false."
        )
    if count and len({stem_of(path.name) for path in options.large}) < count:
        raise ConfigError("--large names several files of one ID: their masks would overwrite each other.")
    paths = {name: path for _, files in plan for name, path in files.items()}
    config, members = plan[0][0][0].recipe.masks, [[one.digest, one.fold] for group, _ in plan for one in group]
    images = {"large": {name: str(path) for name, path in paths.items()}, "tile": config.tile, "members": members}
    predict = partial(_predict_file, options, paths)
    return Work(plan, _provenance(options, config, images), predict, _write_large, len(paths))


def _predict_file(
    options: InferOptions, paths: Mapping[str, Path], home: Path, predictor: MaskPredictor, name: str
) -> dict[str, Any]:
    """Write the mask of one large image; return its record, with the reason if it is broken."""
    target = home / "masks" / f"{name}.tif"
    objects = home / "objects" / f"{name}.geojson" if options.segmentation.objects else None
    try:
        image = LargeImage(paths[name])
        measured = predict_large(predictor, image, target, objects)
    except DataError as error:
        empty = dict.fromkeys(("height", "width", "n_objects", "area_px"), 0)
        return {**empty, "status": f"failed: {error}", "runs": ""}
    height, width = image.size
    runs = large_runs(target, options.segmentation.runs)
    return {"height": height, "width": width, **measured._asdict(), "status": "ok", "runs": runs}


def _write_large(output: Output, journal: Journal) -> int:
    """Write images.csv and submission.csv of large images; return the number of images that failed."""
    columns = ["fold", "height", "width", "n_objects", "area_px", "status"]
    rows = {name: record for name, record, _ in journal.items()}
    table = [[name, *(record[column] for column in columns)] for name, record in rows.items()]
    write_csv(output.path("images.csv"), pd.DataFrame(table, columns=["ID", *columns]))
    runs = [[name, record["runs"]] for name, record in rows.items()]
    write_csv(output.path("submission.csv"), pd.DataFrame(runs, columns=["id", "rle_mask"]), guard=False)
    failures = {name: record["status"] for name, record in rows.items() if record["status"] != "ok"}
    return _say_result(f"{output.folder}: masks of {len(rows)} large images", failures)
