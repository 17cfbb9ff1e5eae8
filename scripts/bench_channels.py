"""Cells labelled from image labels alone on drawn sets of 1, 3, 4 and 5 channels: AP per cell of each.

    python scripts/bench_channels.py [--sets one,three,four,five] [--train 96] [--test 32] [--epochs 10] [--out FOLDER]

`one`: a nuclear stain alone with nuclei of six shapes. `four`: the drawn RGBY fields of the demo, of six classes;
`three`: the same without the ER, as RGB pictures; `five`: the same with a channel of noise, as OME-TIFF of 16 bits in
another order. Cells are the drawn ones (--backend masks). Three figures a set, on the CPU: the network alone, the
feature classifier alone, and the score that `infer` gives. Seed 0; what is done is not done again.
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
from composing.nuclei import SHAPES, draw_nuclei
from PIL import Image

from wsss import evaluate, infer, prepare, segment, train
from wsss.core.files import read_json
from wsss.core.labels import HPA_NAMES
from wsss.data.synthetic import draw_field

CLASSES = (0, 1, 2, 7, 11, 13, 18)
"""Of the 19: those of the drawn fields; Negative, which cells beside dividing ones may be, is not scored."""
CHANNELS = {
    "one": ["--channels", "DAPI", "--roles", "nucleus=DAPI"],
    "three": ["--channels", "cell=red,signal=green,nucleus=blue"],
    "four": [],
    "five": [
        "--channels",
        "nucleus=DAPI,signal=GFP,cell=Tubulin,ER,Phase",
        "--roles",
        "nucleus=nucleus,signal=signal,cell=cell+ER",
    ],
}
SIZE = 192
"""Edge of a field, px."""
PARTS = {"network": "cam", "feature classifier": "feature_classifier", "together": ""}


def write_set(folder: Path, kind: str, count: int, seed: int) -> None:
    """Write images, label maps and tables of a set, unless they are there."""
    if (folder / "train.csv").exists():
        return
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weak, truth = ["ID,Label"], ["ID,cell,Label"]
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        lead = [n % 6, *rng.permutation(6)[: rng.integers(0, 2)].tolist()]
        chosen = sorted(set(lead))
        name = f"f{seed}-{n:03}"
        if kind == "one":
            nuclei = draw_nuclei(rng, SIZE, chosen)
            label_map, labels = nuclei.label_map, [[k] for k in nuclei.shapes]
            Image.fromarray(nuclei.image).save(folder / f"images/{name}.png")
        else:
            field = draw_field(rng, SIZE, [CLASSES[k] for k in chosen])
            label_map, labels = field.label_map, [[CLASSES.index(k) for k in ids] for ids in field.cell_labels]
            write_image(folder / "images", name, kind, field.image, rng)
        Image.fromarray(label_map.astype(np.uint16)).save(folder / f"masks/{name}.png")
        weak.append(f"{name},{'|'.join(map(str, chosen))}")
        truth += [f"{name},{k},{'|'.join(map(str, ids))}" for k, ids in enumerate(labels, 1) if (label_map == k).any()]
    names = SHAPES if kind == "one" else [HPA_NAMES[k] for k in CLASSES]
    negative = "" if kind == "one" else f"negative: {names[-1]}\n"
    (folder / "classes.yaml").write_text(f"names: [{', '.join(names)}]\n{negative}")
    (folder / "truth.csv").write_text("\n".join(truth) + "\n")
    (folder / "train.csv").write_text("\n".join(weak) + "\n")


def write_image(folder: Path, name: str, kind: str, image: np.ndarray, rng: np.random.Generator) -> None:
    """Write an RGBY image (4, H, W) in the form of its set."""
    red, green, blue, yellow = image
    if kind == "three":
        Image.fromarray(np.stack([red, green, blue], axis=-1)).save(folder / f"{name}.png")
    elif kind == "four":
        for channel, plane in zip(("red", "green", "blue", "yellow"), image, strict=True):
            Image.fromarray(plane).save(folder / f"{name}_{channel}.png")
    else:
        noise = rng.integers(0, 60, red.shape, np.uint8)
        planes = np.stack([yellow, blue, noise, red, green]).astype(np.uint16) * 16
        names = ["ER", "DAPI", "Phase", "Tubulin", "GFP"]
        tifffile.imwrite(folder / f"{name}.ome.tif", planes, metadata={"axes": "CYX", "Channel": {"Name": names}})


def run_set(home: Path, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Take a set through all stages; return the mean AP per cell of each part of the score."""
    size = ["--size", str(SIZE), *CHANNELS[kind]]
    for part, count, seed in (("train", args.train, 0), ("test", args.test, 1)):
        write_set(home / part, kind, count, seed)
        given = ["--images", str(home / part / "images"), "--classes", str(home / part / "classes.yaml"), *size]
        labels = ["--labels", str(home / part / "train.csv")] if part == "train" else []
        prepare.main([*given, *labels, "--out", str(home / f"{part}-data"), "--workers", "0"])
        masks = ["--backend", "masks", "--masks", str(home / part / "masks"), "--workers", "0"]
        segment.main(["--data", str(home / f"{part}-data"), *masks])
    run, preds = str(home / "run"), home / "preds"
    network = [
        "--backbone",
        args.backbone,
        "--weights",
        args.weights,
        "--crop",
        "128",
        "--batch",
        "8",
        "--fold",
        "none",
    ]
    course = ["--epochs", str(args.epochs), "--optim.lr", "1e-3", "--optim.schedule", "onecycle", "--crops.size", "64"]
    more = ["--feature_classifier.enabled", "true", "--device", "cpu", "--workers", "0", "--fold", "none"]
    train.main(["--data", str(home / "train-data"), "--run", run, *network, *course, *more])
    asked = ["--out", str(preds), "--parts", "true", "--device", "cpu"]
    infer.main(["--data", str(home / "test-data"), "--run", run, *asked])
    figures = {}
    for name, folder in PARTS.items():
        evaluate.main(["--preds", str(preds / folder), "--truth", str(home / "test/truth.csv")])
        figures[name] = read_json(preds / folder / "scores.json")["cells"]["mean_ap_without_negative"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(CHANNELS))
    parser.add_argument("--train", type=int, default=96, help="fields with image labels")
    parser.add_argument("--test", type=int, default=32, help="fields to score")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package")
    parser.add_argument("--out", type=Path, default=Path("bench_channels"))
    args = parser.parse_args()
    by_kind = {kind: run_set(args.out / kind, kind, args) for kind in args.sets.split(",")}
    print(f"{'set':8}" + "".join(f"{name:>20}" for name in PARTS))
    for kind, figures in by_kind.items():
        print(f"{kind:8}" + "".join(f"{figures[name]:20.3f}" for name in PARTS))


if __name__ == "__main__":
    main()
