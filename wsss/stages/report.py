"""One HTML page of a data set's predictions: figures, training, fields to look through, cells to look at first."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.digests import Digests
from wsss.core.files import write_text
from wsss.core.runtime import progress
from wsss.data.catalog import DataSet
from wsss.data.cell_maps import check_current, marks_for
from wsss.inference.blend_tables import read_provenance
from wsss.inference.tables import iter_cells, prediction_files
from wsss.options.report import ReportOptions
from wsss.reports.gallery import Field
from wsss.reports.notable import Pick, pick_by_score, pick_oddities
from wsss.reports.page import CropGroup, Page, render
from wsss.runs.output import Output, beside_file, record_of, what_is_read
from wsss.runs.run_folder import RunFolder
from wsss.stages.evaluate_masks import is_mask_folder
from wsss.stages.export import data_folder_of
from wsss.stages.report_contents import Contents, collect
from wsss.stages.report_drawing import Drawing
from wsss.stages.report_maps import Mapper
from wsss.stages.report_run import fold_folders, records, run_folder, training
from wsss.stages.report_tables import calibration, class_table, facts, failures, images_note, mistakes, tiles


def run(options: ReportOptions) -> int:
    """Run the stage; return the exit code."""
    return report(options)


def report(options: ReportOptions) -> int:
    """Write the page; return 0."""
    if is_mask_folder(options.preds):
        raise ConfigError(f"{options.preds} holds masks, not cells: python -m wsss.evaluate draws them as sheet.png.")
    with beside_file(options.out, "report") as output:
        if output.begin(partial(_read, options), overwrite=options.overwrite, subject=("options.preds",)):
            _report(options, output)
    return 0


def _read(options: ReportOptions, digests: Digests) -> dict[str, Any]:
    files = [*prediction_files(options.preds), options.truth, options.masks]
    scores = record_of(options.preds, "scores.json")
    if options.truth is None:
        files += [options.preds / "scores.json", *map(Path, scores["read"]["files"] if scores else ())]
    data = DataSet.open(data_folder_of(options.preds, options.data))
    files.append(data.folder / "dataset.json")
    run = options.run or Path(str(read_provenance(options.preds).get("run", "")))
    files += [path for folder in fold_folders(run) for path in RunFolder(folder).used]
    return what_is_read(options, digests, files) | {"images": marks_for(options.preds, data, digests)}


def _report(options: ReportOptions, output: Output) -> None:
    contents = collect(options)
    page = build(contents)
    text = render(page)
    write_text(output.path(options.out.name), text)
    output.publish()
    packed = sum(len(field.packed) for field in page.fields)
    each = f", {packed / 1024 / len(page.fields):.0f} KiB each" if page.fields else ""
    size = len(text.encode()) / 1024**2
    say(f"{options.out}: {size:.1f} MiB, {len(page.fields)} of {page.images} images in the gallery{each}")


def build(contents: Contents) -> Page:
    """Put the page together."""
    options, data, evidence = contents.options, contents.data, contents.evidence
    names, most = contents.cells.ID.to_numpy(object), options.crops
    picks = pick_by_score(names, contents.scores, evidence.truth, data.classes.negative, most)
    picks += pick_oddities(contents.cells, most)
    run = run_folder(contents)
    fields, groups = draw(contents, picks, run)
    columns, classes = class_table(contents)
    return Page(
        title=f"Report of {options.preds.resolve().name}",
        facts=facts(contents, run),
        tiles=tiles(evidence),
        classes=classes,
        columns=columns,
        class_names=data.classes.names,
        channels=data.channels,
        tints=data.tints,
        fields=fields,
        images=len(contents.images),
        scores_note=f"{evidence.note} {images_note(contents)}".strip(),
        training=training(run),
        calibration=calibration(evidence),
        mistakes=mistakes(evidence),
        groups=groups,
        failures=failures(contents),
        records=records(contents, run),
        has_truth=evidence.truth is not None,
        has_maps=options.maps,
    )


def draw(contents: Contents, picks: Sequence[Pick], run: Path | None) -> tuple[list[Field], list[CropGroup]]:
    """Draw the gallery's fields and the crops of the picked cells, image after image."""
    work = Drawing(contents, picks, _mapper(contents, run))
    check_current(contents.options.preds, contents.data)
    for name, masks in progress(_each_wanted(contents, work.wanted), "report", total=len(work.wanted)):
        work.add(name, masks)
    return work.fields, work.groups()


def _mapper(contents: Contents, run: Path | None) -> Mapper | None:
    """Load the networks for the class maps, where these are asked for."""
    if not contents.options.maps:
        return None
    if run is None:
        raise ConfigError("--maps asks the networks of the run, which is not where it was: pass its folder as --run.")

    return Mapper(run, contents.data, oof=bool(contents.record.get("oof")))


def _each_wanted(contents: Contents, wanted: Mapping[str, Any]) -> Iterator[tuple[str, pd.DataFrame | None]]:
    """Yield (ID, its cells with masks or None) of the wanted images in the order of the table of images."""
    left = dict.fromkeys(wanted)
    for name, own in iter_cells(contents.options.preds):
        if name in left:
            del left[name]
            yield name, own
    for name in left:
        yield name, None
