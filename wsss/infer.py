"""Score every cell of a data set with a trained run: cells.csv and .parquet, images.csv, submission.csv."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.core import cli
from wsss.core.checks import ConfigError, DataError, check_range
from wsss.core.files import digest_json, read_json, write_json
from wsss.core.journal import Journal
from wsss.core.lock import LOCK, hold
from wsss.core.runtime import keep_freed_memory, progress, versions
from wsss.core.score_config import CropConfig, ScoreConfig
from wsss.core.semantic_config import MaskInferConfig
from wsss.predict.shards import Shard, ShardJournals

if TYPE_CHECKING:
    import pandas as pd

    from wsss.core.device import Device
    from wsss.data.catalog import DataSet
    from wsss.predict.members import Member, Plan
    from wsss.predict.task import Task

EXAMPLES = """\
  python -m wsss.infer --run runs/hpa-seresnext50
  python -m wsss.infer --data data/test --run runs/hpa-seresnext50 --out preds/test
  python -m wsss.infer --data data/hpa --run runs/hpa-seresnext50 --out preds/hpa-oof --oof true
  python -m wsss.infer --run runs/hpa-seresnext50 --shard 2/4   (of 4 jobs; afterwards the same with --merge)
"""
JOURNAL, PROVENANCE = "journal.sqlite", "provenance.json"


@dataclass(frozen=True)
class InferOptions:
    """What to predict with what, and where to write it."""

    run: Path
    """Run folder: all its folds are averaged; or one fold's folder."""
    data: Path | None = None
    """Prepared and segmented data set, labels not needed; default: the only one under data/."""
    out: Path | None = None
    """Folder for the tables; default: preds/<data set>-<run>."""
    oof: bool = False
    """Predict each training image with the network that never saw it, and prove it."""
    snapshots: bool = False
    """Average the networks at the end of each cosine cycle (optim.cycles) instead of taking the best one."""
    batch: int = 8
    """Images the network sees at once."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """fp32, bf16, fp16, or auto: half precision on a GPU, fp32 on the CPU."""
    overwrite: bool = False
    """Replace the results of other options in --out."""
    shard: str = ""
    """i/n: predict only the i-th of n parts (from 1) and write no tables yet; for the jobs of a scheduler."""
    merge: bool = False
    """Write the tables of n shards that were predicted into --out with these very options."""
    min_score: float = 0.01
    """Predictions below this are left out of submission.csv."""
    parts: bool = False
    """Write the parts of the blended score too, as predictions of their own: image/, stage1/, stage2/ and opinion/
    in --out, as far as there are."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """Cell score options (default: those of the run)."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Cell crop options of stage 2 (default: those of the run)."""
    segmentation: MaskInferConfig = field(default_factory=MaskInferConfig)
    """Options of runs that find masks (task masks)."""

    def __post_init__(self) -> None:
        check_range("batch", self.batch, 1)
        check_range("min_score", self.min_score, 0, 1)
        if self.shard:
            Shard.parse(self.shard)
        if self.shard and self.merge:
            raise ConfigError("shard and merge are two steps: run every --shard first, then --merge true without it.")


def main(argv: Sequence[str] | None = None) -> int:
    """Predict as the options say; return the exit code."""
    options = _options(argv)
    keep_freed_memory()
    if _run_config(options.run).get("task") == "masks":
        from wsss.infer_masks import infer_masks

        if options.shard or options.merge:
            raise ConfigError(f"{options.run} finds masks: such runs cannot be cut into shards, leave --shard out.")
        return infer_masks(options)
    folder = cli.default_dataset(options.data)
    out = options.out or Path("preds") / f"{folder.name}-{options.run.name}{'-oof' if options.oof else ''}"

    from wsss.core.device import choose_device
    from wsss.data.catalog import DataSet
    from wsss.predict.members import check_fits, check_opinions, find_folders, load_members, plan_all, plan_oof

    data = DataSet.open(folder)
    device = choose_device(options.device, options.precision)
    folders = find_folders(options.run)
    members = [member for found in folders for member in load_members(found, device, snapshots=options.snapshots)]
    for member in members:
        check_fits(member, data)
    check_opinions(members, options.score)
    plan = plan_oof(members, data) if options.oof else plan_all(members, data)
    lock = f"{LOCK}.{options.shard.replace('/', '-of-')}" if options.shard else LOCK  # shards run side by side
    with hold(out, "image", "stage1", "stage2", "opinion", lock=lock):
        return _predict_into(out, options, data, members, plan, device)


def _predict_into(
    out: Path, options: InferOptions, data: "DataSet", members: "list[Member]", plan: "Plan", device: "Device"
) -> int:
    """Predict what is not there yet and write the tables; return the exit code."""
    from wsss.predict.task import Task

    facts = _facts(options, data, plan)
    if not _begin(out, facts, options):
        cli.say(f"{out} holds these predictions already: nothing to do.")
        return 0
    task = Task(data, options.score, options.crops, device, options.batch)
    if options.shard:
        return _run_shard(task, plan, out, facts, options)
    failed, journals = _predict(task, plan, out, facts, options)
    write_json(out / PROVENANCE, facts)
    _remove(journals)
    return 1 if failed else 0


def _predict(
    task: "Task", plan: "Plan", out: Path, facts: dict[str, Any], options: InferOptions
) -> tuple[int, list[Path]]:
    """Write the tables, from all shards or after predicting here; return failed images and the journals used."""
    fingerprint, parts = digest_json(facts), _parts(options, plan[0][0] if plan else [])
    if options.merge:
        wanted = [task.data.ids[i] for _, indices in plan for i in indices]
        with ShardJournals(out, fingerprint, wanted) as shards:
            return _write(out, task.data, shards, options, parts), shards.paths
    with Journal(out / JOURNAL, fingerprint) as journal:
        _run(task, plan, journal, options.oof)
        return _write(out, task.data, journal, options, parts), [out / JOURNAL]


def _run_shard(task: "Task", plan: "Plan", out: Path, facts: dict[str, Any], options: InferOptions) -> int:
    """Predict one shard into a journal of its own."""
    shard = Shard.parse(options.shard)
    own = shard.take(plan, options.batch)
    with Journal(out / shard.journal, digest_json(facts)) as journal:
        _run(task, own, journal, options.oof)
        count = len(journal)
    cli.say(f"{out / shard.journal}: {count} images; when all {shard.count} are done, run the same with --merge true")
    return 0


def _remove(journals: list[Path]) -> None:
    for path in journals:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _options(argv: Sequence[str] | None) -> InferOptions:
    """Read the flags, with the score and crop options of the run as defaults."""
    parser = cli.make_parser("infer", __doc__ or "", EXAMPLES, InferOptions)
    first: InferOptions = cli.parse(parser, argv, InferOptions)[0]
    recipe = _run_config(first.run)
    parser.set_defaults({name: recipe[name] for name in ("score", "crops") if name in recipe})
    found: InferOptions = cli.parse(parser, argv, InferOptions)[0]
    return found


def _run_config(run: Path) -> dict[str, Any]:
    """Return the recipe a run was made with, as its config.yaml tells."""
    import yaml

    found = [run / "config.yaml", *sorted(run.glob("*/config.yaml"))]
    path = next((path for path in found if path.exists()), None)
    if path is None:
        raise ConfigError(f"{run} is no run folder (no config.yaml in it): check --run, or train it first.")
    try:
        recipe = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not plain YAML ({' '.join(str(error).split())}): restore it.") from error
    if not isinstance(recipe, dict):
        raise DataError(f"{path} holds no options, expected 'name: value' lines: restore it.")
    return recipe


def _facts(options: InferOptions, data: "DataSet", plan: "Plan") -> dict[str, Any]:
    """Return what these predictions are made of; other facts are other predictions."""
    facts = {
        "data": str(data.folder),
        "table": data.manifest["table"],
        "run": str(options.run),
        "oof": options.oof,
        "score": asdict(options.score),
        "crops": asdict(options.crops),
        "batch": options.batch,
        "min_score": options.min_score,
        "members": [_member_facts(member, indices, options.oof) for own, indices in plan for member in own],
        "parts": options.parts,
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as it comes back from the file it is compared with
    return plain


def _member_facts(member: "Member", indices: list[int], oof: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(member.path), "weights": member.digest, "held_out_fold": member.fold}
    facts |= {"trained_on": len(member.train_ids), "train_ids": member.facts["train_ids"], "predicts": len(indices)}
    facts["opinion"] = None if member.opinion is None else member.opinion.digest
    return facts | ({"seen_and_predicted": 0} if oof else {})  # plan_oof has refused anything else


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


def _run(task: "Task", plan: "Plan", journal: Journal, oof: bool) -> None:
    """Predict what the journal lacks, and record every image as it is done."""
    from wsss.predict.pipeline import predict

    ids = task.data.ids
    done = journal.keys()
    total = sum(len(indices) for _, indices in plan)
    if done:
        cli.say(f"{len(done)} of {total} images are there already: going on.")
    with progress(None, "infer", total=total, initial=len(done)) as bar:
        for members, indices in plan:
            skip = {i for i in indices if ids[i] in done}
            fold = members[0].fold if oof and members[0].fold is not None else -1
            for scored in predict(task, members, indices, skip, fold):
                if scored.index not in skip:
                    journal.add(ids[scored.index], scored.record, scored.payload)
                    bar.update()


def _write(
    out: Path, data: "DataSet", journal: Journal | ShardJournals, options: InferOptions, parts: list[str]
) -> int:
    """Write the tables from the journal, print a summary, return the number of images without a result."""
    from wsss.predict.image_tables import take_stage
    from wsss.predict.submission import write_submission
    from wsss.predict.tables import iter_cells, write_cells, write_images

    images = _images_table(data, journal)
    cells = write_cells(out, take_stage(_frames(data, journal), ""))
    for stage in parts:
        write_cells(out / stage, take_stage(_frames(data, journal), stage))
        write_images(out / stage, images)
    write_images(out, images)
    sizes = data.table[["ID", "ImageHeight", "ImageWidth"]]
    written = write_submission(out / "submission.csv", sizes, iter_cells(out), min_score=options.min_score)
    failed = images[images["status"] != "ok"]
    cli.say(
        f"{out}: {cells} cells in {len(images)} images, {int((images['n_cells'] == 0).sum())} without cells, "
        f"{len(failed)} failed; {written.predictions} predictions in submission.csv"
    )
    for name, status in list(zip(failed["ID"], failed["status"], strict=True))[:10]:
        cli.say(f"  {name}: {status}")
    return len(failed)


def _parts(options: InferOptions, members: "list[Member]") -> list[str]:
    """Return the parts of the score that are written beside the blend."""
    from wsss.predict.members import has_opinions

    found = ["image", "stage1"]
    found += ["stage2"] if options.crops.mode != "none" else []
    found += ["opinion"] if has_opinions(members, options.score) else []
    return found if options.parts else []


def _frames(data: "DataSet", journal: Journal | ShardJournals) -> "Iterator[pd.DataFrame]":
    """Yield every image's table, in the order of the data set."""
    from io import BytesIO

    import pandas as pd

    for name in data.ids:
        found = journal.get(name)
        if found is not None:
            yield pd.read_feather(BytesIO(found[1]))


def _images_table(data: "DataSet", journal: Journal | ShardJournals) -> "pd.DataFrame":
    """Return images.csv: one row an image, failed ones and those without cells included."""
    import pandas as pd

    rows = []
    for i, name in enumerate(data.ids):
        found = journal.get(name)
        if found is None:
            reason = "no fold holds it out" if data.ok[i] else data.table["reason"].iloc[i]
            rows.append([name, -1, 0, f"failed: {reason}", *[float("nan")] * len(data.classes)])
        else:
            record = found[0]
            rows.append([name, record["fold"], record["n_cells"], record["status"], *record["probs"]])
    return pd.DataFrame(rows, columns=["ID", "fold", "n_cells", "status", *data.classes.columns])


if __name__ == "__main__":
    cli.run(main)
