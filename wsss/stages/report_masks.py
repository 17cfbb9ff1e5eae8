"""The report of predicted masks: what is read, what it is worth, which images come first."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss.cells.instances import mask_channel
from wsss.core.checks import ConfigError, DataError, some
from wsss.core.console import progress, say
from wsss.core.csv_text import read_text, unguard_text
from wsss.core.files import read_record, write_text
from wsss.data.large import LargeImage
from wsss.data.masks import MaskSet
from wsss.data.origin import read_provenance
from wsss.data.tile_set import TileSet, open_set
from wsss.inference.tables import prediction_files
from wsss.metrics.instances import (
    HIT,
    INVENTED,
    MERGED,
    MISSED,
    SPLIT,
    THRESHOLDS,
    Compared,
    Hits,
    MaskScore,
    Overlap,
    ap_of,
    compare_objects,
    hits,
    mean_score,
    overlap,
    overlap_of_masks,
    score_mask,
    score_pixels,
)
from wsss.options.report import ReportOptions
from wsss.reports.figures import sizes_svg, threshold_svg
from wsss.reports.masks import FOUND, MEANINGS, MaskPage, pack_masks, render_masks
from wsss.reports.overlay import fit, scale_bar
from wsss.reports.page import Field, Figure
from wsss.runs.journal import Digests
from wsss.runs.output import Output, check_recorded, files_of_record, record_of, there_now, what_is_read
from wsss.runs.run_folder import RunFolder
from wsss.stages.evaluate_masks import PART, pixels_of, predicted_map, predicted_probs
from wsss.stages.report_contents import fold_folders, records, run_of, shown, spread_evenly, training

CELLS_ALONE = ("masks", "join", "maps", "crops", "threshold")
"""Options without any meaning for masks."""
TILE = 1024
"""Edge of the tiles in which folders of large images are opened; none is read."""


@dataclass(frozen=True)
class Seen:
    """What is known of one image."""

    name: str
    size: tuple[int, ...]
    """(H, W)."""
    areas: np.ndarray
    """Of the objects found, px."""
    sure: float
    """See `expected_iou`; NaN where no probabilities are kept."""
    score: MaskScore | None = None
    """The rest is None where no truth is known."""
    true_areas: np.ndarray | None = None
    hits: Hits | None = None
    compared: Compared | None = None

    def with_truth(self, pairs: Overlap, score: MaskScore) -> "Seen":
        """Return the same with what a comparison tells."""
        compared = compare_objects(pairs)
        return replace(self, score=score, true_areas=pairs.areas_b, hits=hits(pairs), compared=compared)

    def row(self) -> dict[str, Any]:
        """Return its row in the table of images."""
        row: dict[str, Any] = {"name": self.name, "found": len(self.areas), "area": int(self.areas.sum())}
        if self.score is None or self.hits is None or self.compared is None:
            return row | {"sure": self.sure}
        row |= {"true": self.hits.true, "mergers": self.compared.mergers, "splits": self.compared.splits}
        row |= {HIT: int(self.hits.matched[0])} | asdict(self.score)
        return row | {MISSED: _count(self.compared.true, MISSED), INVENTED: _count(self.compared.predicted, INVENTED)}


def _count(fates: np.ndarray, fate: str) -> int:
    return int((fates == fate).sum())


class Predicted:
    """Predictions of masks with their images, and their truth where it is known.

    Attributes:
        names: IDs of the images that were predicted.
        paths: ID -> file of the image.
        folder: of the images, for messages.
        has_masks: whether that folder holds true masks.
        truth_folder: where true masks were looked for, or None.
        separated: whether masks are parted into objects that can be compared.
        has_probs: whether probabilities are kept.

    Raises:
        ConfigError: an option has no meaning for masks, or the images are not found.
        DataError: predictions, images and truth do not fit each other.
    """

    paths: dict[str, Path]
    folder: Path
    has_masks = False
    separated = False
    has_probs = True

    def __init__(self, options: ReportOptions, record: dict[str, Any]) -> None:
        usual = ReportOptions(options.preds)
        for name in CELLS_ALONE:
            if getattr(options, name) != getattr(usual, name):
                raise ConfigError(f"{options.preds} holds masks, to which --{name} means nothing: leave it out.")
        self.options, self.record, self.truth_folder = options, record, truth_of(options)
        path = options.preds / "images.csv"
        check_recorded(path)
        self.table = unguard_text(read_text(path, ("ID", "status")))
        self.names = self.table.ID[self.table.status == "ok"].tolist()
        self.open()
        self._check()

    def open(self) -> None:
        """Open images and truth."""
        self.separated = bool(self.record["segmentation"]["objects"])
        self.images = self._set(data_of(self.options, self.record), "--data")
        self.folder, self.has_masks = self.images.folder, bool(self.images.has_truth.any())
        self.paths = {item.id: item.image for item in self.images.items}
        self.truth = None if self.truth_folder is None else self._set(self.truth_folder, "--truth")

    def _set(self, folder: Path, flag: str) -> MaskSet:
        masks = open_set(folder, self.record["channels"], TILE)
        if isinstance(masks, TileSet):
            raise ConfigError(f"{folder} holds large images, {self.options.preds} others: pass their folder as {flag}.")
        return masks

    def _check(self) -> None:
        preds = self.options.preds
        if strangers := sorted(set(self.names) - set(self.paths)):
            raise DataError(f"{preds} has {some(strangers)}, which {self.folder} lacks: pass the right --data.")
        if self.truth_folder is not None and not self.true_places:
            raise DataError(f"{self.truth_folder} has no mask of an image of {preds}: pass the right --truth.")
        items = (record_of(preds) or {"items": {}})["items"]
        wanted = [name for name in self.names if name in items]
        now = Digests().of_files([self.paths[name] for name in wanted])
        if changed := [name for name, digest in zip(wanted, now, strict=True) if digest != items[name]]:
            raise DataError(
                f"pixels of {some(changed, 3)} in {self.folder} have changed since {preds} was predicted: "
                "run python -m wsss.infer again."
            )

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.images.ids)}

    @cached_property
    def true_places(self) -> dict[str, Any]:
        """ID -> where its true mask is, of predicted images with one."""
        if self.truth is None:
            return {}
        there = {name: i for i, name in enumerate(self.truth.ids) if self.truth.has_truth[i]}
        return {name: there[name] for name in self.names if name in there}

    def maps(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the label maps of an image, (H, W) predicted and true, without ignored pixels.

        Raises:
            DataError: their sizes differ.
        """
        found = predicted_map(self.options.preds, name, self.record)
        if self.truth is None or name not in self.true_places:
            return found, None
        i = self.true_places[name]
        true, ignored = self.truth.label_map(i), self.truth.ignored(i)
        if true.shape != found.shape:
            raise DataError(
                f"the mask of {name} is {true.shape}, its prediction {found.shape}: pass the right --truth."
            )
        true = true if self.separated else (true > 0).astype(np.int32)
        return np.where(ignored, 0, found), np.where(ignored, 0, true)

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        return files_of_record(self.options.preds)

    def look(self, name: str) -> Seen:
        """Return what is known of an image."""
        found, true = self.maps(name)
        areas = np.unique(found[found > 0], return_counts=True)[1]
        probs = mask_channel(predicted_probs(self.options.preds, name, self._files), self.record["target"])
        seen = Seen(name, found.shape, areas, expected_iou(probs, found > 0))
        return seen if true is None else seen.with_truth(overlap(found, true), score_mask(found, true))

    def picture(self, name: str) -> np.ndarray:
        """Return an image as (C, h, w) uint8, of the size of its maps."""
        return self.images.image(self._places[name])

    def field(self, seen: Seen) -> Field:
        """Return an image as the gallery shows it."""
        image, (found, true) = self.picture(seen.name), self.maps(seen.name)
        if image.shape[1:] != found.shape:
            raise DataError(f"the image {seen.name} is {image.shape[1:]}, its prediction {found.shape}: infer again.")
        edge, (height, width) = min(self.options.edge, max(found.shape)), seen.size
        pairs = None if true is None else self.pairs(seen.name, found, true)
        fates = [FOUND] if len(seen.areas) else []
        if seen.compared is not None:
            fates = sorted({*seen.compared.predicted.tolist(), *seen.compared.true.tolist()})
        return Field(
            seen.name,
            f"{height} × {width} px, {self.about(seen)}",
            fit(found, edge, labels=True).shape,
            fates,
            len(seen.areas),
            pack_masks(image, found, true, pairs, edge, self.options.quality),
            scale_bar(self.options.pixel_size * width),
        )

    def pairs(self, name: str, found: np.ndarray, true: np.ndarray) -> Overlap:
        """Return the overlap of an image's objects."""
        return overlap(found, true)

    def about(self, seen: Seen) -> str:
        """Return the figures of an image as text."""
        if seen.score is None or seen.hits is None:
            sure = "" if np.isnan(seen.sure) else f"; IoU expected {seen.sure:.2f}"
            return (f"{len(seen.areas)} objects found" if self.separated else found_or_not(len(seen.areas))) + sure
        if self.separated:
            figures = f"Dice {seen.score.dice:.2f}, AP {seen.score.instance_ap:.2f}"
            return f"{seen.hits.true} objects, {len(seen.areas)} found; {figures}"
        where = found_or_not(len(seen.areas)) if seen.hits.true else f"truly empty, {found_or_not(len(seen.areas))}"
        return f"{where}; Dice {seen.score.dice:.2f}, IoU {seen.score.iou:.2f}"


def found_or_not(masks: int) -> str:
    """Return whether an image has a mask."""
    return "a mask found" if masks else "nothing found"


class LargePredicted(Predicted):
    """The same of images larger than memory: masks as a whole, shown shrunk."""

    has_probs = False

    def open(self) -> None:
        """Open images and truth."""
        self.rows, self.pixels = self.table.set_index("ID"), dict[str, tuple[int, int, int]]()
        paths = {name: Path(path) for name, path in self.record["large"].items()}
        if self.options.data is not None:
            paths = self._tiles(self.options.data, "--data").paths
        if gone := [path for path in paths.values() if not path.exists()]:
            raise ConfigError(f"{some(gone)} is not there: pass the folder of the images as --data.")
        self.paths, self.folder = paths, next(iter(paths.values())).parent
        self.large_truth = None if self.truth_folder is None else self._tiles(self.truth_folder, "--truth")

    def _tiles(self, folder: Path, flag: str) -> TileSet:
        tiles = open_set(folder, self.record["channels"], TILE)
        if not isinstance(tiles, TileSet):
            raise ConfigError(f"{folder} holds no large images, as {self.options.preds} does: pass theirs as {flag}.")
        return tiles

    @cached_property
    def true_places(self) -> dict[str, Any]:
        """ID -> true mask."""
        truths = {} if self.large_truth is None else self.large_truth.truths
        return {name: truths[name] for name in self.names if name in truths}

    def _mask(self, name: str) -> LargeImage:
        return LargeImage(self.options.preds / "masks" / f"{name}.tif")

    def maps(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the shrunk masks of an image, (h, w) of 0 and 1, predicted and true."""
        mask, truth = self._mask(name), self.true_places.get(name)
        found = self._shrunk(lambda *box: mask.read(*box) > 0, mask.size)
        true = None if truth is None else self._shrunk(lambda *box: (truth.read(*box) > 0)[None], mask.size)
        return _as_map(found), None if true is None else _as_map(true)

    def look(self, name: str) -> Seen:
        """Return what is known of an image."""
        mask, truth = self._mask(name), self.true_places.get(name)
        if truth is None:
            area = int(self.rows.area_px[name])
            return Seen(name, mask.size, np.array([area] if area else [], np.int64), np.nan)
        self.pixels[name] = pixels_of(mask.path, truth)
        pairs = overlap_of_masks(*self.pixels[name])
        return Seen(name, mask.size, pairs.areas_a, np.nan).with_truth(pairs, score_pixels(*self.pixels[name]))

    def pairs(self, name: str, found: np.ndarray, true: np.ndarray) -> Overlap:
        """Return the overlap at full size, which `look` has found."""
        return overlap_of_masks(*self.pixels[name])

    def picture(self, name: str) -> np.ndarray:
        """Return an image shrunk, as (C, h, w) uint8."""
        image = LargeImage(self.paths[name])
        return np.rint(self._shrunk(image.read, image.size)).astype(np.uint8)

    def about(self, seen: Seen) -> str:
        """Return the figures of an image as text."""
        objects = f"; {self.rows.n_objects[seen.name]} objects" if self.record["segmentation"]["objects"] else ""
        return super().about(seen) + objects

    def _shrunk(self, read: Callable[[int, int, int, int], np.ndarray], size: tuple[int, int]) -> np.ndarray:
        return shrunk(read, size, max(1, max(size) // self.options.edge))


def _as_map(shares: np.ndarray) -> np.ndarray:
    return (shares[0] >= 0.5).astype(np.int32)


def shrunk(read: Callable[[int, int, int, int], np.ndarray], size: tuple[int, int], step: int) -> np.ndarray:
    """Shrink an image that is read in parts: the means of squares of `step` px, (C, h, w) float64.

    Args:
        read: (y0, y1, x0, x1) -> (C, y1 - y0, x1 - x0).
        size: (H, W) of the image.
        step: edge of the squares; those at the lower and right border may be cut.
    """
    height, width = size
    part = max(1, PART // step) * step
    rows = []
    for y in range(0, height, part):
        row = []
        for x in range(0, width, part):
            pixels = read(y, min(y + part, height), x, min(x + part, width)).astype(np.float64)
            for axis in (1, 2):
                starts = np.arange(0, pixels.shape[axis], step)
                counts = np.diff(starts, append=pixels.shape[axis])
                counts = counts[:, None] if axis == 1 else counts
                pixels = np.add.reduceat(pixels, starts, axis=axis) / counts
            row.append(pixels)
        rows.append(np.concatenate(row, axis=2))
    return np.concatenate(rows, axis=1)


def expected_iou(probs: np.ndarray, mask: np.ndarray) -> float:
    """Return the IoU of a (H, W) mask that is expected if the (H, W) probabilities are true.

    It is the sum of the probabilities in the mask over that of the larger of mask and probability; of an empty mask,
    the probability that the likeliest pixel is background.
    """
    if not mask.any():
        return float(1 - probs.max(initial=0))
    return float(probs[mask].sum() / np.maximum(probs, mask).sum())


def data_of(options: ReportOptions, record: dict[str, Any]) -> Path:
    """Return the folder of the images: the one given, else the one that was predicted, else that of the truth."""
    predicted = Path(str(record["data"]))
    folder = options.data or (predicted if predicted.is_dir() else options.truth)
    if folder is None:
        raise ConfigError(f"{predicted} is not there: pass the folder of the images of {options.preds} as --data.")
    return folder


def truth_of(options: ReportOptions) -> Path | None:
    """Return the folder of the true masks: the one given, else the one that `evaluate` used, if it is still there."""
    scores = options.preds / "scores.json"
    if options.truth is None and scores.exists():
        truth = str(read_record(scores, "truth")["truth"])
        known = there_now(truth, options.preds, record_of(options.preds, scores.name))
        return known if known is not None and known.is_dir() else None
    return options.truth


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
    """Write the page."""
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
    if seen.score is None:
        return True, np.nan_to_num(seen.sure)
    return False, seen.score.instance_ap if separated else seen.score.iou


def build_masks(predicted: Predicted, every: Sequence[Seen]) -> MaskPage:
    """Put the page together; `every` image as it is to be sorted."""
    options, known = predicted.options, [seen for seen in every if seen.score is not None]
    run = run_of(options.run, predicted.record)
    chosen = [every[k] for k in spread_evenly(len(every), options.most)]
    failed = predicted.table[predicted.table.status != "ok"]
    order = "least sure first" if predicted.has_probs else "as predicted"
    if known:
        order = "lowest AP first" if predicted.separated else "lowest IoU first"
    columns = _columns(predicted, known=bool(known))
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
        rows=[{key: seen.row().get(key) for key in ("name", *(column[0] for column in columns))} for seen in every],
        failures=[(str(name), str(status)) for name, status in zip(failed.ID, failed.status, strict=True)],
        has_truth=bool(known),
        separated=predicted.separated,
    )


def _total(known: Sequence[Seen]) -> Hits:
    """Add up the objects of all images."""
    counted = [seen.hits for seen in known if seen.hits is not None]
    matched = np.sum([one.matched for one in counted], axis=0)
    return Hits(matched, sum(one.found for one in counted), sum(one.true for one in counted))


def _fates(known: Sequence[Seen]) -> Compared:
    """Join what became of the objects of all images."""
    compared = [seen.compared for seen in known if seen.compared is not None]
    predicted, true = (np.concatenate([one[side] for one in compared]) for side in (0, 1))
    return Compared(predicted, true, sum(one.mergers for one in compared), sum(one.splits for one in compared))


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


def _in_words(predicted: Predicted, every: Sequence[Seen], known: Sequence[Seen], failed: int) -> list[str]:
    """Return a few sentences: the result, how good it is, and what to do next."""
    what = "objects" if predicted.separated else "masks"
    areas = np.concatenate([np.zeros(0, np.int64), *(seen.areas for seen in every)])
    empty = sum(not len(seen.areas) for seen in every)
    first = f"{len(areas):,} {what} in {len(every):,} images, {empty:,} of them empty"
    first += f", {failed:,} more failed" if failed else ""
    first += f"; the median area is {np.median(areas):,.0f} px²." if len(areas) else "."
    if not known:
        return [first, _unknown(predicted)]
    total, fates = _total(known), _fates(known)
    counts = {fate: _count(fates.true, fate) for fate in (HIT, MISSED, MERGED, SPLIT)}
    told = ", ".join(f"{number:,} {fate}" for fate, number in counts.items() if number or fate in (HIT, MISSED))
    counts[INVENTED] = _count(fates.predicted, INVENTED)
    means = mean_score([seen.score for seen in known if seen.score is not None])
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
    where = f"{folder} holds masks, so pass --truth {folder}" if predicted.has_masks else "draw some, and pass --truth"
    return f"How good this is is not known yet: {where}. Until then look through the images, from the first one on."


def _note(predicted: Predicted, known: Sequence[Seen]) -> str:
    """Return what the figures are measured against."""
    if not known or predicted.truth_folder is None:
        about = "Images are sorted by the IoU that is expected of their mask if the probabilities are true."
        return about if predicted.has_probs else ""
    left = len(predicted.names) - len(known)
    without = f"; {left} images without a true mask are left out" if left else ""
    flatter = "" if predicted.record["oof"] else "; they flatter a run that was trained on these images"
    how = "out of fold" if predicted.record["oof"] else "not out of fold"
    return f"Figures: {how}, against the masks of {shown(predicted.truth_folder)}{without}{flatter}."


def _tiles(known: Sequence[Seen], *, separated: bool) -> list[tuple[str, float | None, str]]:
    if not known:
        return []
    means, total = mean_score([seen.score for seen in known if seen.score is not None]), _total(known)
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


def _errors(known: Sequence[Seen], *, separated: bool) -> list[tuple[str, str, int, int]]:
    """Return the rows of the table of errors."""
    if not known:
        return []
    fates = _fates(known)
    rows = [("all", "", len(fates.true), len(fates.predicted))]
    for fate in (HIT, MISSED, INVENTED, *((MERGED, SPLIT) if separated else ())):
        rows.append((fate, MEANINGS[fate], _count(fates.true, fate), _count(fates.predicted, fate)))
    if separated:
        about = "true ones that hold several found, found ones that hold several true; hits or not"
        rows.append(("splits, merges", about, fates.splits, fates.mergers))
    return rows


def _drawings(every: Sequence[Seen], known: Sequence[Seen], *, separated: bool) -> list[Figure]:
    """Draw the figures by IoU threshold, and the sizes of objects."""
    out, areas = [], {"found": np.concatenate([np.zeros(0, np.int64), *(seen.areas for seen in every)])}
    if known:
        total = _total(known)
        name = "AP, mean over images" if separated else "images that are right"
        curves = {
            name: np.mean([ap_of(seen.hits) for seen in known if seen.hits is not None], axis=0),
            "F1": _f1(total),
            "precision": total.matched / max(1, total.found),
            "recall": total.matched / max(1, total.true),
        }
        about = "AP is hits / (hits + missed + invented) of an image; the others are of all objects together"
        about = about if separated else "an image is right if its mask is hit, or empty as it should be"
        out.append(Figure("By IoU threshold", threshold_svg(THRESHOLDS, curves), about))
        areas["true"] = np.concatenate([seen.true_areas for seen in known if seen.true_areas is not None])
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
