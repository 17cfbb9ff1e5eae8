"""A walk over the options of all stages but train: changing one changes a result, or the command refuses it.

Each stage runs on a tiny data set, once as it is and once with each option changed. What a run leaves behind (its
files, but for the records of what was asked, and what it prints) must differ, or the run must be refused.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest
import tifffile

from wsss import cli
from wsss.core.checks import UserError
from wsss.core.label_maps import read_label_map, write_label_map
from wsss.data.synthetic import write_fields
from wsss.runs.result_record import STATE
from wsss.segmenters import cell_unet

TINY = "--backbone test_resnet --weights none --crop 64 --batch 3 --epochs 1 --workers 0 --device cpu"
SLIM = "--unet.channels [8,8,8,4,4]"
PREPARE = "--images fields/images --labels fields/train.csv --size 128 --workers 0 --folds 2"
INFER = "--data data --run run --device cpu"
RECORDS = ("provenance.json", "config.yaml", "segment.json", "run_ids.json")
"""Files that repeat the options."""
PASSING = re.compile(r"\d+(\.\d+)?(?= s\b| images/s| GiB| of \S+ GiB)|\d{4}-\d\d-\d\d[T ][\d:.+]*")
"""Times, rates and memory."""


@dataclass(frozen=True)
class Case:
    """One option, changed."""

    words: str
    """What changes it, its own name first."""
    given: str = ""
    """Further words, of both runs: where the option has a meaning."""
    refused: str = ""
    """How the refusal reads, where the changed option is refused."""
    needed: str = ""
    """How the refusal without the option reads, where there is one."""

    @property
    def option(self) -> str:
        """Its name."""
        return self.words.split()[0].removeprefix("--")


@dataclass(frozen=True)
class Walk:
    """All options of a stage."""

    base: str
    """The words of every run, in a folder with all that `home` holds."""
    cases: Sequence[Case]
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Options that cannot change a result here -> where they are tested, or why they change none."""
    copied: tuple[str, ...] = ()
    """Folders that the stage writes into: each run gets its own copy."""


def option_names(kind: Any, above: str = "") -> Iterator[str]:
    """Yield the name of every option, those of groups with dots."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from option_names(hint, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def stage(name: str, words: str) -> int:
    return cli.run_stage(name, words.split())


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, so that no path in a result depends on the test's, with a backend that looks less closely."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(cell_unet, "EDGE", 192)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with fields, data sets with cells, a run, and predictions out of fold."""
    folder = tmp_path_factory.mktemp("walk")
    with inside(folder):
        write_fields(folder / "fields", 5, 128, 1, workers=0)
        labels = pd.read_csv("fields/train.csv").assign(plate=list("ababa"))
        labels.to_csv("fields/train.csv", index=False)
        labels.assign(Label=labels.Label[::-1].to_numpy()).to_csv("fields/other.csv", index=False)
        labels[1:].to_csv("fields/few.csv", index=False)
        truth = pd.read_csv("fields/cells_truth.csv")
        truth.assign(Label=truth.Label[::-1].to_numpy()).to_csv("fields/other_truth.csv", index=False)
        Path("classes.yaml").write_text(f"names: [{', '.join('abcdefghijklmnopqrs')}]\nnegative: 18\n")
        stage("prepare", f"{PREPARE} --out data")
        stage("prepare", f"{PREPARE} --out other --labels fields/other.csv --classes classes.yaml")
        stage("prepare", f"{PREPARE} --out nuclei --channels blue")
        rng = np.random.default_rng(0)
        Path("stacks").mkdir()
        for name in "ab":
            named = {"axes": "ZCYX", "Channel": {"Name": ["red", "green", "blue", "yellow"]}}
            tifffile.imwrite(f"stacks/{name}.ome.tif", rng.integers(0, 999, (3, 4, 32, 32), np.uint16), metadata=named)
        Path("stacks.csv").write_text("ID,Label\na,0\nb,1\n")
        for data in ("data", "other"):
            stage("segment", f"--data {data} --workers 0")
        shutil.copytree("data", "relabelled")  # of the same classes, pixels and cells
        stage("prepare", f"{PREPARE} --out relabelled --labels fields/other.csv")
        for path in sorted(Path("fields/masks").glob("*.png")):
            label_map = read_label_map(path)
            write_label_map(Path("joined") / path.stem, np.where(label_map == 2, 1, label_map))
            write_label_map(Path("from_one") / path.stem, label_map + 1)
        stage("train", f"--data data --run run --fold all {TINY} --feature_classifier.enabled false --crops.size 32")
        stage("infer", f"{INFER} --oof true --out preds")
    return folder


@pytest.fixture(scope="module")
def full_home(home: Path) -> Path:
    """Add feature classifiers, a run with U-Nets, and what stages compare, to what `home` holds."""
    with inside(home):
        fitted = "--feature_classifier.enabled true --feature_classifier.copies 0 --feature_classifier.weak.trees 4"
        fitted += " --feature_classifier.weak.folds 2 --crops.size 32"
        stage("train", f"--data data --run run --fold all {TINY} {fitted}")
        stage("infer", f"{INFER} --oof true --out preds --overwrite true")
        stage("pseudo", "--data data --run run --out pseudo --device cpu")
        stage("train", f"--task maps --pseudo pseudo --data data --run unet --fold all {TINY} {SLIM}")
        stage("infer", f"{INFER} --oof true --out second --score.feature_share 0.2")
        stage("infer", f"{INFER} --oof true --out later --min_score 0.2 --crops.mode none --score.feature_share 0.7")
        stage("calibrate", "--preds preds --out curves/curves.json")
    return home


def outcome(name: str, words: str, walk: Walk, home: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a stage; return name -> digest of what it left behind and printed, or the text of its refusal."""
    new.mkdir()
    for entry in home.iterdir():
        if entry.name in walk.copied:
            shutil.copytree(entry, new / entry.name)
        else:
            (new / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    capsys.readouterr()
    with inside(new):
        try:
            code = stage(name, words)
        except UserError as error:
            return str(error)
    printed = PASSING.sub("", capsys.readouterr().out.replace(str(new), ""))
    left = {"exit code": str(code), "printed": printed}
    for path in sorted(new.rglob("*")):
        inner = path.relative_to(new)
        linked = any((new / part).is_symlink() for part in [inner, *inner.parents])
        if linked or path.is_dir() or STATE in inner.parts or path.suffix in (".sqlite", ".journal", ".lock"):
            continue
        if path.name not in RECORDS:
            left[str(inner)] = digest(path)
    return left


def digest(path: Path) -> str:
    """Return the digest of a file, of its text without times."""
    content = path.read_bytes()
    if path.suffix in (".html", ".csv", ".json"):
        content = PASSING.sub("", content.decode()).encode()
    return hashlib.sha256(content).hexdigest()


def problems(name: str, walk: Walk, home: Path, tmp: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """Walk over the options of a stage; yield what is wrong with them."""
    known = {option for kind in cli.options_of(name).OPTIONS for option in option_names(kind)}
    named = {*(case.option for case in walk.cases), *walk.elsewhere, *re.findall(r"--([\w.]+)", walk.base)}
    yield from (f"{option} is not walked" for option in sorted(known - named))
    yield from (f"{option} is no option" for option in sorted(named - known))
    plain: dict[str, Any] = {}
    for case in (Case("--as_it_is"), *walk.cases):
        if case.given not in plain:
            words = f"{walk.base} {case.given}"
            plain[case.given] = before = outcome(name, words, walk, home, tmp / f"plain{len(plain)}", capsys)
            if isinstance(before, str) != bool(case.needed) or case.needed not in str(before):
                yield f"{words}: {before}"
    if plain[""] != outcome(name, walk.base, walk, home, tmp / "again", capsys):
        yield "the same words give another result"
    for k, case in enumerate(walk.cases):
        changed = outcome(name, f"{walk.base} {case.given} {case.words}", walk, home, tmp / str(k), capsys)
        if isinstance(changed, str) != bool(case.refused) or case.refused not in str(changed):
            yield f"{case.words}: expected '{case.refused}', not {changed if isinstance(changed, str) else 'a result'}"
        elif changed == plain[case.given]:
            yield f"{case.option} changes nothing"


SPEED = "the result is the same for all"
COMMON = {"workers": SPEED, "batch": SPEED, "engine": SPEED, "overwrite": "tests/stages/test_twice.py"}


def common(*names: str) -> dict[str, str]:
    return {name: COMMON[name] for name in names}


OF_MASKS = ("tta flips", "scales [0.5]", "tile 64", "overlap 0.2", "threshold 0.2", "empty_below 0.2", "min_size 9")
STACKS = "--images stacks --labels stacks.csv"
TRUE = "--truth fields/cells_truth.csv --masks fields/masks"

WALKS = {
    "infer": Walk(
        f"{INFER} --out out --score.feature_share 0.4 --crops.mode fit",
        [
            Case("--unet unet"),
            Case("--encoder a:B", refused="--encoder changes nothing"),
            Case("--segment unet"),
            Case("--segment classical", refused="found by the backend unet, and classical would"),
            Case("--oof true"),
            Case("--snapshots true", refused="holds no snapshots"),
            Case("--precision bf16"),
            Case("--shard 1/2"),
            Case("--merge true", refused="holds no shards"),
            Case("--min_score 0.3"),
            Case("--embeddings true"),
            Case("--parts true"),
            Case("--calibration curves/curves.json", "--score.feature_share auto"),
            Case("--tta.views flips"),
            Case("--tta.scales [0.5]"),
            Case("--large [x.tif]", refused="--large means nothing"),
            Case("--score.region max"),
            Case("--score.quantile 0.5", "--score.region quantile"),
            Case("--score.top_share 0.5", "--score.region topk"),
            Case("--score.sharpness 30", "--score.region lse"),
            Case("--score.relative true"),
            Case("--score.min_prob 0.5"),
            Case("--score.min_ratio 0.5"),
            Case("--score.prob_power 2"),
            Case("--score.prob_for_negative true", "--score.prob_power 2"),
            Case("--score.compartment 0.5"),
            Case("--score.nuclear_classes [16]", "--score.compartment 0.5"),
            Case("--score.negative max"),
            Case("--score.blend mean"),
            Case("--score.crop_share 0.1"),
            Case("--score.image_mix 0.5"),
            Case("--score.normalise_rows true"),
            Case("--score.unet_share 0.1", "--unet unet"),
            Case("--score.prior_rounds 0"),
            Case("--score.one_class true"),
            Case("--score.border_power 1"),
            Case("--score.calibrated false", "--score.feature_share 1"),
            Case("--crops.size 48"),
            Case("--crops.margin 0.5"),
            Case("--source subcell=x.pth", refused="x.pth"),
            Case("--source_share 0.2", refused="--source_share changes nothing"),
            Case("--pixel_um 0.1", refused="--pixel_um changes nothing"),
            *(Case(f"--segmentation.{words}", refused="means nothing") for words in OF_MASKS),
            Case("--segmentation.objects false", refused="means nothing"),
            Case("--segmentation.runs rows", refused="means nothing"),
        ],
        common("batch", "engine", "overwrite") | {"crops.batch": SPEED, "runtime": "tests/models/test_in_openvino.py"},
    ),
    "segment": Walk(
        "--data data --overwrite true --workers 0",
        [
            Case("--backend classical"),
            Case("--device cpu", "--backend classical", refused="--device changes nothing with --backend classical"),
            Case("--batch 2", "--data nuclei", refused="--batch changes nothing with --backend classical"),
            Case("--batch 2", "--backend masks --masks joined", refused="--batch changes nothing"),
            Case("--masks joined", "--backend masks --masks fields/masks"),
            Case("--masks joined", refused="--masks changes nothing"),
            Case("--category cell", "--backend masks --masks fields/masks", refused="category"),
            Case("--weights x.safetensors", "--backend unet", refused="x.safetensors"),
            Case("--pixel_um 0.1", refused="--pixel_um changes nothing"),
            Case("--split true", "--backend masks --masks joined"),
            Case("--background 1", "--backend masks --masks from_one"),
            Case("--grow 2", "--data nuclei"),
            Case("--grow 2", "--backend unet", refused="--grow changes nothing"),
            Case("--grow 2", "", refused="--grow changes nothing with --backend unet"),
        ],
        common("batch", "engine"),
        copied=("data", "nuclei"),
    ),
    "prepare": Walk(
        f"{PREPARE} --out made",
        [
            Case("--source more"),
            Case("--classes classes.yaml"),
            Case("--channels red,green,blue"),
            Case("--roles nucleus=red,signal=green"),
            Case("--seed 5"),
            Case("--group plate"),
            Case("--skip train01_00002"),
            Case("--bits 16", f"{STACKS} --project max"),
            Case("--plane 2", f"{STACKS} --plane 1"),
            Case("--project mean", f"{STACKS} --project max"),
            Case("--allow_unlabelled true", "--labels fields/few.csv", needed="has no row"),
        ],
        common("engine", "overwrite"),
    ),
    "pseudo": Walk(
        f"{INFER} --out out --tta.views none --tta.scales [1.0]",
        [
            Case("--oof true"),
            Case("--precision bf16"),
            Case("--pseudo.low 0.4"),
            Case("--pseudo.high 0.9"),
            Case("--pseudo.peak class"),
            Case("--pseudo.paint cells"),
            Case("--pseudo.refine adaptive"),
            Case("--pseudo.inside_cells false"),
            Case("--tta.views flips"),
            Case("--tta.scales [0.5]"),
        ],
        common("batch", "overwrite"),
    ),
    "evaluate": Walk(
        f"--preds preds {TRUE} --out out.json",
        [
            Case("--labels fields/other.csv"),
            Case("--submission later/submission.csv"),
            Case("--data other", refused="the classes of other are others"),
            Case("--join number"),
            Case("--join_iou 0.9"),
            Case("--match_iou 0.9"),
            Case("--threshold 0.05"),
            Case("--search true", refused="search"),
            Case("--sheet 3", refused="sheet"),
        ],
        common("overwrite"),
    ),
    "calibrate": Walk(
        "--preds preds --out out.json",
        [
            Case("--data other", refused="the classes of other are others"),
            Case("--data relabelled"),
            Case("--labels fields/other.csv"),
            Case("--truth fields/other_truth.csv", TRUE),
            Case("--masks joined", TRUE),
            Case("--join number", TRUE),
            Case("--join_iou 0.9", TRUE),
            Case("--join number", refused="join"),
            Case("--join_iou 0.9", refused="join_iou"),
            Case("--method platt"),
        ],
        common("overwrite"),
    ),
    "compare": Walk(
        "--preds preds --by plate --out out",
        [
            Case("--reference a"),
            Case("--count mean"),
            Case("--threshold 0.02"),
            Case("--threshold 0.2", "--count mean", refused="threshold"),
            Case("--rounds 100", "--count mean"),
        ],
        common("overwrite"),
    ),
    "ensemble": Walk(
        "--preds [preds,second] --out out",
        [
            Case("--weights 2,1"),
            Case("--how rank"),
            Case("--data relabelled", "--weights auto"),
            Case("--truth fields/other_truth.csv", f"--weights auto {TRUE}"),
            Case("--masks joined", f"--weights auto {TRUE}"),
            Case("--join number", f"--weights auto {TRUE}"),
            Case("--join_iou 0.9", f"--weights auto {TRUE}"),
            Case("--data other", refused="data"),
            Case("--truth fields/other_truth.csv", refused="truth"),
            Case("--join number", refused="join"),
            Case("--join_iou 0.9", refused="join_iou"),
            Case("--min_score 0.3"),
        ],
        common("overwrite"),
    ),
    "export": Walk(
        "--preds preds --out made --to geojson",
        [
            Case("--data other", refused="the classes of other are others"),
            Case("--gz false"),
            Case("--gz false", "--to csv --out out.csv", refused="gz"),
            Case("--every_class true", "--to coco --out out.json"),
            Case("--every_class true", refused="every_class"),
            Case("--min_score 0.3", "--to kaggle --out out.csv"),
            Case("--min_score 0.3", "--to coco --out out.json --every_class true"),
            Case("--min_score 0.3", refused="min_score"),
            Case("--push user/name", refused="push"),
            Case("--run run", refused="--preds"),
        ],
        common("overwrite"),
    ),
    "report": Walk(
        "--preds preds --out out.html",
        [
            Case("--run unet"),
            Case("--data other", refused="the classes of other are others"),
            Case("--data relabelled"),
            Case(f"{TRUE}"),
            Case("--masks joined", TRUE),
            Case("--join number", TRUE),
            Case("--join number", refused="join"),
            Case("--maps true"),
            Case("--most 2"),
            Case("--crops 2"),
            Case("--edge 64"),
            Case("--quality 9"),
            Case("--pixel_size 0.3"),
            Case("--threshold 0.2"),
        ],
        common("overwrite"),
    ),
    "overlay": Walk(
        "--preds preds --out out --max_size 128 --most 1",
        [
            Case("--data other", refused="the classes of other are others"),
            Case("--data relabelled"),
            Case("--ids train01_00002", "--most 10"),
            Case("--most 3"),
            Case("--most 3", "--ids train01_00002 --most 10", refused="--most changes nothing"),
            Case("--truth fields/other_truth.csv", TRUE),
            Case("--masks joined", TRUE),
            Case("--join number", "--truth fields/cells_truth.csv", needed="join number"),
            Case("--join number", refused="join"),
            Case("--max_size 64"),
            Case("--pixel_size 0.3"),
            Case("--threshold 0.001"),
        ],
        common("overwrite"),
    ),
    "doctor": Walk(
        "--data [data]",
        [
            Case("--run [run]"),
            Case("--source subcell=x.pth"),
            Case("--labels preds"),
            Case("--source subcell=x.pth", "--labels preds", refused="source"),
            Case("--most 1", "--labels preds"),
            Case("--most 1", refused="most"),
        ],
    ),
    "configs": Walk("", [Case("--show published_recipe")]),
}


SLOW = ("calibrate", "ensemble", "evaluate", "infer", "overlay", "pseudo", "report")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in WALKS])
def test_every_option_changes_a_result_or_is_refused(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = request.getfixturevalue("full_home" if name in SLOW else "home")
    assert not list(problems(name, WALKS[name], home, tmp_path, capsys))
