"""Turn a trained run's class maps into pseudo-masks with an ignore band, for a U-Net to learn from."""

import io
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsss.core.checks import DataError, exit_code
from wsss.core.console import progress, say
from wsss.core.csv_text import write_csv
from wsss.core.files import as_read, digest_json, write_json
from wsss.core.reading import parse_npy
from wsss.core.runtime import versions
from wsss.data.catalog import DataSet, default_dataset
from wsss.data.origin import check_cells, image_marks
from wsss.data.pseudo import FORMAT, MANIFEST, write_masks
from wsss.inference.checkpoints import Plan, check_fits, images_of, load_run, networks_of
from wsss.inference.pseudo import cells_of, label_maps, make_masks, plan_pseudo, values_of
from wsss.models.device import Device, choose_device, keep_freed_memory
from wsss.options.pseudo import PseudoConfig, PseudoOptions
from wsss.runs.inputs import Digests
from wsss.runs.journal import Journal
from wsss.runs.output import Output, in_folder
from wsss.runs.record import inherit, join, lineage_json


def run(options: PseudoOptions) -> int:
    """Make pseudo-masks as the options say; return the exit code."""
    keep_freed_memory()
    folder = default_dataset(options.data)

    data = DataSet.open(folder)
    if options.pseudo.inside_cells:
        check_cells(data, ", or pass --pseudo.inside_cells false")
    device = choose_device(options.device, options.precision, predicts=True)
    checkpoints = load_run(options.run, device)
    check_fits(checkpoints, data)
    out = options.out or Path("pseudo") / options.run.name
    failed = count = 0
    for name, plan in plan_pseudo(checkpoints, data, oof=options.oof).items():
        count += len(images_of(plan))
        with in_folder(out / name, "pseudo") as output:
            failed += _make(out / name, options, data, plan, device, output)
    return exit_code(failed, count)


def _make(out: Path, options: PseudoOptions, data: DataSet, plan: Plan, device: Device, output: Output) -> int:
    """Make the missing masks of one folder; return the number of images without masks."""
    made_from = _made_from(options, data, plan)
    if not output.begin(
        lambda digests: made_from,
        marks=partial(_marks, options, data, plan),
        overwrite=options.overwrite,
        legacy=(MANIFEST,),
    ):
        return 0
    wanted = len(images_of(plan))
    with output.journal() as journal:
        _find_maps(options, data, plan, device, journal, output)
        done = _cut_maps(output, options.pseudo, data, plan, journal)
        _finish(output.home, data, plan, made_from | {"images": digest_json(output.items)}, done)
    output.publish(failed=set(output.items) - {data.ids[index] for index, _, _ in done})
    say(f"{out}: pseudo-masks of {len(done)} images, {wanted - len(done)} without cells left out")
    return wanted - len(done)


def _made_from(options: PseudoOptions, data: DataSet, plan: Plan) -> dict[str, Any]:
    """Return everything that determines these masks."""
    networks = [
        {
            "path": str(checkpoint.path),
            "weights": checkpoint.digest,
            "held_out": checkpoint.fold,
            "predicts": len(indices),
        }
        for checkpoints, indices in plan
        for checkpoint in checkpoints
    ]
    made_from = {"oof": options.oof, "table": data.manifest["table"], "tta": asdict(options.tta)}
    made_from |= {"pseudo": asdict(options.pseudo), "members": networks, "versions": versions()}
    return as_read(made_from)


def _marks(options: PseudoOptions, data: DataSet, plan: Plan, digests: Digests) -> dict[str, str]:
    """Return what the masks of each image are made from: its pixels and, if they are used, its cells."""
    indices = images_of(plan)
    if options.pseudo.inside_cells:
        return image_marks(data, digests, indices)
    return {data.ids[i]: digest_json(int(data.table["crc32"].iloc[i])) for i in indices}


def _find_maps(
    options: PseudoOptions, data: DataSet, plan: Plan, device: Device, journal: Journal, output: Output
) -> None:
    """Add the maps of all images to the journal that are not in it yet."""
    done = output.fresh(journal)
    with progress(None, "class maps", total=len(images_of(plan)), initial=len(done)) as bar:
        for checkpoints, indices in plan:
            skip = {i for i in indices if data.ids[i] in done}
            for index, maps, peaks in label_maps(data, checkpoints, indices, options, device, skip):
                stream = io.BytesIO()
                np.save(stream, maps.astype(np.float32), allow_pickle=False)
                record = {"peaks": peaks.tolist(), "mark": output.items[data.ids[index]]}
                journal.add(data.ids[index], record, stream.getvalue())
                bar.update()


def _cut_maps(
    output: Output, config: PseudoConfig, data: DataSet, plan: Plan, journal: Journal
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Write the masks of every image with maps; return (index, classes, (n, 2) shares of each class)."""
    fresh = output.fresh(journal)  # an image may have lost its cells since it was added
    typical = _typical_peaks(data, journal, fresh)
    done = []
    for index in progress(images_of(plan), "pseudo-masks"):
        entry = journal.get(data.ids[index])
        if entry is None or data.ids[index] not in fresh:
            continue
        classes = np.flatnonzero(data.labels[index])
        cells = cells_of(data, index, config)
        values = values_of(parse_npy(entry[1], journal.path), cells, config)
        peaks = np.array(entry[0]["peaks"]) if config.peak == "image" else typical[classes]
        masks = make_masks(values, peaks, cells, config)
        write_masks(output.home, data.ids[index], classes, masks)
        shares = np.stack([(masks == 1).mean(axis=(1, 2)), (masks == 255).mean(axis=(1, 2))], axis=1)
        done.append((index, classes, shares))
    return done


def _typical_peaks(data: DataSet, journal: Journal, fresh: Collection[str]) -> np.ndarray:
    """Return the median of the peaks of each class over the images labelled with it: (K,), 0 without images."""
    peaks: list[list[float]] = [[] for _ in data.classes.names]
    rows = {name: i for i, name in enumerate(data.ids)}
    for name, record, _ in journal.items():
        if name in fresh:
            for k, peak in zip(np.flatnonzero(data.labels[rows[name]]), record["peaks"], strict=True):
                peaks[k].append(peak)
    return np.array([np.median(values) if values else 0.0 for values in peaks])


def _finish(out: Path, data: DataSet, plan: Plan, made_from: dict[str, Any], done: list[Any]) -> None:
    """Write the table of shares and, last of all, the manifest."""
    if not done:
        raise DataError(f"no image of {data.folder} has labels and cells: nothing to make pseudo-masks of.")
    rows = [
        [data.ids[index], int(k), *row]
        for index, classes, shares in done
        for k, row in zip(classes, shares.tolist(), strict=True)
    ]
    write_csv(out / "shares.csv", pd.DataFrame(rows, columns=["ID", "class", "of_class", "ignored"]))
    records = [checkpoint.record for checkpoint in networks_of(plan)]
    trained_on = sorted({name for record in records for name in record.train_ids})
    ancestors = join(*(inherit(record.ancestors, f"masks of {record.path}") for record in records))
    manifest = {"format": FORMAT, "folds": data.folds_digest, "classes": list(data.classes.names), "size": data.size}
    ids = [data.ids[index] for index, _, _ in done]
    write_json(
        out / MANIFEST,
        manifest | {"facts": made_from, "ids": ids, "trained_on": trained_on} | {"ancestors": lineage_json(ancestors)},
    )
