"""Prepare images for all later stages: one store of pixels, one catalogue, fixed folds.

Reads <ID>_red.png, <ID>_green.png, ... (or one file of all channels per image), 8 or 16 bit, any size and number of
channels, and a table of image labels if there is one. Can be stopped at any time and started again with the same
command.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd

from wsss.core.channels import channel_names, parse_roles, roles_notes
from wsss.core.checks import ConfigError, DataError, UserError, refuse_idle, some
from wsss.core.console import say, say_notes
from wsss.core.labels import HPA, HPA_CHANNELS, ClassList
from wsss.core.tiff import parse_choice
from wsss.data import image_files, tables
from wsss.data import source as sources
from wsss.data.build import DUPLICATES, SOURCES, ExistingSet, Known, Spec, finish, group_of
from wsss.data.catalog import COLUMNS, FOLDS, SHARDS, TABLE, DataSet, Shards
from wsss.data.folds import summary
from wsss.data.source import Job, Source
from wsss.options.prepare import PrepareOptions
from wsss.runs.journal import Journal, remove_journal
from wsss.runs.output import Output, in_folder


def run(options: PrepareOptions) -> int:
    """Prepare what is not prepared yet; return the exit code."""
    classes, source = _find(options)
    with in_folder(options.out, "prepare", SHARDS, f"{SOURCES}/{options.source}") as output:
        output.begin(lambda digests: {}, subject=(), always=True)
        return _bring_in(options, classes, source, output)


def _bring_in(options: PrepareOptions, classes: ClassList, source: Source, output: Output) -> int:
    """Bring a source into the data set; return the exit code."""
    existing = ExistingSet.read(options.out)
    _check_ours(options, existing)
    if options.labels is None and existing.folds is None:
        refuse_idle(options, ("folds", "seed", "group", "allow_unlabelled"), "without --labels")
    output.overwrite = True  # the folder holds a data set, or may be replaced
    spec = _spec(options, classes, existing)
    path = options.out / f"prepare-{options.source}.journal"
    if options.overwrite:
        existing = existing.forget(options.source)
        remove_journal(path)
    existing.check_fits(spec, source.name, source.ids)
    say_notes(roles_notes(spec.channels, spec.roles))
    _check_same_images(existing, source)
    stamp = sources.stamps(source)
    known, before = existing.known(source.name)
    _say_if_old(existing, source)
    unchanged = {ID: value for ID, value in known.items() if before[ID] == stamp[ID]}
    known = {ID: value for ID, value in unchanged.items() if value[0]["status"] == "ok"}  # what failed is tried again
    source.shards.allocate()
    with _journal(path, source, existing) as journal:
        known.update(sources.recall(journal, source, stamp))
        todo = [job for job in source.jobs() if job.files.ID not in known]
        bits = sources.bits_before(source, existing, journal)
        if todo:
            if known:
                say(f"{len(known)} of {len(source.ids)} images are prepared already; {len(todo)} are left.")
            todo, bits = _on_one_scale(options, existing, source, known, journal, stamp, todo)
            if existing.source(source.name) and any(job.files.ID not in unchanged for job in todo):
                existing.mark_unfinished()
            known.update(sources.execute(todo, journal, stamp, options.pool))
            source.shards.sync()
            _check_any(known)
            say_notes(sources.pixel_notes(known, bits, source.choice, source.channels))
        rows = _named_alike(sources.rows(source, known), existing.others(source.name))
        done = _is_finished(options.out, existing, spec, rows)
        if not done:
            sources.write_extras(options.out, source, known, stamp)
            with _broken_named(rows):
                _finish(existing, spec, source, rows, bits, output)
    remove_journal(path)
    return _report(options.out, source.name, done)


def _check_any(known: Known) -> None:
    """Refuse a source of which no image could be prepared."""
    if all(record["status"] == "failed" for record, _ in known.values()):
        reasons = sources.in_brief(record["reason"] for record, _ in known.values())
        raise DataError(f"none of the {len(known)} images could be prepared: {reasons}")


def _check_ours(options: PrepareOptions, existing: ExistingSet) -> None:
    """Refuse a folder with files that do not belong to a data set."""
    begun = any(options.out.glob("prepare-*.journal"))
    strange = [name for name in (TABLE, FOLDS, DUPLICATES, SHARDS, SOURCES) if _holds_anything(options.out / name)]
    if strange and not existing.manifest and not begun and not options.overwrite:
        raise ConfigError(
            f"{options.out / strange[0]} is there, but no data set: choose another --out, or pass --overwrite true."
        )


def _holds_anything(path: Path) -> bool:
    """Whether there is a file, or a folder that is not empty, as one is that was made for images without room."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _journal(path: Path, source: Source, existing: ExistingSet) -> Journal:
    """Open the journal of a source; leftovers of a first try with other options are removed."""
    try:
        return Journal(path, source.inputs)
    except ConfigError as error:
        if existing.source(source.name) is not None:
            raise
        say(f"note: {error} No data set was finished with them: they are left.")
        remove_journal(path)
        return Journal(path, source.inputs)


def _say_if_old(existing: ExistingSet, source: Source) -> None:
    record = existing.source(source.name)
    if record is not None and record.get("stamps") != STAMPS:
        say(
            f"note: {existing.folder} was prepared by an earlier version: "
            f"the images of {source.name} are read once more."
        )


def _on_one_scale(
    options: PrepareOptions,
    existing: ExistingSet,
    source: Source,
    known: Known,
    journal: Journal,
    stamp: dict[str, int],
    todo: list[Job],
) -> tuple[list[Job], int | None]:
    """Check headers and decide the bits of 16-bit files; return what is to be done, and the bits (None: no such file).

    Where changed files change the bits, images that are stored already are removed from `known` and prepared again.
    """
    before = sources.bits_before(source, existing, journal)
    checked, deep = sources.check(todo, options.pool, others=bool(known))
    deep = source.jobs() if known and source.bits == "auto" else deep
    bits = sources.decide_bits(source, deep, before, journal, stamp, options.pool)
    if known and before != bits:
        known.clear()
        checked, _ = sources.check(source.jobs(), options.pool)
    return [replace(job, bits=bits) for job in checked], bits


def _find(options: PrepareOptions) -> tuple[ClassList, Source]:
    """Find images and labels and match them, before anything is decoded or written."""
    classes = tables.read_classes(options.classes) if options.classes else HPA
    channels, in_files = channel_names(options.channels)
    table = tables.read_labels(options.labels, classes, in_files) if options.labels else None
    listed = options.images.suffix.lower() == ".csv"
    if listed:
        listing, folder = image_files.read_path_list(options.images, in_files), options.images.parent
    else:
        listing, folder = (
            image_files.find_images(options.images, in_files, table.named if table else ()),
            options.images,
        )
    files = tables.leave_out(listing.images, options.skip)
    matched = tables.match_labels(files, table, allow_unlabelled=options.allow_unlabelled)
    if table and classes is HPA and in_files != HPA_CHANNELS and not set(channels) <= {*HPA_CHANNELS}:
        say("note: labels are read as the 19 classes of the Human Protein Atlas; --classes names others.")
    say_notes([*listing.notes, *matched.notes])
    shards = Shards(options.out / SHARDS, options.source, len(files), len(channels), options.size)
    choice = parse_choice(options.plane, options.project)
    return classes, Source(options.source, folder, options.bits, matched, shards, choice, in_files)


def _spec(options: PrepareOptions, classes: ClassList, existing: ExistingSet) -> Spec:
    folds, seed = existing.folds or (4, 0)
    folds = folds if options.folds is None else options.folds
    seed = seed if options.seed is None else options.seed
    group = existing.group if options.group is None else options.group
    names, _ = channel_names(options.channels)
    return Spec(options.size, names, classes, folds, seed, group, parse_roles(options.roles, names))


def _check_same_images(existing: ExistingSet, source: Source) -> None:
    """Refuse to continue with a source whose images have changed places."""
    before = existing.source(source.name)
    if before is None or before["fingerprint"] == source.fingerprint:
        return
    held = set(existing.table.loc[existing.table["source"] == source.name, "ID"])
    changed = sorted(held ^ set(source.ids))
    what = (
        f"{len(changed)} images came or went: {some(changed)}" if changed else "--bits, --plane or --project is another"
    )
    raise DataError(
        f"source {source.name} of {existing.folder} was prepared differently ({what}). "
        "Add new images with another --source, or pass --overwrite true to make this one again."
    )


def _is_finished(folder: Path, existing: ExistingSet, spec: Spec, rows: pd.DataFrame) -> bool:
    """Return whether the data set on the disk is what would be written now."""
    name = rows["source"].iloc[0]
    recorded = existing.table[existing.table["source"] == name]
    columns = ["ID", "status", "reason", "shard", "slot", "ImageHeight", "ImageWidth", "depth", "crc32", "Label"]
    same = recorded[columns].fillna("-").to_numpy().tolist() == rows[columns].fillna("-").to_numpy().tolist()
    record = existing.source(name)
    if existing.manifest.get("unfinished") or record is None or record.get("stamps") != STAMPS:
        return False
    if not same or not _same_carried(recorded, rows) or existing.folds not in (None, (spec.folds, spec.seed)):
        return False
    if existing.folds and existing.group != spec.group:
        return False
    try:
        data = DataSet.open(folder)
        if existing.folds:
            data.folds()
    except DataError as error:
        say(f"note: {error}")
        return False
    return True


STAMPS = 2
"""Version of the marks that identify unchanged files; marks of other versions match nothing."""


def _same_carried(recorded: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """Return whether the rows of a source carry the same columns as before."""
    now = rows.drop(columns=list(COLUMNS))
    before = recorded.drop(columns=list(COLUMNS))
    gone = [name for name in before if name not in now and (before[name].fillna("") != "").any()]
    return not gone and all(name in before and before[name].tolist() == now[name].tolist() for name in now)


def _finish(
    existing: ExistingSet, spec: Spec, source: Source, rows: pd.DataFrame, bits: int | None, output: Output
) -> None:
    record = {
        "name": source.name,
        "images": len(rows),
        "failed": int((rows["status"] == "failed").sum()),
        "fingerprint": source.fingerprint,
        "bits": bits,
        "channels": list(source.channels),
        "stamps": STAMPS,
    }
    records = [record if old["name"] == source.name else old for old in existing.sources]
    if existing.source(source.name) is None:
        records.append(record)
    others = existing.others(source.name).astype(COLUMNS)
    table = pd.concat([others, rows]) if len(others) else rows
    order = {record["name"]: k for k, record in enumerate(records)}
    before = existing.fold_of(spec)
    table = table.sort_values("source", key=lambda s: s.map(order), kind="stable")
    table = finish(existing.folder, spec, table, records, before=before, output=output)
    _note_moved(before, table, spec.group)
    _note_alone(table[table["fold"] >= 0], spec.group)


def _named_alike(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Name the carried columns of a source as other sources do, whose tables may have them in another case."""
    carried = [str(name) for name in others if name not in COLUMNS] if len(others) else []
    names = {name.casefold(): name for name in carried}
    return rows.rename(columns=lambda name: name if name in COLUMNS else names.get(name.casefold(), name))


def _note_alone(table: pd.DataFrame, group: str) -> None:
    """Report images that have nothing in the column of --group."""
    if table.empty or not group:
        return
    alone = [ID for ID, value in zip(table["ID"], group_of(table, group), strict=True) if not value]
    if alone:
        say(f"note: {len(alone)} images have no {group} and are in any fold, each by itself: {some(alone)}.")


def _note_moved(before: dict[str, int], table: pd.DataFrame, group: str) -> None:
    """Report images that are not in the fold they were in before."""
    now = dict(zip(table["ID"], table["fold"].astype(int), strict=True))
    moved = [ID for ID, fold in before.items() if now.get(ID, -1) not in (fold, -1)]
    if moved:
        why = f"near-duplicates or one {group} with" if group else "near-duplicates of"
        say(
            f"note: {len(moved)} images are in another fold than before, being {why} images of other folds: "
            f"{some(moved)}. Networks trained before cannot predict them out of fold."
        )


@contextmanager
def _broken_named(rows: pd.DataFrame) -> Iterator[None]:
    """Add the broken images to an error that they may have caused: they are not in the catalogue yet."""
    try:
        yield
    except UserError as error:
        failed = rows[rows["status"] == "failed"]
        if failed.empty:
            raise
        reasons = some((f"{ID} ({reason})" for ID, reason in zip(failed["ID"], failed["reason"], strict=True)), 3)
        raise type(error)(f"{error} {len(failed)} of {len(rows)} images could not be prepared: {reasons}.") from error


def _report(folder: Path, name: str, done: bool) -> int:
    """Print the outcome; return the exit code."""
    data = DataSet.open(folder)
    failed = int(((data.table["source"] == name) & ~data.ok).sum())
    if done:
        say(f"{folder} is prepared already ({len(data)} images, {failed} failed): nothing to do.")
    else:
        for line in summary(data.table, data.classes):
            say(line)
        say(f"{folder} is prepared.")
    return 1 if failed else 0
