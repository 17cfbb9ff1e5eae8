"""The flow of images from the store to the tables.

Reading, networks, cell scores and encoding overlap; memory is bounded by a batch. A journal keeps the finished images;
a prediction in shards has a journal for each, and they are read as one. provenance.json says what predictions were
made from, and so whether curves fitted to others fit them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from threadpoolctl import threadpool_limits

from wsss.cells.regions import cell_ids, measure_cells, visible_share
from wsss.cells.scoring import Part, blend_parts, image_scores, own_share
from wsss.core.checks import DataError, some
from wsss.core.console import progress, say
from wsss.core.files import as_read, digest_file
from wsss.core.rle import encode_label_map
from wsss.core.runtime import cores, versions
from wsss.data.catalog import DataSet
from wsss.data.origin import image_marks
from wsss.inference.checkpoints import CamCheckpoint, Plan
from wsss.inference.published import Published
from wsss.inference.sources import (
    Batch,
    Sample,
    Source,
    Task,
    batches_of,
    recorded,
    shows_one_class,
    source_shares,
    sources_of,
)
from wsss.inference.tables import (
    EMBEDDINGS,
    cells_frame,
    iter_cells,
    put_carried,
    write_cells,
    write_embeddings,
    write_images,
    write_submission,
)
from wsss.metrics.calibration import Calibration
from wsss.models.cam_net import class_maps
from wsss.options.infer import InferOptions, Shard
from wsss.runs.inputs import Digests
from wsss.runs.journal import Journal
from wsss.runs.output import Output


def take(shard: Shard, plan: Plan, batch: int) -> Plan:
    """Keep this shard's batches of a plan.

    Shards are whole batches, dealt out in turn. So every image is in the batch that one process would put it in, and
    the scores are the same to the last bit.
    """
    out: Plan = []
    place = 0  # of the batch among all of the plan, so that small folds do not all fall to the first shards
    for checkpoints, indices in plan:
        batches = batches_of(indices, batch)
        mine = [cut for k, cut in enumerate(batches, place) if k % shard.count == shard.number - 1]
        out.append((checkpoints, [index for cut in mine for index in cut]))
        place += len(batches)
    return [(checkpoints, indices) for checkpoints, indices in out if indices]


class ShardJournals:
    """The journals of all shards in a folder, read as one.

    Args:
        folder: where the shards wrote.
        read: what they must have worked on.
        marks: the keys they must have done, every one once, each with what it must have been made from.

    Raises:
        DataError: there are none, they are of several cuts, or of another prediction; a key is missing, comes twice, or
            was made from something else.
    """

    def __init__(self, folder: Path, read: object, marks: Mapping[str, str]) -> None:
        shards = _find(folder)
        with ExitStack() as stack:
            self._place: dict[str, Journal] = {}
            for shard in shards:
                journal = stack.enter_context(Journal(folder / shard.journal, read, way_out="or run the shards again"))
                self._add(journal)
            _check_whole(folder, shards, self._place, list(marks))
            self._check_fresh(marks)
            self._stack = stack.pop_all()
        self.paths = [folder / shard.journal for shard in shards]

    def _add(self, journal: Journal) -> None:
        for key in sorted(journal.keys()):
            if key in self._place:
                raise DataError(
                    f"{key} is in {self._place[key].path} and in {journal.path}: one of the files is a copy, or was "
                    "made with another --shard. Remove it, and run its shard again."
                )
            self._place[key] = journal

    def _check_fresh(self, marks: Mapping[str, str]) -> None:
        entries = {name: entry[0] for name in marks if (entry := self.get(name)) is not None}
        if stale := [name for name, record in entries.items() if record.get("mark", "") != marks[name]]:
            raise DataError(
                f"pixels or label maps of {some(stale, 3)} have changed since its shard was made: run the shards again."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """Return (record, payload) of `key`, or None if no shard was to do it."""
        return self._place[key].get(key) if key in self._place else None


def _find(folder: Path) -> list[Shard]:
    """Return the shards that wrote into a folder, by number."""
    names = (re.fullmatch(r"shard-(\d+)-of-(\d+)\.sqlite", path.name) for path in folder.glob("shard-*.sqlite"))
    shards = sorted((Shard(int(name[1]), int(name[2])) for name in names if name), key=lambda shard: shard.number)
    if not shards:
        raise DataError(f"{folder} holds no shards: run infer with --shard 1/n ... n/n into it first.")
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        raise DataError(f"{folder} holds shards of {some(counts)}: keep those of one n, and remove the others.")
    return shards


def _check_whole(folder: Path, shards: list[Shard], done: dict[str, Journal], wanted: list[str]) -> None:
    missing = [key for key in wanted if key not in done]
    if missing:
        count = shards[0].count
        unseen = sorted(set(range(1, count + 1)) - {shard.number for shard in shards})
        lacking = f" There is no file of shard {some([f'{k}/{count}' for k in unseen])}." if unseen else ""
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} images ({some(missing)}).{lacking} "
            "Run the unfinished shards again; what they have done is kept."
        )
    extra = sorted(set(done) - set(wanted))
    if extra:
        raise DataError(f"{folder} holds {some(extra)}, which are not to be predicted: the shards are of other images.")


HELPERS = max(2, min(8, cores() // 2))
"""Threads that read, and threads that score and encode; a GPU outruns two."""
HALF = "half"
"""Key of what was computed in half precision, in the records of a journal and in provenance.json."""
EMBEDDING = "embedding"
"""What stands before the names of the vectors' elements in a payload."""


@dataclass(frozen=True)
class Scored:
    """One image's results."""

    index: int
    record: dict[str, Any]
    """n_cells, status, fold and probs: the image's row."""
    payload: bytes
    """Its cells: the blended table and, as columns 'source:class', the parts and, as 'embedding:name', the vectors;
    Arrow IPC."""

    @property
    def cells(self) -> pd.DataFrame:
        """Its cells as a table."""
        return _unpacked(self.payload)


def _packed(frame: pd.DataFrame) -> bytes:
    """Return a table as Arrow IPC, faster than pandas does it where the rows are few and the columns many."""
    table = pa.table({name: own if own.dtype == "str" else own.to_numpy() for name, own in frame.items()})
    stream = BytesIO()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def _unpacked(payload: bytes) -> pd.DataFrame:
    table: pd.DataFrame = pa.ipc.open_file(payload).read_all().to_pandas(use_threads=False)
    return table


def finish_image(task: Task, sources: Sequence[Source], sample: Sample, fold: int) -> Scored:
    """Score one image's cells by all sources, blend, and add geometry and masks."""
    sample = replace(sample, vectors={source.name: source.describe(sample) for source in sources})
    parts = [
        Part(source.name, source.group, source.share, source.score(sample))
        for source in sources
        if source.share is not None
    ]
    visible = visible_share(sample.cells, sample.content)
    one_class = shows_one_class(sources[0].checkpoints, task.score)
    final = blend_parts(parts, task.score, negative=task.data.classes.negative, visible=visible, one_class=one_class)
    probs = image_scores(final, sample.probs, negative=task.data.classes.negative, share=own_share(parts))
    for curves in (*(source.curves for source in sources if len(final)), task.calibration):
        if curves is not None:
            final, probs = curves.of_cells(final), curves.of_image(probs)
    frame = _frame(task.data, sample, (final, probs), parts, fold, _vectors(task, sources, sample))
    status = "ok" if sample.label_map is not None else f"no cells: {sample.problem}"
    record = {"n_cells": len(frame), "status": status, "fold": fold, "probs": [float(p) for p in probs]}
    return Scored(sample.index, record, _packed(frame))


def _vectors(task: Task, sources: Sequence[Source], sample: Sample) -> dict[str, np.ndarray]:
    """Return the elements (N,) of the vectors that are kept, by column, named ones first; none if not wanted."""
    kept = reversed(sources) if task.embeddings else []
    return {
        f"{EMBEDDING}:{name}": values
        for source in kept
        for name, values in zip(source.columns, sample.vectors[source.name].T, strict=True)
    }


def _frame(
    data: DataSet,
    sample: Sample,
    final: tuple[np.ndarray, np.ndarray],
    parts: Sequence[Part],
    fold: int,
    vectors: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """Put scores and vectors beside the geometry of the original image.

    A cell so small that scaling lost it has no scores and gets the image's probabilities; its vector is NaN.

    Args:
        final: the (N, K) scores of the cells and the (K,) probabilities of the image, as they stand in the tables.
    """
    geometry = data.geometry(sample.index)
    label_map = sample.cells if sample.label_map is None else sample.label_map
    native = label_map.shape == (geometry.height, geometry.width)
    table = measure_cells(label_map, geometry=None if native else geometry)
    ids = table["cell_id"].to_numpy()
    row = np.searchsorted(sample.cell_ids, ids)
    scored = np.isin(ids, sample.cell_ids)

    def align(scores: np.ndarray, probs: np.ndarray = sample.probs) -> np.ndarray:
        out = np.tile(probs, (len(ids), 1)).astype(np.float32)
        out[scored] = scores[row[scored]]
        return out

    masks = encode_label_map(geometry.labels_to_native(label_map), ids)
    frame = cells_frame(
        data.ids[sample.index],
        fold=fold,
        size=(geometry.height, geometry.width),
        cell_ids=ids,
        geometry={name: table[name] for name in table.columns},
        scores=align(*final),
        rle=[masks[k] for k in ids.tolist()],
    )
    aligned = {part.name: align(part.scores) for part in parts}
    columns = {f"{name}:{k}": scores[:, k] for name, scores in aligned.items() for k in range(scores.shape[1])}
    for name, values in vectors.items():
        columns[name] = np.full(len(ids), np.nan, np.float32)
        columns[name][scored] = values[row[scored]]
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def take_part(frames: Iterable[pd.DataFrame], name: str) -> Iterator[pd.DataFrame]:
    """Keep the blended table of each frame ('' for `name`), or put the scores of a part in its place."""
    for frame in frames:
        plain = frame[[column for column in frame.columns if ":" not in column]]
        if name:
            scores = [column for column in plain.columns if column.isdecimal()]
            plain = plain.assign(**{column: frame[f"{name}:{column}"] for column in scores})
        yield plain


def take_embeddings(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Keep ID, cell_id and the elements of the vectors of each frame."""
    for frame in frames:
        names = [column for column in frame.columns if column.startswith(f"{EMBEDDING}:")]
        yield frame[["ID", "cell_id", *names]].rename(columns=lambda name: name.removeprefix(f"{EMBEDDING}:"))


def write_results(
    out: Path,
    data: DataSet,
    journal: Journal | ShardJournals,
    parts: list[str],
    min_score: float,
    shown: Path,
    *,
    embeddings: bool = False,
) -> int:
    """Write all tables into `out` and print a summary; return the number of images without a result.

    Args:
        out, data, journal: where to, of what data set, from which finished images.
        parts: parts of the score to write beside the blend, each into its folder.
        min_score: predictions below it are left out of submission.csv.
        shown: the folder as messages name it.
        embeddings: write the cells' vectors as well.
    """
    cells = write_cells(out, take_part(_frames(data, journal), ""))
    images = _images_table(data, journal)
    for name in parts:
        write_cells(out / name, take_part(_frames(data, journal), name))
        write_images(out / name, images)
    write_images(out, images)
    width = write_embeddings(out, take_embeddings(_frames(data, journal))) if embeddings else 0
    sizes = data.table[["ID", "ImageHeight", "ImageWidth"]]
    cells_of_images = progress(iter_cells(out), "submission", total=int((images["n_cells"] > 0).sum()))
    written = write_submission(out / "submission.csv", sizes, cells_of_images, min_score=min_score)
    failed = images[images["status"] != "ok"]
    say(
        f"{shown}: {cells} cells in {len(images)} images, {int((images['n_cells'] == 0).sum())} without cells, "
        f"{len(failed)} failed; {written.predictions} predictions in submission.csv"
        + (f"; {width} values a cell in {EMBEDDINGS}" if embeddings else "")
    )
    for name, status in list(zip(failed["ID"], failed["status"], strict=True))[:10]:
        say(f"  {name}: {status}")
    return len(failed)


def _frames(data: DataSet, journal: Journal | ShardJournals) -> Iterator[pd.DataFrame]:
    """Yield every image's table, in the order of the data set."""
    carried: list[Any] = data.carried.to_dict("records") or [{}] * len(data)  # without columns, pandas 2 has no rows
    for i, name in enumerate(progress(data.ids, "tables")):
        entry = journal.get(name)
        if entry is not None:
            yield put_carried(_unpacked(entry[1]), carried[i])


def _images_table(data: DataSet, journal: Journal | ShardJournals) -> pd.DataFrame:
    """Return images.csv: one row an image, failed ones and those without cells included."""
    rows = []
    for i, name in enumerate(data.ids):
        entry = journal.get(name)
        if entry is None:
            reason = "no fold holds it out" if data.ok[i] else data.table["reason"].iloc[i]
            rows.append([name, -1, 0, f"failed: {reason}", *[float("nan")] * len(data.classes)])
        else:
            record = entry[0]
            rows.append([name, record["fold"], record["n_cells"], record["status"], *record["probs"]])
    table = pd.DataFrame(rows, columns=["ID", "fold", "n_cells", "status", *data.classes.columns])
    for k, name in enumerate(data.carried.columns):
        table.insert(4 + k, name, data.carried[name])
    return table


def record_images(
    task: Task, predicted: Iterable[Scored], journal: Journal, output: Output, skip: set[int], total: int
) -> None:
    """Record every image as it is done, with what it was made from; those of `skip` are there already."""
    ids, digests = task.data.ids, Digests(output.seen)
    with progress(None, "infer", total=total, initial=len(skip)) as bar:
        for scored in predicted:
            if scored.index in skip:
                continue
            name = ids[scored.index]
            mark = output.items[name]  # taken before the image was read
            if task.overlap is not None:  # its cells are new
                mark = image_marks(task.data, digests, [scored.index])[name]
            failed = scored.record["status"] != "ok"
            half = {} if task.device.half is None else {HALF: True}
            journal.add(name, {**scored.record, "mark": mark, "failed": failed, **half}, scored.payload)
            bar.update()


def predict_plan(task: Task, plan: Plan, folds: list[int], skip: set[int]) -> Iterator[Scored]:
    """Score the images of a plan, each part by its networks; `folds` are what the tables say of each part."""
    for (checkpoints, indices), fold in zip(plan, folds, strict=True):
        yield from predict(task, checkpoints, indices, skip, fold)


def predict(
    task: Task, checkpoints: list[CamCheckpoint], indices: list[int], skip: set[int], fold: int
) -> Iterator[Scored]:
    """Score images with the mean of `checkpoints`, in batches in order; batches of images of `skip` alone are left out.

    `fold` is what the tables say of the images, -1 for not out of fold.
    """
    sources = sources_of(checkpoints, task)
    with (
        threadpool_limits(1, "blas"),  # the small products of the scores, which have their threads already
        ThreadPoolExecutor(HELPERS) as readers,
        ThreadPoolExecutor(1) as cutter,
        ThreadPoolExecutor(HELPERS) as writers,
        ThreadPoolExecutor(1) as network,
    ):
        finished: list[Future[Scored]] = []
        for samples in _ahead(readers, task, batches_of(indices, task.batch, skip)):
            running = network.submit(_score_batch, task, checkpoints, sources, samples, fold, cutter, writers)
            # while the network runs, so that a kill costs no more than what is under way
            yield from (future.result() for future in finished)
            finished = running.result()
        yield from (future.result() for future in finished)


def score_now(task: Task, checkpoints: list[CamCheckpoint], sample: Sample) -> Scored:
    """Score an image that is in memory already, as none that a fold holds out."""
    with ThreadPoolExecutor(1) as pool:
        (scored,) = _score_batch(task, checkpoints, sources_of(checkpoints, task), [sample], -1, pool, pool)
        return scored.result()


def read_sample(task: Task, index: int) -> Sample:
    """Read one image; where its cells cannot be read, the sample says why."""
    data = task.data
    if task.overlap is not None:
        task.overlap.wait(data.ids[index])
    image = np.array(data.image(index))
    try:
        return make_sample(data, index, image, data.cells(index), data.nuclei(index))
    except DataError as error:
        return make_sample(data, index, image, None, problem=str(error))


def make_sample(
    data: DataSet,
    index: int,
    image: np.ndarray,
    label_map: np.ndarray | None,
    nuclei: np.ndarray | None = None,
    problem: str = "",
) -> Sample:
    """Put an image (C, S, S) and its label map at native or stored size, None without cells, together."""
    geometry = data.geometry(index)
    none = np.zeros((data.size, data.size), np.int32)
    cells = none if label_map is None else geometry.labels_to_store(label_map)
    content = (geometry.content_height, geometry.content_width)
    return Sample(index, image, label_map, cells, cell_ids(cells), content, nuclei, problem)


def _ahead(pool: ThreadPoolExecutor, task: Task, batches: list[list[int]]) -> Iterator[list[Sample]]:
    """Yield the samples of each batch while the next one is being read."""
    reading: list[Future[Sample]] = []
    for batch in [*batches, []]:
        upcoming = [pool.submit(read_sample, task, index) for index in batch]
        if reading:
            yield [future.result() for future in reading]
        reading = upcoming


def _score_batch(
    task: Task,
    checkpoints: list[CamCheckpoint],
    sources: list[Source],
    samples: list[Sample],
    fold: int,
    cutter: ThreadPoolExecutor,
    writers: ThreadPoolExecutor,
) -> list[Future[Scored]]:
    """Run the networks on a batch, its crops cut in `cutter`; hand each image's scoring and encoding to `writers`."""
    batch = Batch(samples, np.stack([sample.image for sample in samples]))
    # the first crops are cut while the maps are made
    crops = [None if (cut := source.cut(batch)) is None else _one_ahead(cutter, cut) for source in sources]
    maps = [class_maps(checkpoint.net, batch.images, task.device, task.tta) for checkpoint in checkpoints]
    seen = {source.name: source.see(batch, of_source or ()) for source, of_source in zip(sources, crops, strict=True)}
    scoring = []
    for b, sample in enumerate(samples):
        by_network = tuple(probs[b] for _, probs in maps)
        filled = replace(
            sample,
            maps=tuple(cam[b] for cam, _ in maps),
            probs=np.mean(by_network, axis=0) if by_network else np.zeros(len(task.data.classes), np.float32),
            probs_by_network=by_network,
            seen={name: of_images[b] for name, of_images in seen.items()},
        )
        scoring.append(writers.submit(finish_image, task, sources, filled, fold))
    return scoring


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Make each item in `pool`, from now on, while the one before it is in use."""

    def rest(upcoming: Future[np.ndarray | None]) -> Iterator[np.ndarray]:
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item

    return rest(pool.submit(next, items, None))


def prediction_facts(
    options: InferOptions, data: DataSet, plan: Plan, published: Sequence[Published] = ()
) -> dict[str, Any]:
    """Return what stands in provenance.json: data, networks, rules and versions."""
    facts = {
        "data": str(data.folder),
        "table": data.manifest["table"],
        "classes": list(data.classes.names),
        "oof": options.oof,
        "score": options.score.facts(),
        "crops": asdict(options.crops),
        "tta": asdict(options.tta),
        "batch": options.batch,
        "precision": options.precision,
        "min_score": options.min_score,
        "calibration": None if options.calibration is None else digest_file(options.calibration),
        "sources": _shares(options, plan, published),
        "members": [
            _planned(checkpoint, indices, options.oof) for checkpoints, indices in plan for checkpoint in checkpoints
        ],
        "parts": options.parts,
        "versions": versions(),
    }
    if options.run is not None:
        facts["run"] = str(options.run)
    if options.embeddings:  # predictions made before there were any are not out of date
        facts["embeddings"] = options.embeddings
    if options.runtime != "torch":
        facts["runtime"] = options.runtime
    if published:
        facts["published"] = {model.name: model.facts() for model in published}
    return as_read(facts)


def _shares(options: InferOptions, plan: Plan, published: Sequence[Published]) -> dict[str, float]:
    """Return the share of each source, the mean over the classes where they differ."""
    shares = source_shares(plan[0][0], options.score, options.crops, published) if plan else {}
    return {name: float(np.mean(share)) for name, share in shares.items()}


def _planned(checkpoint: CamCheckpoint, indices: list[int], oof: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(checkpoint.path), "held_out_fold": checkpoint.fold}
    made = checkpoint.record.meta()
    facts |= {"trained_on": len(checkpoint.record.train_ids), "train_ids": made["train_ids"]}
    facts |= {"ancestors": made["ancestors"], "unet_paths": [str(unet.path) for unet in checkpoint.unets]}
    facts |= {"predicts": len(indices)}
    # plan_oof has refused anything else
    return facts | digests(checkpoint) | ({"seen_and_predicted": 0} if oof else {})


def digests(checkpoint: CamCheckpoint) -> dict[str, Any]:
    """Return the digests of a network and of all that scores beside it, as they stand in provenance.json."""
    return {"weights": checkpoint.digest} | {name: kind.digest(checkpoint) for name, kind in recorded().items()}


def check_origin(calibration: Calibration, facts: Mapping[str, Any], path: Path) -> None:
    """Refuse curves, of the file `path`, that were fitted to scores of other networks or rules than `facts` names.

    Raises:
        DataError: they differ.
    """
    for name, wanted in (dict.fromkeys(["published"]) | origin_of(facts)).items():
        known = calibration.origin.get(name, None if name == "published" else wanted)
        if known != wanted:
            what = "published networks" if name == "published" else name
            raise DataError(
                f"{path} was fitted to scores made with other {what}: predict with those, or make it again from "
                "predictions of this run with these options (python -m wsss.calibrate)."
            )


def origin_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of the provenance of predictions what shapes their scores; each network once."""
    origin = {name: facts[name] for name in ("score", "crops", "tta", "published") if name in facts}
    if "members" in facts:
        keys = ["weights", *recorded()]
        origin["members"] = sorted(
            {"/".join(str(checkpoint.get(key)) for key in keys) for checkpoint in facts["members"]}
        )
    return origin
