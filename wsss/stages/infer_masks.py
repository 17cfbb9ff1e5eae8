"""The task 'masks' of `infer`: masks, objects, probabilities and a submission for every image of a mask set.

masks/<ID>.png      0 and 255
objects/<ID>.png    label map of the objects (.tif beyond 65535)
probs/<ID>.npy      (K, H, W) uint8, probability x 255
images.csv          ID, fold, n_objects, area_px, status
submission.csv      id,rle_mask: one mask an image; or ImageId,EncodedPixels: one line an object
"""

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from wsss.cells.mask_instances import decode
from wsss.core.checks import ConfigError, DataError
from wsss.core.console import say
from wsss.core.device import choose_device
from wsss.core.digests import Digests
from wsss.core.files import as_read, digest_json, write_bytes, write_csv, write_json
from wsss.core.label_maps import write_label_map
from wsss.core.rasters import stem_of
from wsss.core.run_length import encode
from wsss.core.runtime import progress, versions
from wsss.core.seal import BLANK, sealed
from wsss.data.masks import MaskSet
from wsss.data.tile_set import TileSet, open_set
from wsss.inference.checkpoints import Checkpoint, MaskPlan, load_unets, plan_masks
from wsss.inference.semantic import MaskPredictor
from wsss.models.unet import Unet
from wsss.options.infer import InferOptions
from wsss.options.masks import MaskInferConfig
from wsss.runs.journal import Journal
from wsss.runs.output import Output, in_folder
from wsss.runs.run_folder import find_folders
from wsss.stages.infer_large import infer_large

PROVENANCE = "provenance.json"


def infer_masks(options: InferOptions) -> int:
    """Predict masks as the options say; return the exit code."""
    if (options.data is None) == (not options.large):
        raise ConfigError(
            f"{options.run} finds masks, which needs a folder of images or large files: pass --data FOLDER or "
            "--large FILE ..., one of them."
        )
    if options.large and options.oof:
        raise ConfigError("oof needs the folder of images that was trained on: pass --data FOLDER instead of --large.")
    device = choose_device(options.device, options.precision)
    folders = find_folders(options.run)
    members = [own for folder in folders for own in load_unets(folder, device, "masks", snapshots=options.snapshots)]
    config = members[0].recipe.masks
    if options.data is None:
        return infer_large(options, [(members, {stem_of(path.name): path for path in options.large})], device)
    masks = open_set(options.data, config.channels, config.tile)
    name = f"{masks.folder.resolve().name}-{options.run.name}{'-oof' if options.oof else ''}"
    out = options.out or Path("preds") / name
    plan = plan_masks(members, masks, oof=options.oof)
    if isinstance(masks, TileSet):
        whole = [(own, masks.paths_of(indices)) for own, indices in plan]
        return infer_large(replace(options, out=out), whole, device)
    with in_folder(out, "infer") as output:
        return _predict(output, options, masks, members, plan)


def _predict(
    output: Output, options: InferOptions, masks: MaskSet, members: list[Checkpoint[Unet]], plan: MaskPlan
) -> int:
    """Predict what is not there yet and publish masks and tables; return the exit code."""
    facts = _facts(options, masks, members)
    wanted = [masks.items[i] for _, indices in plan for i in indices]

    def marks(digests: Digests) -> dict[str, str]:
        found = digests.of_files([item.image for item in wanted])
        return {item.id: digest or "" for item, digest in zip(wanted, found, strict=True)}

    if not output.begin(lambda digests: facts, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)):
        return 0
    with output.journal() as journal:
        _run(options, masks, plan, output, journal)
        again = [name for name, record, _ in journal.items() if record["failed"]]
        failed = _write_tables(output, masks, journal, options.segmentation)
    write_json(output.path(PROVENANCE), facts)
    output.publish(failed=again)
    return 1 if failed else 0


def _facts(options: InferOptions, masks: MaskSet, members: list[Checkpoint[Unet]]) -> dict[str, Any]:
    """Return what these predictions are made of; other facts are other predictions."""
    facts = {
        "task": "masks",
        "data": str(options.data),
        "ids": digest_json(masks.ids),
        "run": str(options.run),
        "oof": options.oof,
        "target": members[0].recipe.masks.target,
        "channels": masks.channels,
        "segmentation": asdict(options.segmentation),
        "members": [{"path": str(own.path), "weights": own.digest, "held_out": own.fold} for own in members],
        "versions": versions(),
    }
    return as_read(facts)


def _run(options: InferOptions, masks: MaskSet, plan: MaskPlan, output: Output, journal: Journal) -> None:
    """Predict what the journal lacks; a broken image is recorded with its reason."""
    done, total = output.fresh(journal), sum(len(indices) for _, indices in plan)
    device = choose_device(options.device, options.precision)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for members, indices in plan:
            predictor = MaskPredictor(members, options.segmentation, device)
            fold = members[0].fold if options.oof and members[0].fold is not None else -1
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
                    row = _write_image(output.home, name, probs, predictor.target, options)
                    journal.add(name, {"fold": fold, "mark": output.items[name], "failed": False} | row)
                bar.update()


def _write_image(out: Path, name: str, probs: np.ndarray, target: str, options: InferOptions) -> dict[str, Any]:
    """Write one image's files; return its row with the run-length texts of its masks."""
    config = options.segmentation
    found = decode(probs, target, config.threshold, config.min_size, objects=config.objects)
    write_bytes(out / "masks" / f"{name}.png", cv2.imencode(".png", (found > 0).astype(np.uint8) * 255)[1].tobytes())
    if config.objects:
        write_label_map(out / "objects" / name, found)
    stream = io.BytesIO()
    np.save(stream, np.rint(probs * 255).astype(np.uint8), allow_pickle=False)
    stream.write(BLANK.encode())  # behind the array, where readers of .npy do not look
    write_bytes(out / "probs" / f"{name}.npy", sealed(stream.getvalue()))
    parts = range(1, int(found.max(initial=0)) + 1) if config.objects else [1]
    runs = [encode(found == k, config.runs) for k in parts]
    row = {"status": "ok", "n_objects": int(found.max(initial=0)), "area_px": int((found > 0).sum())}
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
