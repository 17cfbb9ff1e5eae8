"""Row 17: something that a result was made from changes, and the same command is started again.

It must refuse, saying what has changed, or make the result again; never say that there is nothing to do. Before each
change the command is started once more and must find nothing to do: no false alarms. Changes keep size and times of
the file wherever that can be. Then other options into the same place (refused or made again, the option named), and
stories of several commands: a run cut short between two sets of cells, a stage whose input is missing, a first try that
failed.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from chain import NAMED, SIZE, call, names, site, words, write_image, write_inputs, write_plane
from record import record

from wsss.core.files import read_json, write_json
from wsss.core.label_maps import read_label_map, write_label_map
from wsss.runs.journal import Journal

Change = Callable[[Path], None]
FIRST = names()[0]


def keep_time(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file and give it its old times back."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Replace text in a file by text of equal length; size and times stay."""
    content = path.read_bytes()
    assert old in content, (path, old)
    assert len(old) == len(new)
    keep_time(path, lambda p: p.write_bytes(content.replace(old, new, 1)))


def new_pixels(home: Path, name: str = FIRST) -> None:
    """Write other pixels into an image; its size and times stay."""
    planes = np.random.default_rng().integers(0, 200, (4, 64, 64), np.uint8)
    path = home / "images" / f"{name}.ome.tif"
    keep_time(path, lambda _: write_image(home, name, planes))


def new_map(folder: Path, name: str = FIRST) -> None:
    """Correct a label map: the last row of one cell gets another length, drawn at random."""
    label_map = read_label_map(folder / f"{name}.png")
    row = label_map[28, 4:28]
    others = np.setdiff1d(np.arange(len(row) + 1), np.count_nonzero(row))
    label_map[28, 4:28] = np.arange(len(row)) < np.random.default_rng().choice(others)
    keep_time(folder / f"{name}.png", lambda _: write_label_map(folder / name, label_map))


def remake(*commands: str) -> Callable[[Path], None]:
    """Return a change that runs earlier stages again, whatever they refuse."""

    def change(home: Path) -> None:
        chain = words(home) | further(home)
        for name in commands:
            again(name, chain)

    return change


def again(name: str, chain: dict[str, list[str]]) -> None:
    """Bring a result up to date."""
    force = ["--resume", "never"] if name.startswith("train") else ["--overwrite", "true"]
    code, text = call(name, chain[name])
    if code == 2:
        code, text = call(name, [*chain[name], *force])
    if code != 0:
        raise SystemExit(f"{name} ended with {code}: {text}")


def both(*changes: Change) -> Change:
    """Return several changes as one."""

    def change(home: Path) -> None:
        for one in changes:
            one(home)

    return change


def relabel(home: Path) -> None:
    """Swap the labels of two images; the folds stay as large."""
    swap_bytes(home / "train.csv", b"i00,0", b"i00,1")


def relabel_back(home: Path) -> None:
    """Undo `relabel`."""
    swap_bytes(home / "train.csv", b"i00,1", b"i00,0")


def by_hand(home: Path) -> None:
    """Edit a table of scores."""
    swap_bytes(home / "oof" / "images.csv", b"ok", b"OK")


def truth(home: Path) -> None:
    """Correct the class of one true cell."""
    path = home / "truth.csv"
    text = path.read_bytes()
    old, new = (b"i00,1,0", b"i00,1,1") if b"i00,1,0" in text else (b"i00,1,1", b"i00,1,0")
    swap_bytes(path, old, new)


def other_scores(home: Path) -> None:
    """Replace a table of cells by one with other scores."""
    path = home / "second" / "cells.parquet"
    table = pd.read_parquet(path)
    table["0"] = 1 - table["0"]
    table.to_parquet(path)


def other_name(home: Path, folder: str) -> None:
    """Put one image's file in the place of another's by a rename."""
    path, other = (home / folder / f"{name}.ome.tif" for name in names()[:2])
    shutil.copy2(other, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def correct_maps(home: Path) -> None:
    new_map(home / "data" / "cells")


PIXELS = both(new_pixels, remake("prepare"))
GIVEN = both(lambda home: new_map(home / "given", names()[2]), remake("segment"))

CHANGES: list[tuple[str, str, Change]] = [
    ("prepare", "pixels of an image", new_pixels),
    ("prepare", "an image replaced by a rename", lambda home: other_name(home, "images")),
    ("prepare", "pixels of the last image", lambda home: new_pixels(home, names()[-1])),
    ("prepare", "a label", relabel),
    ("prepare", "an image touched by other content and back", both(new_pixels, new_pixels)),
    ("segment", "a given mask", lambda home: new_map(home / "given")),
    ("segment", "another given mask", lambda home: new_map(home / "given", names()[3])),
    ("segment", "pixels re-prepared", PIXELS),
    ("segment", "a label map removed", lambda home: (home / "data" / "cells" / f"{FIRST}.png").unlink()),
    ("train", "pixels re-prepared", PIXELS),
    ("train", "labels corrected, prepared again", both(relabel_back, remake("prepare"))),
    ("infer", "label maps corrected", correct_maps),
    ("infer", "the label map of another image", lambda home: new_map(home / "data" / "cells", names()[5])),
    ("infer", "given masks changed, segmented again", GIVEN),
    ("infer", "pixels re-prepared", both(PIXELS, remake("segment", "train"))),
    ("infer", "trained again", both(PIXELS, remake("segment", "train"))),
    ("infer", "a table of the result removed", lambda home: (home / "oof" / "cells.csv").unlink()),
    ("infer", "images.csv of the result changed by hand", by_hand),
    ("infer-2", "label maps corrected", correct_maps),
    ("infer-2", "pixels re-prepared", both(PIXELS, remake("segment", "train"))),
    ("pseudo", "label maps corrected", correct_maps),
    ("pseudo", "the label map of another image", lambda home: new_map(home / "data" / "cells", names()[5])),
    ("pseudo", "pixels re-prepared and trained again", both(PIXELS, remake("segment", "train"))),
    ("ensemble", "a member's scores", other_scores),
    ("ensemble", "a member predicted again on other maps", both(correct_maps, remake("infer", "infer-2"))),
    ("ensemble", "both members predicted again", both(GIVEN, remake("infer", "infer-2"))),
    ("ensemble", "its own table removed", lambda home: (home / "blend" / "cells.parquet").unlink()),
    ("calibrate", "predicted again on other maps", both(correct_maps, remake("infer"))),
    ("calibrate", "its picture removed", lambda home: (home / "curves.png").unlink()),
    ("evaluate", "a true class", truth),
    ("evaluate", "a true mask", lambda home: new_map(home / "given")),
    ("evaluate", "predicted again on other maps", both(correct_maps, remake("infer"))),
    ("evaluate", "its figures removed", lambda home: (home / "oof" / "scores.json").unlink()),
    ("export", "predicted again on other maps", both(correct_maps, remake("infer"))),
    ("export", "a file of it removed", lambda home: next((home / "geojson").glob("*.gz")).unlink()),
    ("report", "a true class, the figures not", truth),
    ("report", "evaluated again", both(truth, remake("evaluate"))),
    ("report", "label maps corrected, not predicted again", correct_maps),
    ("report", "predicted and evaluated again", both(correct_maps, remake("infer", "evaluate"))),
    ("report", "its page changed by hand", lambda home: swap_bytes(home / "report.html", b"<html", b"<HTML")),
    ("overlay", "label maps corrected, not predicted again", correct_maps),
    ("overlay", "predicted again", both(correct_maps, remake("infer"))),
    ("overlay", "a picture removed", lambda home: (home / "pictures" / "overview.png").unlink()),
    ("overlay", "pixels re-prepared, not predicted again", both(PIXELS, remake("segment"))),
]
"""Command, what changes, and how."""

ORDER = ["prepare", "segment", "train", "infer", "infer-2", "pseudo", "ensemble", "calibrate", "evaluate", "export"]
ORDER += ["report", "overlay", "download"]


def all_maps(home: Path) -> None:
    """Correct all label maps, those of the training images among them."""
    for name in names():
        new_map(home / "data" / "cells", name)


def all_given(home: Path) -> None:
    """Change all given masks."""
    for name in names():
        new_map(home / "given", name)


MASKED = ["train-masks", "infer-masks"]


def other_plane(path: str) -> Change:
    """Return a change that replaces a picture of the mask set by another of equal size, and keeps its times."""

    def change(home: Path) -> None:
        plane = 255 * np.random.default_rng().integers(0, 2, (32, 32), np.uint8)
        keep_time(home / "salt" / path, lambda p: write_plane(p, plane))

    return change


def coded_pixels(home: Path) -> None:
    planes = np.random.default_rng().integers(0, 200, (4, 64, 64), np.uint8)
    path = home / "coded" / f"{FIRST}.ome.tif"
    keep_time(path, lambda _: write_image(home, FIRST, planes, "coded", NAMED))


def corrected_maps(home: Path) -> None:
    """Correct a label map that `infer --segment` found: it gets one cell more."""
    path = home / "two" / "cells" / f"{FIRST}.png"
    label_map = read_label_map(path)
    label_map[:6, :6] = label_map.max() + 1
    keep_time(path, lambda _: write_label_map(path.with_suffix(""), label_map))


BEFORE = ["prepare", "segment", "train"]
MORE: list[tuple[str, list[str], str, Change]] = [
    ("prepare-coded", [], "pixels of an image with named channels", coded_pixels),
    ("train-masks", [], "an image of a mask set replaced", other_plane("images/i00.bmp")),
    ("train-masks", [], "a mask of a mask set replaced", other_plane("masks/i01.bmp")),
    ("train-masks", [], "the last image of a mask set replaced", other_plane("images/i07.bmp")),
    ("infer-masks", MASKED[:1], "an image of a mask set replaced", other_plane("images/i02.bmp")),
    ("infer-masks", MASKED[:1], "trained again", both(other_plane("masks/i02.bmp"), remake("train-masks"))),
    ("evaluate-masks", MASKED, "a true mask of a mask set", other_plane("masks/i03.bmp")),
    ("evaluate-masks", MASKED, "predicted again", both(other_plane("images/i04.bmp"), remake(*MASKED))),
    ("train-features", BEFORE[:2], "label maps corrected, of which features are learnt", all_maps),
    ("train-features", BEFORE[:2], "all given masks changed, segmented again", both(all_given, remake("segment"))),
    ("train-features", BEFORE[:2], "pixels re-prepared, of which features are learnt", both(PIXELS, remake("segment"))),
    ("infer-segment", [*BEFORE, "prepare-two"], "a label map corrected after infer --segment", corrected_maps),
    ("infer-segment", [*BEFORE, "prepare-two"], "pixels re-prepared", both(new_pixels, remake("prepare-two"))),
]
"""Command, those that it needs, what changes, and how: further ways of the commands."""

SAME = "--backbone test_resnet --weights none --crop 64 --batch 4 --workers 0 --device cpu --epochs 1 --fold 0"


def further(home: Path) -> dict[str, list[str]]:
    """Return the words of further commands."""
    data, preds = f"--data {home}/data", f"--preds {home}/oof"
    texts = {
        "train-maps": f"--task maps {data} --pseudo {home}/pseudo --run {home}/maps --unet.channels [8,8,8,8,8] {SAME}",
        "train-init": f"{data} --run {home}/tuned --init_from {home}/run --feature_classifier.enabled false {SAME}",
        "train-drs": f"{data} --run {home}/drs --drs.refine_from {home}/run --feature_classifier.enabled false {SAME}",
        "train-answers": f"{data} --run {home}/answered --cell_labels {home}/answers.csv --feature_classifier.copies 0 "
        f"--feature_classifier.enabled true --feature_classifier.weak.trees 5 {SAME}",
        "compare": f"{preds} --by treatment --out {home}/compare --rounds 100",
        "export-model": f"--run {home}/run --to huggingface --out {home}/model",
        "export-link": f"--preds {home}/link --to geojson --out {home}/linked",
        "evaluate-classes": f"{preds} --truth {home}/truth.csv --masks {home}/given --out {home}/again/scores.json",
        "report-maps": f"{preds} --out {home}/maps.html --most 2 --crops 2 --maps true",
        "calibrate-truth": f"{preds} --truth {home}/truth.csv --join number --out {home}/true.json",
        "infer-curves": f"{data} --run {home}/run --device cpu --crops.size 32 --calibration {home}/curves.json "
        f"--out {home}/calibrated",
        "prepare-link": f"--images {home}/pictures-link --labels {home}/train.csv --out {home}/linked-data "
        f"--size {SIZE} --folds 2 --workers 0",
    }
    return {
        name: text.replace("test_resnet", "resnet10t" if name == "train-maps" else "test_resnet").split()
        for name, text in texts.items()
    }


def write_further(home: Path) -> None:
    """Write what those commands read: a condition for each image, labels of cells, links."""
    first, *lines = (home / "train.csv").read_text().split()
    rows = [f"{first},treatment", *(f"{line},drug{k % 2}" for k, line in enumerate(lines))]
    (home / "train.csv").write_text("\n".join(rows) + "\n")
    answers = "".join(f"{name},1,{k % 2}\n" for k, name in enumerate(names()))
    (home / "answers.csv").write_text(f"ID,cell_id,Label\n{answers}")
    (home / "link").symlink_to(home / "oof")
    (home / "pictures-link").symlink_to(home / "images")
    shutil.copytree(home / "images", home / "images2", copy_function=shutil.copy2)
    for name in names()[:2]:
        planes = np.random.default_rng().integers(0, 200, (4, 64, 64), np.uint8)
        keep_time(home / "images2" / f"{name}.ome.tif", lambda _: write_image(home, name, planes, "images2"))  # noqa: B023


def rename_class(home: Path) -> None:
    """Give the first class of the data set another name, on purpose: the digest is right."""
    path = home / "data" / "dataset.json"
    manifest = read_json(path)
    manifest["classes"][0] = manifest["classes"][0][::-1]
    keep_time(path, lambda p: write_json(p, manifest))


def retrain(home: Path) -> None:
    """Train the run again, with another seed."""
    code, text = call("train", [*words(home)["train"], "--resume", "never", "--seed", str(time.time_ns() % 10**6)])
    assert code == 0, text


def exchange(home: Path) -> None:
    """Exchange two pseudo-masks by renames."""
    one, other = sorted((home / "pseudo" / "fold0" / "masks").iterdir())[:2]
    one.rename(home / "aside")
    other.rename(one)
    (home / "aside").rename(other)


def exchange_images(home: Path) -> None:
    """Exchange two images by renames."""
    one, other = (home / "images" / f"{name}.ome.tif" for name in names()[:2])
    one.rename(home / "aside")
    other.rename(one)
    (home / "aside").rename(other)


def retarget(link: str, target: str) -> Change:
    """Return a change that lets a link lead to another folder."""

    def change(home: Path) -> None:
        (home / link).unlink()
        (home / link).symlink_to(home / target)

    return change


def text_in(path: str, old: bytes, new: bytes) -> Change:
    """Return a change of text in a file, whose size and times stay."""
    return lambda home: swap_bytes(home / path, old, new)


def other_report(home: Path) -> None:
    """Change what calibration curves say of themselves; the digest is right."""
    path = home / "curves.json"
    record = read_json(path)
    write_json(path, record | {"report": {"changed": True}})


CURRENT = [*BEFORE, "infer"]
MORE += [
    ("prepare", [], "two images exchanged by renames", exchange_images),
    ("prepare", [], "a carried column", text_in("train.csv", b"i03,1,drug1", b"i03,1,drug2")),
    ("prepare-link", [], "a link to the images leads elsewhere", retarget("pictures-link", "images2")),
    ("train-maps", [*BEFORE, "pseudo"], "two pseudo-masks exchanged", exchange),
    ("train-init", BEFORE, "the run that it started from trained again", retrain),
    ("train-drs", BEFORE, "its teacher trained again", retrain),
    ("train-answers", BEFORE, "a label of a cell", text_in("answers.csv", b"i05,1,1", b"i05,1,0")),
    ("infer-curves", [*CURRENT, "calibrate"], "the calibration", other_report),
    ("compare", CURRENT, "a class renamed", rename_class),
    (
        "compare",
        CURRENT,
        "a condition, prepared again",
        both(text_in("train.csv", b"drug0", b"drug3"), remake("prepare")),
    ),
    ("export", CURRENT, "a class renamed", rename_class),
    ("export-model", BEFORE, "the run trained again", retrain),
    ("export-link", [*CURRENT, "infer-2"], "a link to predictions leads elsewhere", retarget("link", "second")),
    ("evaluate-classes", CURRENT, "a class renamed", rename_class),
    ("overlay", CURRENT, "a class renamed", rename_class),
    ("report-maps", CURRENT, "the run trained again, not predicted again", retrain),
    ("calibrate-truth", CURRENT, "a true class", truth),
]

OPTIONS: list[tuple[str, str]] = [
    ("prepare", "--size 32"),
    ("prepare", "--folds 4"),
    ("prepare", "--seed 1"),
    ("prepare", "--bits 12"),
    ("prepare", "--channels blue,red,green,yellow"),
    ("prepare-coded", "--channels red=B,green=A,blue=C,yellow=D"),
    ("segment", "--split true"),
    ("train", "--optim.lr 0.01"),
    ("train", "--crop 32"),
    ("train", "--seed 1"),
    ("infer", "--score.region topk"),
    ("infer", "--oof false"),
    ("infer", "--crops.margin 0.5"),
    ("pseudo", "--tta.views flips"),
    ("ensemble", "--how geometric"),
    ("calibrate", "--method platt"),
    ("evaluate", "--threshold 0.4"),
    ("export", "--gz false"),
    ("report", "--threshold 0.4"),
    ("overlay", "--max-size 80"),
    ("train-masks", "--optim.lr 0.01"),
    ("infer-masks", "--segmentation.threshold 0.4"),
]
"""Command, and words that make another result of it."""
NEEDS = {"infer-masks": ["train-masks"], "train-masks": [], "prepare-coded": []}


def other_options(home: Path, chain: dict[str, list[str]]) -> list[tuple[str, bool]]:
    """Start finished commands with other options; return what was tried, and whether it was noticed and named."""
    results = []
    for name, more in OPTIONS:
        needs = [*NEEDS[name], name] if name in NEEDS else ORDER[: ORDER.index(name) + 1]
        for stage in needs:
            again(stage, chain)
        code, text = call(name, [*chain[name], *more.split()])
        option = more.split()[0].lstrip("-").rpartition(".")[2]
        noticed = (code == 2 and option.replace("-", "_") in text.replace("-", "_")) or (
            code == 0 and not is_done(name, code, text)
        )
        print(f"{name:10} {more:45} {' '.join(text.split())[-150:]}", flush=True)
        results.append((f"{name} {more}: {text[-200:]}", noticed))
    return results


def stories(home: Path, chain: dict[str, list[str]]) -> list[tuple[str, bool]]:
    """Play what takes several commands; return what was tried, and whether all that is promised held."""
    results = []
    for story in (_cut_short, _cells_missing, _failed_first):
        done = story(home, chain)
        print(f"{story.__name__[1:]:56} {done}", flush=True)
        results.append((story.__name__, done))
    return results


def _cut_short(home: Path, chain: dict[str, list[str]]) -> bool:
    """An infer that is stopped half-way, label maps corrected, the same command: one table from one set of cells."""
    for name in BEFORE:
        again(name, chain)
    out = ["--out", str(home / "cut"), "--batch", "1"]
    add, left = Journal.add, [4]

    def stopping(*arguments: object, **more: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        add(*arguments, **more)  # type: ignore[arg-type]

    Journal.add = stopping  # type: ignore[method-assign]
    try:
        call("infer", [*chain["infer"], *out])
        return False
    except KeyboardInterrupt:
        pass
    finally:
        Journal.add = add  # type: ignore[method-assign]
    all_maps(home)
    code, _ = call("infer", [*chain["infer"], *out])
    whole, _ = call("infer", [*chain["infer"], "--out", str(home / "uncut"), "--batch", "1"])
    tables = [pd.read_parquet(home / name / "cells.parquet") for name in ("cut", "uncut")]
    shutil.rmtree(home / "cut")
    shutil.rmtree(home / "uncut")
    return code == whole == 0 and tables[0].equals(tables[1])


def _cells_missing(home: Path, chain: dict[str, list[str]]) -> bool:
    """What needs cells, before segment: refused with the command that finds them, nothing written."""
    for name in BEFORE:
        again(name, chain)
    cells = home / "data" / "cells"
    cells.rename(home / "aside")
    refused = []
    for name in ("infer", "pseudo"):
        words = [*chain[name], "--out", str(home / "early")]
        code, text = call(name, words)
        refused.append(code == 2 and "wsss.segment" in text and not (home / "early").exists())
    (home / "aside").rename(cells)
    code, _ = call("infer", [*chain["infer"], "--out", str(home / "early")])
    rows = len(pd.read_parquet(home / "early" / "cells.parquet"))
    shutil.rmtree(home / "early")
    return all(refused) and code == 0 and rows == 2 * len(names())


def _failed_first(home: Path, chain: dict[str, list[str]]) -> bool:
    """First tries that fail by their input: the right command afterwards works in the same folder."""
    again("prepare", chain)
    wrong = {
        "prepare": ["--labels", str(home / "given" / f"{FIRST}.png")],
        "segment": ["--masks", str(home / "images")],
        "train": ["--crop", "48"],
        "infer": ["--run", str(home / "none")],
        "pseudo": ["--run", str(home / "none")],
        "calibrate": ["--preds", str(home / "none")],
        "export": ["--to", "nothing"],
        "report": ["--preds", str(home / "none")],
        "overlay": ["--preds", str(home / "none")],
    }
    kept, fresh = [], home / "fresh"
    fresh.mkdir()
    chain = {
        name: [word.replace(f"{home}/", f"{fresh}/") if _made(home, word) else word for word in words]
        for name, words in chain.items()
    }
    for name, more in wrong.items():
        code, _ = call(name, [*chain[name], *more])
        right, text = call(name, chain[name])
        kept.append(code in (1, 2) and right == 0)
        if not kept[-1]:
            print(f"after a wrong {name} ({code}): {right} {text[-300:]}")
    shutil.rmtree(fresh)
    return all(kept)


def _made(home: Path, word: str) -> bool:
    return word.startswith(f"{home}/") and word.split("/")[-1] not in ("images", "given", "train.csv", "truth.csv")


def upto(name: str, chain: dict[str, list[str]]) -> None:
    """Bring everything that a command reads, and its own result, up to date."""
    needs = {"evaluate": {"pseudo", "ensemble", "calibrate", "infer-2"}, "download": set(ORDER)}
    skip = {"pseudo": set()}.get(name, {"pseudo"}) | needs.get(name, set())
    if name not in ("ensemble", "infer-2"):
        skip |= {"infer-2", "ensemble"}
    for stage in ORDER[: ORDER.index(name) + 1]:
        if stage == name or stage not in (skip | {"calibrate", "export", "overlay"}):
            again(stage, chain)


def main() -> int:
    """Try every change; those of the commands named alone, if any is; 'options' and 'stories' are names too."""
    wanted = sys.argv[1:] or [*ORDER, *(name for name, *_ in MORE), "options", "stories"]
    tried = noticed = alarms = 0
    began = time.monotonic()
    failures = []
    with tempfile.TemporaryDirectory(prefix="wsss-stress-") as folder:
        home = Path(folder)
        write_inputs(home)
        write_further(home)
        chain = words(home) | further(home)
        with site(home, chain):
            for name, needs, what, change in [*((name, None, what, change) for name, what, change in CHANGES), *MORE]:
                if name not in wanted:
                    continue
                if needs is None:
                    upto(name, chain)
                else:
                    for stage in [*needs, name]:
                        again(stage, chain)
                code, text = call(name, chain[name])
                if not is_done(name, code, text):
                    alarms += 1
                    failures.append(f"{name} finds work without a change: {text[-200:]}")
                change(home)
                code, text = call(name, chain[name])
                tried += 1
                if code == 2 or (code == 0 and not is_done(name, code, text)):
                    noticed += 1
                else:
                    failures.append(f"{name} does not notice: {what}: {text[-200:]}")
                print(f"{name:10} {what:45} {' '.join(text.split())[-150:]}", flush=True)
            for part, play in (("options", other_options), ("stories", stories)):
                for what, good in play(home, chain) if part in wanted else []:
                    tried, noticed = tried + 1, noticed + good
                    failures += [] if good else [f"{part}: {what}"]
    for failure in failures:
        print(failure)
    return (
        record(
            17, "changes between stages, noticed", tried, noticed, time.monotonic() - began, f"{alarms} false alarms"
        )
        + alarms
    )


def is_done(name: str, code: int, text: str) -> bool:
    """Say whether a command found nothing to do."""
    name = name.partition("-")[0]
    if name == "train":
        return code == 0 and "going on after epoch 1" in text and "fitted" not in text
    if name == "segment":
        return code == 0 and "nothing was left to do" in text
    if name == "download":
        return code == 0 and "are complete" in text
    return code == 0 and "nothing to do" in text


if __name__ == "__main__":
    sys.exit(main())
