"""The report of predicted masks: what they are worth, which images come first, and what to do next."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss.core.checks import ConfigError, pasted
from wsss.core.console import progress, say
from wsss.core.files import write_text
from wsss.data.origin import read_provenance
from wsss.inference.tables import prediction_files
from wsss.metrics.instances import HIT, INVENTED, MERGED, MISSED, SPLIT, THRESHOLDS, Compared, Hits, ap_of, mean_score
from wsss.options.report import ReportOptions
from wsss.reports.figures import sizes_svg, threshold_svg
from wsss.reports.masks import MEANINGS, MaskPage, render_masks
from wsss.reports.page import Figure
from wsss.runs.inputs import Digests, what_is_read
from wsss.runs.output import Output
from wsss.runs.run_folder import RunFolder
from wsss.stages import spread_evenly
from wsss.stages.mask_predictions import Against, LargePredicted, Predicted, Seen, count, truth_of
from wsss.stages.report_contents import fold_folders, records, run_of, shown, training

CELLS_ALONE = ("masks", "join", "maps", "crops", "threshold")
"""Options without any meaning for masks."""


def read_masks(options: ReportOptions, digests: Digests) -> dict[str, Any]:
    """Return what the page is made from; see `Output.begin`."""
    files: list[Path | None] = [
        *prediction_files(options.preds),
        *(options.preds / name for name in ("masks", "objects", "probs")),
    ]
    record = read_provenance(options.preds, "run")
    data = [Path(str(record["data"]))] if "data" in record else [Path(path) for path in record["large"].values()]
    files += [options.preds / "scores.json", truth_of(options), *([options.data] if options.data else data)]
    run = run_of(options.run, record)
    files += [path for folder in fold_folders(run) for path in RunFolder(folder).used] if run else []
    return what_is_read(options, digests, files)


def report_masks(options: ReportOptions, output: Output) -> None:
    """Write the page.

    Raises:
        ConfigError: an option has no meaning for masks.
    """
    usual = ReportOptions(options.preds)
    for name in CELLS_ALONE:
        if getattr(options, name) != getattr(usual, name):
            raise ConfigError(f"{options.preds} holds masks, to which --{name} means nothing: leave it out.")
    record = read_provenance(options.preds, "channels", "oof", "segmentation", "target")
    predicted = (LargePredicted if "large" in record else Predicted)(options, record)
    every = [predicted.look(name) for name in progress(predicted.names, "score masks")]
    every.sort(key=partial(_rank, separated=predicted.separated))
    page = build_masks(predicted, every)
    text = render_masks(page)
    write_text(output.path(options.out.name), text)
    output.publish()
    size = len(text.encode()) / 1024**2
    say(f"{options.out}: {size:.1f} MiB, {len(page.fields)} of {len(every)} images in the gallery")


def _rank(seen: Seen, *, separated: bool) -> tuple[bool, float]:
    """Return by what images are sorted: those with truth first, the worst first."""
    if seen.against is None:
        return True, np.nan_to_num(seen.sure)
    return False, seen.against.score.instance_ap if separated else seen.against.score.iou


def build_masks(predicted: Predicted, every: Sequence[Seen]) -> MaskPage:
    """Put the page together; `every` image as it is to be sorted."""
    options, known = predicted.options, [seen.against for seen in every if seen.against is not None]
    run = run_of(options.run, predicted.record)
    chosen = [every[k] for k in spread_evenly(len(every), options.most)]
    failed = predicted.table[predicted.table.status != "ok"]
    order = "least sure first" if predicted.has_probs else "as predicted"
    if known:
        order = "lowest AP first" if predicted.separated else "lowest IoU first"
    columns = _columns(predicted, known=bool(known))
    keys = ["name", *(key for key, _, _ in columns)]
    return MaskPage(
        title=f"Report of {options.preds.resolve().name}",
        in_words=_in_words(predicted, every, known, len(failed)),
        tiles=_tiles(known, separated=predicted.separated),
        note=_note(predicted, known),
        overview=_overview(predicted, len(every), run),
        records=records(predicted.record, run),
        errors=_errors(known, separated=predicted.separated),
        drawings=_drawings(every, known, separated=predicted.separated),
        training=training(run),
        fields=[predicted.field(seen) for seen in progress(chosen, "draw images")],
        order=order,
        columns=columns,
        images=len(every),
        rows=[{key: row.get(key) for key in keys} for row in (seen.row() for seen in every)],
        failures=[(str(name), str(status)) for name, status in zip(failed.ID, failed.status, strict=True)],
        has_truth=bool(known),
        separated=predicted.separated,
    )


def _areas(every: Sequence[Seen]) -> np.ndarray:
    """Return the areas of the objects found in all images, px."""
    return np.concatenate([np.zeros(0, np.int64), *(seen.areas for seen in every)])


def _total(known: Sequence[Against]) -> Hits:
    """Add up the objects of all images."""
    matched, found, true = zip(*(one.hits for one in known), strict=True)
    return Hits(np.sum(matched, axis=0), sum(found), sum(true))


def _fates(known: Sequence[Against]) -> Compared:
    """Join what became of the objects of all images."""
    predicted, true, mergers, splits = zip(*(one.compared for one in known), strict=True)
    return Compared(np.concatenate(predicted), np.concatenate(true), sum(mergers), sum(splits))


def _f1(total: Hits) -> np.ndarray:
    return np.asarray(2 * total.matched / max(1, total.found + total.true))


ADVICE = {
    MISSED: "most of the loss is missed: are they dim, small, or of a kind that training lacks? Try a lower threshold",
    INVENTED: "most of the loss is invented: is the truth complete there? Try a higher threshold, or min_size",
    MERGED: "most of the loss is merged: try a higher threshold, or train with --masks.target distance or border",
    SPLIT: "most of the loss is split: try a larger min_size, or train with --masks.target distance",
}
"""What to do next, by the most frequent error."""
GOOD = 0.9
"""From this F1 at IoU .5 on, outlines are what is left to improve."""


def _in_words(predicted: Predicted, every: Sequence[Seen], known: Sequence[Against], failed: int) -> list[str]:
    """Return a few sentences: the result, how good it is, and what to do next."""
    what = "objects" if predicted.separated else "masks"
    areas = _areas(every)
    empty = sum(not len(seen.areas) for seen in every)
    first = f"{len(areas):,} {what} in {len(every):,} images, {empty:,} of them empty"
    first += f", {failed:,} more failed" if failed else ""
    first += f"; the median area is {np.median(areas):,.0f} px²." if len(areas) else "."
    if not known:
        return [first, _unknown(predicted)]
    total, fates = _total(known), _fates(known)
    counts = {fate: count(fates.true, fate) for fate in (HIT, MISSED, MERGED, SPLIT)}
    told = ", ".join(f"{number:,} {fate}" for fate, number in counts.items() if number or fate in (HIT, MISSED))
    counts[INVENTED] = count(fates.predicted, INVENTED)
    means = mean_score([one.score for one in known])
    name, figure = ("AP", "instance_ap") if predicted.separated else ("figure", "threshold_mean")
    second = (
        f"Against {total.true:,} true {what} in {len(known):,} images the mean {name} over IoU .5 to .95 is "
        f"{means[figure]:.2f}, and F1 at IoU .5 is {_f1(total)[0]:.2f}: {told}; {counts[INVENTED]:,} invented."
    )
    worst = max(ADVICE, key=lambda fate: counts[fate])
    third = f"Next: {ADVICE[worst]}"
    if _f1(total)[0] >= GOOD:
        third = "Next: nearly everything is hit, and what higher thresholds lose is outlines: look at the dashed ones"
    search = "; evaluate --search true chooses threshold and min_size" if predicted.record["oof"] else ""
    return [first, second, f"{third}{search}."]


def _unknown(predicted: Predicted) -> str:
    """Return how to find out how good predictions without truth are."""
    folder = shown(predicted.folder)
    where = (
        f"{folder} holds masks, so pass --truth {pasted(folder)}"
        if predicted.has_masks
        else "draw some, and pass --truth"
    )
    return f"How good this is is not known yet: {where}. Until then look through the images, from the first one on."


def _note(predicted: Predicted, known: Sequence[Against]) -> str:
    """Return what the figures are measured against."""
    if not known or predicted.truth_folder is None:
        about = "Images are sorted by the IoU that is expected of their mask if the probabilities are true."
        return about if predicted.has_probs else ""
    left = len(predicted.names) - len(known)
    without = f"; {left} images without a true mask are left out" if left else ""
    flatter = "" if predicted.record["oof"] else "; they flatter a run that was trained on these images"
    how = "out of fold" if predicted.record["oof"] else "not out of fold"
    return f"Figures: {how}, against the masks of {shown(predicted.truth_folder)}{without}{flatter}."


def _tiles(known: Sequence[Against], *, separated: bool) -> list[tuple[str, float | None, str]]:
    if not known:
        return []
    means, total = mean_score([one.score for one in known]), _total(known)
    about = f"mean over {len(known)} images"
    first = ("mean over IoU .5 to .95", means["threshold_mean"], "whole masks; empty as empty is 1")
    if separated:
        first = ("instance AP", means["instance_ap"], "mean over IoU .5 to .95 and images")
    right = (
        f"precision {total.matched[0] / max(1, total.found):.2f}, recall {total.matched[0] / max(1, total.true):.2f}"
    )
    return [
        first,
        ("F1 at IoU .5", float(_f1(total)[0]), right),
        ("Dice", means["dice"], about),
        ("IoU", means["iou"], about),
    ]


def _overview(predicted: Predicted, images: int, run: Path | None) -> list[tuple[str, str]]:
    record, options = predicted.record, predicted.options
    asked = record["segmentation"]
    out = [
        ("predictions", shown(options.preds)),
        ("images", f"{shown(predicted.folder)}: {images} predicted"),
        ("truth", "none" if predicted.truth_folder is None else shown(predicted.truth_folder)),
        ("target", f"{record['target']}, {record['channels']} channels"),
        ("masks", f"threshold {asked['threshold']:g}, min_size {asked['min_size']}, views {asked['tta']}"),
        ("run", shown(Path(run or record["run"]))),
        ("networks", f"{len(record['members'])}{', each for the images it never saw' if record['oof'] else ''}"),
    ]
    return [*out, ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items()))]


def _errors(known: Sequence[Against], *, separated: bool) -> list[tuple[str, str, int, int]]:
    """Return the rows of the table of errors."""
    if not known:
        return []
    fates = _fates(known)
    rows = [("all", "", len(fates.true), len(fates.predicted))]
    for fate in (HIT, MISSED, INVENTED, *((MERGED, SPLIT) if separated else ())):
        rows.append((fate, MEANINGS[fate], count(fates.true, fate), count(fates.predicted, fate)))
    if separated:
        about = "true ones that hold several found, found ones that hold several true; hits or not"
        rows.append(("splits, merges", about, fates.splits, fates.mergers))
    return rows


def _drawings(every: Sequence[Seen], known: Sequence[Against], *, separated: bool) -> list[Figure]:
    """Draw the figures by IoU threshold, and the sizes of objects."""
    out, areas = [], {"found": _areas(every)}
    if known:
        total = _total(known)
        name = "AP, mean over images" if separated else "images that are right"
        curves = {
            name: np.mean([ap_of(one.hits) for one in known], axis=0),
            "F1": _f1(total),
            "precision": total.matched / max(1, total.found),
            "recall": total.matched / max(1, total.true),
        }
        about = "AP is hits / (hits + missed + invented) of an image; the others are of all objects together"
        about = about if separated else "an image is right if its mask is hit, or empty as it should be"
        out.append(Figure("By IoU threshold", threshold_svg(THRESHOLDS, curves), about))
        areas["true"] = np.concatenate([one.areas for one in known])
    if any(len(own) for own in areas.values()):
        medians = ", ".join(f"median {name} {np.median(own):,.0f} px²" for name, own in areas.items() if len(own))
        out.append(Figure("Sizes", sizes_svg(areas), medians))
    return out


def _columns(predicted: Predicted, *, known: bool) -> list[tuple[str, str, str]]:
    """Return the columns of the table of images: key, heading, kind."""
    if not known:
        sure = [("sure", "IoU expected", "share")] if predicted.has_probs else []
        return [("found", "found", "count"), ("area", "area, px²", "count"), *sure]
    counts = [("true", "true"), ("found", "found")]
    shares = [("threshold_mean", "mean over IoU"), ("dice", "Dice"), ("iou", "IoU")]
    if predicted.separated:
        counts += [(HIT, "hit"), (MISSED, "missed"), (INVENTED, "invented")]
        counts += [("mergers", "merges"), ("splits", "splits")]
        shares[0] = ("instance_ap", "AP")
    return [(*column, "count") for column in counts] + [(*column, "share") for column in shares]
