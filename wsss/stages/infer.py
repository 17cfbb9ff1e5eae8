"""Score every cell of a data set with a trained run: cells.csv and .parquet, images.csv, submission.csv.

Whether a CPU computes in bfloat16 is tried on the first images, both ways.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from wsss.core.checks import ConfigError, exit_code, refuse_idle, some
from wsss.core.console import say
from wsss.core.files import digest_json
from wsss.core.label_maps import given_maps
from wsss.core.runtime import Overlap, running
from wsss.data.catalog import TABLE, DataSet, default_dataset
from wsss.data.origin import PROVENANCE, SEEN, check_cells, image_marks, seen_note, write_provenance
from wsss.inference.checkpoints import (
    CamCheckpoint,
    Plan,
    bits_note,
    came_later,
    check_fits,
    count_seen,
    images_of,
    load_run,
    load_unets,
    networks_of,
    pair,
    plan_all,
    plan_oof,
)
from wsss.inference.ensemble import foreign_note
from wsss.inference.pipeline import (
    HALF,
    Scored,
    ShardJournals,
    check_origin,
    predict_plan,
    prediction_facts,
    read_sample,
    record_images,
    score_now,
    take,
    write_results,
)
from wsss.inference.published import Published, Target, load_published
from wsss.inference.sources import CropScores, Sample, Task, rules_for_all, source_shares
from wsss.metrics.calibration import Calibration, load_calibration
from wsss.models.cam_net import CamNet, InOpenVino, check_runtime
from wsss.models.device import Device, choose_device, computes_half, keep_freed_memory
from wsss.options.infer import InferOptions, Shard, parse_source, refuse_of_other_task, run_config
from wsss.options.segment import TAKES, SegmentOptions
from wsss.runs.journal import Journal, remove_journal
from wsss.runs.output import LOCK, Marks, Output, hold, in_folder
from wsss.runs.result_record import FOLDER
from wsss.segmenters import choose_backend
from wsss.stages import segment
from wsss.stages.infer_masks import infer_masks

TRIED = 4
"""Images that are scored both ways; the first is for warming up, and does not count for the speed."""
WORTH = 64
"""Images for which the trial is worth its time."""
FASTER = 1.3
"""How many times as fast bfloat16 must be."""
APART = 0.02
"""The most that a score of a cell, or a probability of an image, may differ."""


@dataclass(frozen=True)
class Trial:
    """What came of scoring images both ways."""

    images: int
    faster: float
    """How many times as fast bfloat16 was, by CPU time; the median of the images."""
    apart: float
    """The largest difference of a score."""

    @property
    def half(self) -> bool:
        """Whether bfloat16 is to be taken."""
        return self.faster >= FASTER and self.apart <= APART

    def __str__(self) -> str:
        return (
            f"precision: {'bf16' if self.half else 'fp32'}; on the first {self.images} images bf16 was "
            f"{self.faster:.2f} times as fast ({FASTER} is wanted), and scores differed by up to {self.apart:.4f} "
            f"({APART} is allowed)"
        )


def try_half(task: Task, checkpoints: list[CamCheckpoint], indices: Sequence[int], *, parts: bool = False) -> Trial:
    """Score the first TRIED images of `indices`, at least one, in float32 and bfloat16 by turns.

    The device of the task is the CPU in float32. With `parts`, the parts of the scores must not differ either.
    """
    ways = [task, replace(task, device=Device(task.device.place, torch.bfloat16))]
    ratios, apart = [], []
    for index in indices[:TRIED]:
        sample = read_sample(task, index)
        (plain, plain_s), (half, half_s) = (_score(way, checkpoints, sample, parts) for way in ways)
        ratios.append(plain_s / half_s)
        apart.append(np.abs(plain - half).max())
    return Trial(len(ratios), float(np.median(ratios[1:] or ratios)), float(np.max(apart)))


def _score(task: Task, checkpoints: list[CamCheckpoint], sample: Sample, parts: bool) -> tuple[np.ndarray, float]:
    """Return all scores of an image, and the CPU seconds that they took."""
    began = time.process_time()
    scored = score_now(task, checkpoints, sample)
    seconds = time.process_time() - began
    table = scored.cells
    columns = [name for name in map(str, table) if name.rpartition(":")[2].isdecimal() and (parts or ":" not in name)]
    return np.append(table[columns].to_numpy(), scored.record["probs"]), seconds


def run(options: InferOptions) -> int:
    """Predict as the options say; return the exit code."""
    keep_freed_memory()
    if options.run is not None:
        trained = run_config(options.run).get("task")
        refuse_of_other_task(options, options.run, finds_masks=trained == "masks")
        if trained == "masks":
            return infer_masks(options, options.run)
        if trained == "maps":
            raise ConfigError(f"{options.run} finds class maps alone: pass its classifier as --run, and it as --unet.")
    if options.unet is None:
        refuse_idle(options, ("encoder",), "without U-Nets")
    folder = default_dataset(options.data)
    scorers = [parse_source(text)[0] for text in options.source] if options.run is None else [options.run.name]
    out = options.out or Path("preds") / f"{folder.name}-{'-'.join(scorers)}{'-oof' if options.oof else ''}"

    on_ray = options.engine == "ray"  # this process only plans then
    device = choose_device("cpu") if on_ray else choose_device(options.device, options.precision, predicts=True)
    task, plan = _open(options, device)
    seen = 0 if options.oof else count_seen(plan, task.data)  # out of fold, plan_oof has refused them
    if options.oof:
        _note_late_images(task.data, plan)
        if note := foreign_note(model.name for model in task.published):
            say(note)
    elif note := seen_note({SEEN: seen}):
        say(note)
    if note := bits_note([checkpoint.record for checkpoint in networks_of(plan)], task.data):
        say(f"note: {note}")
    if not options.segment:
        check_cells(task.data, ", or pass --segment unet")
    if options.shard:
        with hold(out, lock=f"{LOCK}.{options.shard.replace('/', '-of-')}"):  # shards run side by side
            return _run_shard(task, plan, Output(out, FOLDER, "infer"), options)
    with in_folder(out, "infer") as output:
        return _predict_into(output, options, task, plan, seen)


def _note_late_images(data: DataSet, plan: Plan) -> None:
    """Report images that came after the training."""
    _, later = came_later(networks_of(plan), data)
    if later:
        say(
            f"note: {len(later)} labelled images came into {data.folder} after the training "
            f"({some(data.ids[i] for i in later)}): the mean of all networks that never saw them predicts them."
        )


def _open(options: InferOptions, device: Device) -> tuple[Task, Plan]:
    """Open data and networks, and plan which predict which images."""
    data = DataSet.open(default_dataset(options.data))
    checkpoints = [] if options.run is None else load_run(options.run, device, snapshots=options.snapshots)
    check_fits(checkpoints, data)
    if options.runtime == "openvino":
        check_runtime(device)
        checkpoints = [replace(one, net=cast(CamNet, InOpenVino(one.net))) for one in checkpoints]
    if options.unet is not None:
        unets = load_unets(options.unet, device, "maps", options.encoder)
        checkpoints = pair(checkpoints, unets, oof=options.oof)
    plan = plan_oof(checkpoints, data) if options.oof else plan_all(checkpoints, data)
    _check_nuclei(options, data, plan)
    _check_embeddings(options, plan)
    target = Target(str(data.folder), data.channels, data.roles, data.classes)
    published = load_published(options.source, target, device, options.source_share, options.pixel_um)
    task = Task(
        data,
        rules_for_all(options.score, plan),
        options.crops,
        device,
        options.batch,
        options.tta,
        _calibration(options, data, plan, published),
        options.embeddings,
        published,
    )
    return task, plan


def _check_embeddings(options: InferOptions, plan: Plan) -> None:
    """Refuse crop features that could not be compared between cells, or for which no crops are cut."""
    wanted, score, crops = options.embeddings, options.score, options.crops
    if wanted is False or not plan:
        return
    if wanted == "crops" and crops.mode == "none":
        raise ConfigError("--embeddings crops needs crops, and crops.mode is none: pass --crops.mode fit.")
    cut = wanted == "crops" or any(CropScores.name in source_shares(group, score, crops) for group, _ in plan)
    if cut and len({checkpoints[0].digest for checkpoints, _ in plan}) > 1:
        raise ConfigError(
            "--embeddings with crop features needs one network for all images, since features of different networks "
            "have no common axes, and --oof takes another one for each fold: leave --oof out, pass one fold's folder "
            "as --run, or keep the cell features alone (--embeddings true --score.crop_share 0)."
        )


def _check_nuclei(options: InferOptions, data: DataSet, plan: Plan) -> None:
    """Refuse score.compartment for images whose cells came without nuclei."""
    if options.score.compartment == 0 or options.segment:
        return
    cells, nuclei = given_maps(data.folder / "cells"), given_maps(data.folder / "nuclei")
    predicted = [data.ids[i] for i in images_of(plan)]
    if lacking := [name for name in predicted if name in cells and name not in nuclei]:
        raise ConfigError(
            f"score.compartment is {options.score.compartment:g}, which needs nuclei, and {some(lacking, 3)} in "
            f"{data.folder} have none: segment with a backend that finds nuclei, or pass --score.compartment 0."
        )


def _calibration(
    options: InferOptions, data: DataSet, plan: Plan, published: Sequence[Published]
) -> Calibration | None:
    """Read the curves of --calibration, if they fit what is predicted."""
    if options.calibration is None:
        return None
    calibration = load_calibration(options.calibration, len(data.classes))
    check_origin(calibration, prediction_facts(options, data, plan, published), options.calibration)
    return calibration


def open_in_worker(words: dict[str, Any], device_name: str) -> tuple[Task, Plan, str]:
    """Open data and networks in a worker on another machine, from the options by name; return the fingerprint too."""
    options = InferOptions(**words)
    task, plan = _open(options, choose_device(device_name, options.precision, predicts=True))
    return task, plan, digest_json(prediction_facts(options, task.data, plan, task.published))


def _predict_into(output: Output, options: InferOptions, task: Task, plan: Plan, seen: int) -> int:
    """Predict the missing images and publish the tables; return the exit code. `seen`: see `count_seen`."""
    provenance, read, marks = _read(options, task, plan)
    if not output.begin(lambda digests: read, marks=marks, overwrite=options.overwrite, legacy=(PROVENANCE,)):
        return 0
    home, parts, embeddings = output.home, _parts(options, task, plan), bool(options.embeddings)
    with _segmented(task, plan, options) as overlap, _journal(output, options) as journal:
        if isinstance(journal, Journal):
            _run(replace(task, overlap=overlap), plan, journal, options, output)
        failed = write_results(
            home, task.data, journal, parts, options.min_score, shown=output.folder, embeddings=embeddings
        )
        wanted = [task.data.ids[i] for i in images_of(plan)]
        records = {name: entry[0] for name in wanted if (entry := journal.get(name)) is not None}
    again = [name for name, record in records.items() if record.get("failed")]
    if any(HALF in record for record in records.values()):
        provenance[HALF] = True
    if seen:
        provenance[SEEN] = seen
    write_provenance(output, provenance)
    items = {name: str(record.get("mark", "")) for name, record in records.items()}
    output.publish(failed=again, items=items)
    if isinstance(journal, ShardJournals) and not again:  # else the shards with images that failed may be run again
        for path in journal.paths:
            remove_journal(path)
    return exit_code(failed, len(task.data))


def _read(options: InferOptions, task: Task, plan: Plan) -> tuple[dict[str, Any], dict[str, Any], Marks]:
    """Return what provenance.json says, the same for comparing, and what each image's scores are made from."""
    provenance = prediction_facts(options, task.data, plan, task.published)
    read = {name: value for name, value in provenance.items() if name not in ("table", "classes")}
    read["files"] = {str(task.data.folder / TABLE): provenance["table"]}
    return provenance, read, lambda digests: image_marks(task.data, digests, images_of(plan))


def _segmented(task: Task, plan: Plan, options: InferOptions) -> AbstractContextManager[Overlap | None]:
    """Segment the cells while the block runs, in the order in which it needs them; or do nothing."""
    if not options.segment:
        return nullcontext()
    backend = choose_backend(options.segment, task.data.roles)
    device = options.device if "device" in TAKES.get(backend, ("device",)) else "auto"
    asked = SegmentOptions(data=task.data.folder, backend=backend, device=device)
    order = [task.data.ids[i] for i in images_of(plan)]
    return running(lambda overlap: segment.run(asked, overlap), Overlap(order))


def _journal(output: Output, options: InferOptions) -> Journal | ShardJournals:
    """Open the journal of this prediction, or those of all its shards."""
    return ShardJournals(output.folder, output.read, output.items) if options.merge else output.journal()


def _parts(options: InferOptions, task: Task, plan: Plan) -> list[str]:
    """Return the sources whose scores are written beside the blend: those of all images, if they are wanted."""
    if not options.parts or not plan:
        return []
    shares = [source_shares(checkpoints, options.score, options.crops, task.published) for checkpoints, _ in plan]
    return [name for name in shares[0] if all(name in other for other in shares)]


def _run_shard(task: Task, plan: Plan, output: Output, options: InferOptions) -> int:
    """Predict one shard into its own journal."""
    _, read, marks = _read(options, task, plan)
    about: dict[str, Any] = {"marks": marks, "overwrite": options.overwrite, "legacy": (PROVENANCE,)}
    if not output.begin(lambda digests: read, **about, touch=False):
        return 0
    shard, out = Shard.parse(options.shard), output.folder
    part = take(shard, plan, options.batch)
    if options.overwrite:
        remove_journal(out / shard.journal)
    with Journal(out / shard.journal, output.read, way_out=output.way_out) as journal:
        _run(task, part, journal, options, output)
        count = len(journal)
    say(f"{out / shard.journal}: {count} images; when all {shard.count} are done, run the same with --merge true")
    return 0


def _run(task: Task, plan: Plan, journal: Journal, options: InferOptions, output: Output) -> None:
    """Predict what the journal lacks, and record every image as it is done."""
    done = output.fresh(journal)
    skip, total = {i for i in images_of(plan) if task.data.ids[i] in done}, len(images_of(plan))
    if done:
        say(f"{len(done)} of {total} images are there already: going on.")
    task = _with_precision(task, plan, skip, journal, options)
    folds = _folds_of(task.data, plan) if options.oof else [-1] * len(plan)
    spread = options.engine == "ray"
    predicted = _on_ray(task, plan, folds, skip, options) if spread else predict_plan(task, plan, folds, skip)
    record_images(task, predicted, journal, output, skip, total)


def _with_precision(task: Task, plan: Plan, skip: set[int], journal: Journal, options: InferOptions) -> Task:
    """Compute in bfloat16 where nothing else is asked for, and this CPU is really faster and close enough then.

    A run that goes on keeps to what it began with. Shards do not try: they would have to agree.
    """
    if options.engine == "ray" or options.precision != "auto" or task.device.is_cuda:
        return task
    begun = {HALF in record for _, record, _ in journal.items() if not record.get("failed")}
    todo = [(checkpoints, i) for checkpoints, indices in plan for i in indices if i not in skip]
    half, native = True in begun, computes_half(task.device)
    if begun and (half or native):
        say(f"precision: {'bf16' if half else 'fp32'}, as the run began")
    elif native and (options.shard or options.runtime != "torch" or options.embeddings or len(todo) < WORTH):
        say("note: this CPU computes in bf16: --precision bf16 halves the time of large networks.")
    elif native:
        checkpoints = todo[0][0]
        trial = try_half(task, checkpoints, [i for others, i in todo if others is checkpoints], parts=options.parts)
        say(str(trial), "precision", **vars(trial), half=trial.half)
        half = trial.half
    return replace(task, device=replace(task.device, half=torch.bfloat16)) if half else task


def _folds_of(data: DataSet, plan: Plan) -> list[int]:
    """Return the fold of the images of each part of a plan; -1 unless all its networks held it out."""
    held = data.folds()
    firsts = [(checkpoints, int(held[images[0]])) for checkpoints, images in plan]
    return [fold if all(checkpoint.fold == fold for checkpoint in checkpoints) else -1 for checkpoints, fold in firsts]


def _on_ray(task: Task, plan: Plan, folds: list[int], skip: set[int], options: InferOptions) -> Iterator[Scored]:
    from wsss.inference.on_ray import make_chunks, predict_on_ray
    from wsss.stages import infer  # by its name, which workers know; it runs as __main__ here

    fingerprint = digest_json(prediction_facts(options, task.data, plan, task.published))
    build = partial(infer.open_in_worker, vars(options))
    chunks = make_chunks(plan, folds, task.batch, skip)
    yield from predict_on_ray(build, fingerprint, chunks, options.device)
