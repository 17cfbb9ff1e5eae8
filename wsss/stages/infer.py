"""Score every cell of a data set with a trained run: cells.csv and .parquet, images.csv, submission.csv."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wsss.core.checks import ConfigError
from wsss.core.console import say
from wsss.core.device import Device, choose_device
from wsss.core.files import digest_json, read_json, write_json
from wsss.core.runtime import keep_freed_memory, progress
from wsss.data.catalog import DataSet, default_dataset
from wsss.inference.calibration import Calibration, load_calibration
from wsss.inference.checkpoints import Plan, check_fits, load_classifiers, load_unet, pair, plan_all, plan_oof
from wsss.inference.overlap import Overlap, running
from wsss.inference.pipeline import predict
from wsss.inference.provenance import check_origin, prediction_facts
from wsss.inference.results import Scored, write_results
from wsss.inference.shards import ShardJournals, take
from wsss.inference.sources import SOURCES, Task, source_shares
from wsss.options.infer import InferOptions, Shard, run_config
from wsss.options.segment import SegmentOptions
from wsss.runs.journal import Journal
from wsss.runs.lock import LOCK, hold
from wsss.runs.run_folder import find_folders
from wsss.stages.infer_masks import infer_masks
from wsss.stages.segment import segment

JOURNAL, PROVENANCE = "journal.sqlite", "provenance.json"


def run(options: InferOptions) -> int:
    """Predict as the options say; return the exit code."""
    keep_freed_memory()
    if run_config(options.run).get("task") == "masks":
        if options.shard or options.merge or options.engine != "local":
            raise ConfigError(f"{options.run} finds masks: such runs are not cut up, leave --shard and --engine out.")
        return infer_masks(options)
    if run_config(options.run).get("task") == "maps":
        raise ConfigError(f"{options.run} finds class maps alone: pass its classifier as --run, and it as --unet.")
    folder = default_dataset(options.data)
    out = options.out or Path("preds") / f"{folder.name}-{options.run.name}{'-oof' if options.oof else ''}"

    on_ray = options.engine == "ray"  # this process only plans then
    task, plan = _open(options, choose_device("cpu") if on_ray else choose_device(options.device, options.precision))
    lock = f"{LOCK}.{options.shard.replace('/', '-of-')}" if options.shard else LOCK  # shards run side by side
    with hold(out, *(source.name for source in SOURCES), lock=lock):
        return _predict_into(out, options, task, plan)


def _open(options: InferOptions, device: Device) -> tuple[Task, Plan]:
    """Open data and networks, and plan which predict which images."""
    data = DataSet.open(default_dataset(options.data))
    folders = find_folders(options.run)
    members = [member for found in folders for member in load_classifiers(found, device, snapshots=options.snapshots)]
    for member in members:
        check_fits(member, data)
    if options.unet is not None:
        nets = [load_unet(found, device, "maps") for found in find_folders(options.unet)]
        members = pair(members, nets, oof=options.oof)
    plan = plan_oof(members, data) if options.oof else plan_all(members, data)
    curves = _calibration(options, data, plan)
    return Task(data, options.score, options.crops, device, options.batch, options.tta, curves), plan


def _calibration(options: InferOptions, data: DataSet, plan: Plan) -> Calibration | None:
    """Read the curves of --calibration, if they fit what is predicted."""
    if options.calibration is None:
        return None
    found = load_calibration(options.calibration, len(data.classes))
    check_origin(found, prediction_facts(options, data, plan), options.calibration)
    return found


def open_in_worker(words: dict[str, Any], device_name: str) -> tuple[Task, Plan, str]:
    """Open what a worker of another machine predicts, from the options by name; with the fingerprint of it all."""
    options = InferOptions(**words)
    task, plan = _open(options, choose_device(device_name, options.precision))
    return task, plan, digest_json(prediction_facts(options, task.data, plan))


def _predict_into(out: Path, options: InferOptions, task: Task, plan: Plan) -> int:
    """Predict what is not there yet and write the tables; return the exit code."""
    facts = prediction_facts(options, task.data, plan)
    if not _begin(out, facts, options):
        say(f"{out} holds these predictions already: nothing to do.")
        return 0
    if options.shard:
        return _run_shard(task, plan, out, facts, options)
    with _segmented(task, plan, options) as overlap:
        failed, journals = _predict(replace(task, overlap=overlap), plan, out, facts, options)
    write_json(out / PROVENANCE, facts)
    _remove(journals)
    return 1 if failed else 0


def _segmented(task: Task, plan: Plan, options: InferOptions) -> AbstractContextManager[Overlap | None]:
    """Find the cells while the block lasts, in the order in which it wants them; or do nothing."""
    if not options.segment:
        return nullcontext()
    asked = SegmentOptions(data=task.data.folder, backend=options.segment, device=options.device)
    order = [task.data.ids[i] for _, indices in plan for i in indices]
    return running(lambda overlap: segment(asked, overlap), Overlap(order))


def _predict(task: Task, plan: Plan, out: Path, facts: dict[str, Any], options: InferOptions) -> tuple[int, list[Path]]:
    """Write the tables, from all shards or after predicting here; return failed images and the journals used."""
    fingerprint, parts = digest_json(facts), _parts(options, plan)
    if options.merge:
        wanted = [task.data.ids[i] for _, indices in plan for i in indices]
        with ShardJournals(out, fingerprint, wanted) as shards:
            return write_results(out, task.data, shards, parts, options.min_score), shards.paths
    with Journal(out / JOURNAL, fingerprint) as journal:
        _run(task, plan, journal, options)
        return write_results(out, task.data, journal, parts, options.min_score), [out / JOURNAL]


def _run_shard(task: Task, plan: Plan, out: Path, facts: dict[str, Any], options: InferOptions) -> int:
    """Predict one shard into a journal of its own."""
    shard = Shard.parse(options.shard)
    own = take(shard, plan, options.batch)
    with Journal(out / shard.journal, digest_json(facts)) as journal:
        _run(task, own, journal, options)
        count = len(journal)
    say(f"{out / shard.journal}: {count} images; when all {shard.count} are done, run the same with --merge true")
    return 0


def _remove(journals: list[Path]) -> None:
    for path in journals:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _begin(out: Path, facts: dict[str, Any], options: InferOptions) -> bool:
    """Make room for the predictions; False if they are there already."""
    if (out / PROVENANCE).exists():
        if read_json(out / PROVENANCE) == facts and not options.overwrite:
            return False
        if not options.overwrite:
            raise ConfigError(f"{out} holds other predictions: choose another --out, or pass --overwrite true.")
    if options.overwrite:
        (out / PROVENANCE).unlink(missing_ok=True)
        if not options.merge:  # which needs what the shards have just written
            _remove([out / (Shard.parse(options.shard).journal if options.shard else JOURNAL)])
    return True


def _run(task: Task, plan: Plan, journal: Journal, options: InferOptions) -> None:
    """Predict what the journal lacks, and record every image as it is done."""
    ids = task.data.ids
    done = journal.keys()
    skip = {i for _, indices in plan for i in indices if ids[i] in done}
    total = sum(len(indices) for _, indices in plan)
    if done:
        say(f"{len(done)} of {total} images are there already: going on.")
    held = task.data.folds() if options.oof else None
    folds = [-1 if held is None else int(held[images[0]]) for _, images in plan]
    predicted = _on_ray(task, plan, folds, skip, options) if options.engine == "ray" else _here(task, plan, folds, skip)
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for scored in predicted:
            if scored.index not in skip:
                journal.add(ids[scored.index], scored.record, scored.payload)
                bar.update()


def _here(task: Task, plan: Plan, folds: list[int], skip: set[int]) -> Iterator[Scored]:

    for (members, indices), fold in zip(plan, folds, strict=True):
        yield from predict(task, members, indices, skip, fold)


def _on_ray(task: Task, plan: Plan, folds: list[int], skip: set[int], options: InferOptions) -> Iterator[Scored]:

    from wsss.inference.on_ray import make_chunks, predict_on_ray
    from wsss.stages import infer  # by its name, which workers know; it runs as __main__ here

    fingerprint = digest_json(prediction_facts(options, task.data, plan))
    build = partial(infer.open_in_worker, vars(options))
    chunks = make_chunks(plan, folds, task.batch, skip)
    yield from predict_on_ray(build, fingerprint, chunks, options.device)


def _parts(options: InferOptions, plan: Plan) -> list[str]:
    """Return the parts of the score that are written beside the blend."""
    return list(source_shares(plan[0][0], options.score, options.crops)) if options.parts and plan else []
