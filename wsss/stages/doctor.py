"""Look at this machine, data sets, runs and published networks, and report what needs fixing."""

import importlib.metadata
import platform
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from wsss.cells.instances import doubt_notes, doubts_of
from wsss.core.checks import ConfigError, DataError, install, pasted, some
from wsss.core.console import say
from wsss.core.files import RUN, not_that, within
from wsss.core.runtime import cores, version_of, versions
from wsss.data.catalog import DataSet
from wsss.data.origin import data_folder_of, read_provenance, without_cells
from wsss.inference.published import read_published
from wsss.inference.tables import check_classes, iter_cells, score_columns
from wsss.metrics.classify import label_doubts
from wsss.models.device import GIB, MEMORY_LIMITS, choose_device, free_memory, gpu_precision
from wsss.options.doctor import DoctorOptions
from wsss.runs.run_folder import RunFolder, load_checkpoint
from wsss.stages import spread_evenly

SAMPLES = 64
"""Images that are read, spread over the set."""
DARK = 2
"""A channel whose brightest pixel is below this holds nothing."""
LITTLE_DISK, LITTLE_MEMORY, LITTLE_SHARED = 5.0, 6.0, 1.0
"""GiB below which training a usual recipe is likely to end early."""
SHARED = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: str
    """ok, note (works, but look at it) or bad (something to fix)."""
    topic: str
    text: str


def examine_machine(folders: Sequence[Path]) -> Iterator[Finding]:
    """Yield findings on packages, processor, memory, disks and GPUs.

    Args:
        folders: whose disks are checked; a missing folder stands for the nearest existing one above it.
    """
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    yield Finding("ok", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("ok", "processor", f"{cores()} cores for this process")
    yield _memory()
    yield from _shared_memory()
    yield from _disks(folders)
    yield from _gpus()
    yield from _extras()


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.exists()]
    limit = min([memory.total, *(int(text) for text in limits if text.isdecimal())])
    text = f"{limit / GIB:.1f} GiB, {free_memory() / GIB:.1f} GiB free"
    if limit < LITTLE_MEMORY * GIB:
        return Finding("note", "memory", f"{text}: train with a small --batch and --crop")
    return Finding("ok", "memory", text)


def _shared_memory() -> Iterator[Finding]:
    if not SHARED.is_dir():
        return
    usage = shutil.disk_usage(SHARED)
    text = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {SHARED}"
    little = usage.free < LITTLE_SHARED * GIB
    more = ": pass --workers 0 to train, or start the container with --shm-size 8g" if little else ""
    yield Finding("note" if little else "ok", "shared memory", text + more)


def _disks(folders: Sequence[Path]) -> Iterator[Finding]:
    homes = [next(p for p in (f.absolute(), *f.absolute().parents) if p.is_dir()) for f in folders]
    for home in {home.stat().st_dev: home for home in reversed(homes)}.values():
        free = shutil.disk_usage(home).free / GIB
        little = free < LITTLE_DISK
        more = ": make room, a data set takes 1 MiB an image of 512 px and 4 channels" if little else ""
        yield Finding("note" if little else "ok", "disk", f"{free:.1f} GiB free in {home}{more}")


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        if DRIVER.exists():
            yield Finding("bad", "GPU", "there is a driver, but PyTorch sees no GPU: install PyTorch's CUDA build")
        else:
            yield Finding("ok", "GPU", "none: the CPU is used")
        return
    for k in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(k)
        free, total = torch.cuda.mem_get_info(k)
        memory = f"{free / GIB:.0f} of {total / GIB:.0f} GiB free"
        try:
            predicts = choose_device(f"cuda:{k}", predicts=True).precision
        except ConfigError as error:
            yield Finding("bad", "GPU", f"{properties.name}: {error}")
            continue
        text = f"cuda:{k} {properties.name}, {memory}, precision {gpu_precision(k)}, {predicts} for predictions"
        yield Finding("ok", "GPU", text)


def _extras() -> Iterator[Finding]:
    """Report for each extra of wsss whether its packages are installed."""
    wanted: dict[str, list[str]] = {}
    for text in importlib.metadata.requires("wsss") or []:
        match = re.match(r"""([\w.-]+).*;.*extra *== *["']([\w-]+)["']""", text)
        if match and match[2] != "dev":
            wanted.setdefault(match[2], []).append(match[1])
    for extra, names in wanted.items():
        there = {name: version_of(name) for name in names}
        missing = [name for name, version in there.items() if not version]
        installed = ", ".join(f"{name} {version}" for name, version in there.items() if version)
        text = f"{extra}: " + (f"not there ({', '.join(missing)}), {install(extra)}" if missing else installed)
        yield Finding("ok", "extra", text)


def examine_data(folder: Path) -> Iterator[Finding]:
    """Yield what is found of the data set in `folder`; reads SAMPLES images whole."""
    try:
        data = DataSet.open(folder)
    except DataError as error:
        yield Finding("bad", str(folder), str(error))
        return
    topic = str(folder)
    failed = [name for name, ok in zip(data.ids, data.ok, strict=True) if not ok]
    text = f"{len(data)} images of {len(data.channels)} channels at {data.size} px, {len(data.classes)} classes"
    more = f"; {len(failed)} could not be prepared ({some(failed)}): see reason in images.parquet" if failed else ""
    yield Finding("note" if failed else "ok", topic, text + more)
    for finding in (*_pixels(data), _labels(data), _folds(data), _cells(data)):
        yield Finding(finding.level, topic, finding.text)


def _pixels(data: DataSet) -> Iterator[Finding]:
    good = np.flatnonzero(data.ok)
    if not len(good):
        yield Finding("bad", "", "no image has pixels: prepare it again")
        return
    chosen = good[spread_evenly(len(good), SAMPLES)].tolist()
    brightest, damaged = [], []
    for i in chosen:
        try:
            brightest.append(data.image(i).max(axis=(1, 2)))
        except DataError:
            damaged.append(data.ids[i])
    if damaged:
        text = f"{len(damaged)} of {len(chosen)} images differ from what was prepared: {some(damaged)}"
        yield Finding("bad", "", text)
        return
    dark = (np.stack(brightest) < DARK).sum(axis=0)
    dark_in = [f"{name} is dark in {n}" for name, n in zip(data.channels, dark.tolist(), strict=True) if n]
    text = f"{len(chosen)} images read, bytes as prepared"
    yield Finding("note" if dark_in else "ok", "", f"{text}; {', '.join(dark_in)} of them" if dark_in else text)


def _labels(data: DataSet) -> Finding:
    count = int(data.has_labels.sum())
    if not count:
        return Finding("ok", "", "no labels: fit for infer, not for train")
    without = [name for name, n in zip(data.classes.names, data.labels.sum(axis=0), strict=True) if n == 0]
    if without:
        return Finding("note", "", f"{count} images labelled; no image of {some(without)}: such classes are not learnt")
    return Finding("ok", "", f"{count} images labelled, every class has some")


def _folds(data: DataSet) -> Finding:
    if not data.has_labels.any() or not data.manifest["folds"]:
        return Finding("ok", "", "no folds")
    try:
        folds = data.folds()
    except DataError as error:
        return Finding("bad", "", str(error))
    sizes = np.bincount(folds[folds >= 0])
    span = " to ".join(str(size) for size in sorted({sizes.min(), sizes.max()}))
    return Finding("ok", "", f"{len(sizes)} folds of {span} images")


def _cells(data: DataSet) -> Finding:
    usable = np.flatnonzero(data.ok)
    try:
        missing = without_cells(data, usable)
    except DataError as error:
        return Finding("bad", "", str(error))
    if len(missing) == len(usable):
        return Finding("note", "", f"no cells yet: python -m wsss.segment --data {pasted(data.folder)}")
    if missing:
        return Finding("note", "", f"{len(missing)} images have no label map ({some(missing)}): run segment again")
    return Finding("ok", "", "every image has a label map of its cells")


def run(options: DoctorOptions) -> int:
    """Look at everything; return 0, or 1 if something is to fix."""
    counts: Counter[str] = Counter()
    for finding in examine(options):
        counts[finding.level] += 1
        say(f"{finding.level:4}  {finding.topic}: {finding.text}", "finding", **vars(finding))
    say(f"\n{counts['bad']} to fix, {counts['note']} to look at, {counts['ok']} in order")
    return 1 if counts["bad"] else 0


def examine(options: DoctorOptions) -> Iterator[Finding]:
    """Yield all findings: machine, data sets, runs, published networks; or doubtful image labels."""
    if options.labels is not None:
        yield from examine_labels(options)
        return
    data = options.data or sorted(path.parent for path in Path("data").glob("*/dataset.json"))
    runs = options.run or sorted({path.parents[1] for path in Path("runs").glob("*/*/config.yaml")})
    yield from examine_machine([Path(), *data, *runs])
    for folder in data:
        yield from examine_data(folder)
        yield from examine_cells(folder)
    for run in runs:
        yield from examine_run(run)
    for source in options.source:
        yield examine_source(source)


def examine_labels(options: DoctorOptions) -> Iterator[Finding]:
    """Yield image labels that the cells contradict, by out-of-fold predictions.

    Raises:
        DataError: the predictions are not out of fold, or of other images than the data set.
    """
    preds = options.labels
    assert preds is not None
    data = DataSet.open(data_folder_of(preds, options.data[0] if options.data else None, "--labels"))
    if not read_provenance(preds).get("oof"):
        raise DataError(
            f"{preds} is not out of fold: its networks may have been trained on the labels to check. Make it with "
            "python -m wsss.infer --oof true."
        )
    rows = {name: row for row, name in enumerate(data.ids)}
    shares = np.full(data.labels.shape, np.nan)
    for name, cells in iter_cells(preds):
        if name not in rows:
            raise DataError(f"{preds} has the image {name}, which {data.folder} lacks: pass its data set as --data.")
        columns = score_columns(cells, preds)
        check_classes(preds, columns, data.classes, data.folder)
        shares[rows[name]] = cells[columns].to_numpy(np.float64).mean(axis=0)
    doubts = label_doubts(shares, data.labels, data.classes.negative)
    looked = int((~np.isnan(shares).all(axis=1) & data.has_labels).sum())
    if not doubts:
        yield Finding("ok", str(preds), f"the cells of {looked} labelled images contradict none of their labels")
    for doubt in doubts[: options.most]:
        name = data.classes.names[doubt.label]
        text = (
            f"not labelled {name}, its cells show it" if doubt.missing else f"labelled {name}, its cells do not show it"
        )
        yield Finding("note", data.ids[doubt.image], f"{text} (mean score {doubt.share:.2f})")
    if len(doubts) > options.most:
        more = f"{len(doubts) - options.most} more doubtful labels in {looked} images: --most {len(doubts)} lists all"
        yield Finding("note", str(preds), more)


def examine_cells(folder: Path) -> Iterator[Finding]:
    """Yield faults of the label maps of a data set, and doubts about them, from those of SAMPLES images."""
    try:
        data = DataSet.open(folder)
        usable = np.flatnonzero(data.ok)
        missing = set(without_cells(data, usable))
    except DataError:
        return  # reported by examine_data
    doubts: dict[str, list[str]] = {}
    broken = []
    for i in usable[spread_evenly(len(usable), SAMPLES)].tolist():
        if data.ids[i] in missing:
            continue  # reported by examine_data
        geometry = data.geometry(i)
        try:
            cells = data.cells(i)
        except DataError as error:
            broken.append(f"{data.ids[i]}: {error}")
            continue
        if cells.shape != (geometry.height, geometry.width):
            cells = cells[: geometry.content_height, : geometry.content_width]
        doubts[data.ids[i]] = doubts_of(cells)
    if broken:
        yield Finding("bad", str(folder), f"{len(broken)} label maps cannot be used: {some(broken, 2)}")
    for note in doubt_notes(doubts):
        yield Finding("note", str(folder), note)


def examine_run(run: Path) -> Iterator[Finding]:
    """Yield for every fold of a run how far it came and whether its weights are whole."""
    folders = [path.parent for path in within(run, "config.yaml")]
    if not folders:
        yield Finding("bad", str(run), f"{not_that(run, RUN)}: check --run")
    for path in folders:
        folder = RunFolder(path)
        if not folder.best.exists():
            yield Finding("note", str(path), "no weights yet: start the same train command again")
            continue
        try:
            _, record = load_checkpoint(folder.best)
        except DataError as error:
            yield Finding("bad", str(path), str(error))
            continue
        text = f"weights whole, from epoch {record['progress']['epoch']} of {record['recipe']['epochs']}"
        yield Finding("ok", str(path), text)


def examine_source(source: str) -> Finding:
    """Return whether the files of a published network can be read, and what it is."""
    name = source.partition("=")[0]
    try:
        net, files = read_published(source)
    except (ConfigError, DataError) as error:
        return Finding("bad", name, str(error))
    known = sum(wanted is not None for wanted in net.classes)
    shown = ", ".join(f"{path.name} {digest[:16]}" for path, digest in files.items())
    text = f"takes {net.channels} channels, {known} of its {len(net.classes)} classes are counted; SHA-256 of {shown}"
    return Finding("ok", name, text)
