"""Figures of the mask networks: nuclei, a table of losses and decoder options, and time per image.

    python scripts/bench_unet.py nuclei --data stage1_train [--set ...]       instance AP by kind of image
    python scripts/bench_unet.py salt --data salt [--set --epochs 8 ...]      the metric of the TGS salt competition
    python scripts/bench_unet.py ceiling --data stage1_train                  objects of true targets, sharp and blurred
    python scripts/bench_unet.py options [--data salt] [--images 640]         every option against one baseline
    python scripts/bench_unet.py time                                         seconds per 101 x 101 and 512 x 512 image
    python scripts/bench_unet.py smp [--images 4] [--edge 128] [--rounds 15]  speed beside the U-Net of smp

`nuclei` and `salt` hold out fold 0 of the 5 folds that seed 0 draws, each with its share of empty, small and large
masks: of 100 nuclei images 80 to train on and 20 to score, of 4,000 salt images 3,200 and 800. Flags of `train` after
--set change the recipe, and --name keeps the run apart. `options` trains on --images of the 3,200 salt images and
scores the 800; without --data it draws its own set in the salt layout, whose figures say nothing about salt. `smp`
takes turns with the U-Net of segmentation_models_pytorch, of the same encoder and decoder, and prints the median of
the ratios of neighbouring turns. All run on the CPU.
What is done is not done again: started anew with another --only, the script adds the rows that are missing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from composing.salt import draw_salt
from PIL import Image
from scipy import ndimage

from wsss import evaluate, infer, train
from wsss.cells.instances import objects_of
from wsss.core.files import read_json
from wsss.core.rle import encode_pairs
from wsss.data.folds import coverage_folds
from wsss.data.masks import open_masks, survey
from wsss.metrics.instances import instance_ap
from wsss.models.unet import build_unet
from wsss.options.masks import MOST, UnetConfig
from wsss.options.recipe import MaskRecipe
from wsss.training.tasks.masks import make_target

BACKBONE = "tf_efficientnet_lite0"
ENCODER = ["--backbone", BACKBONE, "--weights", "package", "--device", "cpu"]
PLAIN = ["--config", "configs/unet_salt.yaml", "--unet.attention", "none", "--unet.hypercolumn", "false"]
PLAIN += ["--unet.empty_head", "false", "--mask_loss.terms", "{bce: 1}", "--mask_loss.symmetric", "false"]
PLAIN += ["--workers", "0", "--save_every", "50"]
"""The baseline of the table of options: the salt recipe with binary cross-entropy and a bare decoder."""
BLURS = (0, 0.7, 1.5)
"""Of the ceilings, px."""


@dataclass(frozen=True)
class Row:
    """One option of the table: what differs from the baseline."""

    flags: tuple[str, ...] = ()
    """Of `train`; "half" stands for half of the epochs."""
    asked: tuple[str, ...] = ()
    """Of `infer`."""
    run: str = ""
    """The row whose network is asked again; empty: a network of its own."""
    edge: int = 0
    """Resize the images to squares of this edge beforehand, px; 0: as they are, padded to 128 px in the network."""


EMPTY, SCSE, HYPERCOLUMN = (
    ("--unet.empty_head", "true"),
    ("--unet.attention", "scse"),
    ("--unet.hypercolumn", "true"),
)
LATER = ("--mask_loss.later", "{lovasz: 1}", "--mask_loss.switch", "half", "--mask_loss.rectifier", "elu")
SYMMETRIC = ("--mask_loss.rectifier", "relu", "--mask_loss.symmetric", "true")


def loss(terms: str, *flags: str) -> Row:
    return Row(("--mask_loss.terms", f"{{{terms}}}", *flags))


ROWS = {
    "baseline: bce, nearest": Row(),
    "dice": loss("dice: 1"),
    "jaccard": loss("jaccard: 1"),
    "bce + dice": loss("bce: 1, dice: 1"),
    "focal": loss("focal: 1"),
    "ohem": loss("ohem: 1"),
    "lovasz, relu": loss("lovasz: 1", "--mask_loss.rectifier", "relu"),
    "lovasz, elu + 1": loss("lovasz: 1", "--mask_loss.rectifier", "elu"),
    "lovasz, symmetric": loss("lovasz: 1", *SYMMETRIC),
    "bce, then lovasz elu + 1": Row(LATER),
    "bce, then lovasz symmetric": Row((*LATER[:4], *SYMMETRIC)),
    "bilinear": Row(("--unet.upsample", "bilinear")),
    "transposed": Row(("--unet.upsample", "transposed")),
    "scse": Row(SCSE),
    "cbam": Row(("--unet.attention", "cbam")),
    "gates": Row(("--unet.gates", "true")),
    "hypercolumn": Row(HYPERCOLUMN),
    "deep supervision": Row(("--unet.deep_supervision", "true")),
    "empty head": Row(EMPTY),
    "resized to 128 px": Row(edge=128),
    "mirrored at test time": Row(asked=("--segmentation.tta", "mirror"), run="baseline: bce, nearest"),
    "snapshots of 2 cycles": Row(("--optim.cycles", "2", "--optim.warmup", "0"), asked=("--snapshots", "true")),
    "empty head, bce, then lovasz": Row((*EMPTY, *LATER)),
    "the same, scse, hypercolumn": Row((*EMPTY, *LATER, *SCSE, *HYPERCOLUMN)),
}


def score(
    sets: tuple[Path, Path],
    run: Path,
    flags: Sequence[str],
    asked: Sequence[str] = (),
    *,
    objects: bool,
    preds: Path | None = None,
) -> dict[str, float]:
    """Train on the first set, score the second, which chooses nothing: the weights are those of the last epoch."""
    learn, held_out = (str(folder) for folder in sets)
    preds = preds or run / "preds"
    train.main(["--task", "masks", "--data", learn, "--run", str(run), "--fold", "none", *ENCODER, *flags])
    seconds = pd.read_csv(run / "full" / "log.csv")["seconds"].sum()
    asked = ["--device", "cpu", "--segmentation.objects", str(objects).lower(), *asked]
    infer.main(["--run", str(run), "--data", held_out, "--out", str(preds), *asked])
    evaluate.main(["--preds", str(preds), "--truth", held_out])
    return {**read_json(preds / "scores.json"), "seconds": seconds}


def show(name: str, figures: dict[str, float]) -> None:
    columns = ("dice", "iou", "threshold_mean", "instance_ap")
    print(
        f"{name:26}" + "".join(f"{figures[column]:16.4f}" for column in columns) + f"{figures['seconds']:9.0f} s",
        flush=True,
    )


def head() -> None:
    columns = ("Dice", "IoU", "IoU .5 to .95", "instance AP")
    print(f"{'':26}" + "".join(f"{column:>16}" for column in columns) + f"{'training':>11}")


def nuclei(given: argparse.Namespace) -> None:
    sets = split_nuclei(given.data.resolve(), given.work)
    run = given.work / f"nuclei-{given.name}"
    flags = ["--config", "configs/unet_nuclei.yaml", "--workers", "0", *given.set]
    asked = ["--segmentation.tta", "flips", "--segmentation.scales", "[1.0,1.5,2.0]"]
    figures = score(sets, run, flags, asked, objects=True)
    head()
    show(f"nuclei ({figures['images']} images)", figures)
    show_kinds(sets[1], run / "preds")


def show_kinds(held_out: Path, preds: Path) -> None:
    """Print the instance AP by kind of image, and the ten images with the lowest."""
    scores = pd.read_csv(preds / "image_scores.csv", index_col="ID")
    masks = open_masks(held_out)
    scores["kind"] = [kind_of(masks.image(masks.ids.index(name))) for name in scores.index]
    print(scores.groupby("kind").instance_ap.agg(["count", "mean", "min"]).round(4).to_string())
    print(scores.nsmallest(10, "instance_ap")[["kind", "instance_ap", "dice"]].round(3).to_string())


def kind_of(image: np.ndarray) -> str:
    """Return the kind of a (3, H, W) image by its colour and ground: fluorescence, stained tissue or bright field."""
    if np.ptp(image.astype(np.int16), axis=0).mean() > 8:
        return "stained"
    return "fluorescence" if np.median(image) < 128 else "bright field"


def salt(given: argparse.Namespace) -> None:
    sets = split_salt(given.data.resolve(), given.work)
    run = given.work / f"salt-{given.name}"
    flags = ["--config", "configs/unet_salt.yaml", "--save_every", "50", "--workers", "0", *given.set]
    figures = score(sets, run, flags, ["--segmentation.tta", "mirror"], objects=False)
    head()
    show(f"salt ({figures['images']} images)", figures)


def split_salt(data: Path, work: Path) -> tuple[Path, Path]:
    """Link the images and masks of fold 0 of 5, drawn by seed 0, into one folder and all others into another."""
    sets = work / "salt" / "learn", work / "salt" / "held_out"
    if sets[0].exists():
        return sets
    masks = open_masks(data, channels=1)
    folds = coverage_folds(survey(masks).coverage, 5, seed=0)
    for folder in sets:
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
    for item, fold in zip(masks.items, folds, strict=True):
        for kind, path in (("images", item.image), ("masks", data / "masks" / f"{item.id}.png")):
            (sets[int(fold == 0)] / kind / path.name).symlink_to(path)
    return sets


def ceiling(given: argparse.Namespace) -> None:
    """Print the instance AP that each target reaches if the network predicts it without a fault, or blurred."""
    masks = open_masks(given.data)
    truths = [masks.label_map(i) for i in range(len(masks))]
    print(f"{'target':12}" + "".join(f"{f'blurred {sigma} px':>18}" for sigma in BLURS))
    for kind in given.only or ("binary", "border", "distance"):
        figures = [
            np.mean([instance_ap(objects_of(ideal(t, kind, sigma), kind), t) for t in truths]) for sigma in BLURS
        ]
        print(f"{kind:12}" + "".join(f"{figure:18.4f}" for figure in figures), flush=True)


def ideal(truth: np.ndarray, kind: str, sigma: float) -> np.ndarray:
    """Return the target of a label map as if it were predicted, (K, H, W) float32, blurred by `sigma` px."""
    target = make_target(truth, np.zeros(truth.shape, bool), kind).astype(np.float32)
    if kind == "distance":
        target[1] /= MOST
    return np.stack([ndimage.gaussian_filter(channel, sigma) for channel in target]) if sigma else target


def split_nuclei(data: Path, work: Path) -> tuple[Path, Path]:
    """Link the images of fold 0 of 5, drawn by seed 0, into one folder and all others into another."""
    masks = open_masks(data)
    folds = coverage_folds(survey(masks).coverage, 5, seed=0)
    learn, held_out = work / "nuclei" / "learn", work / "nuclei" / "held_out"
    for name, fold in zip(masks.ids, folds, strict=True):
        link = (held_out if fold == 0 else learn) / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(data / name, target_is_directory=True)
    return learn, held_out


def options(given: argparse.Namespace) -> None:
    """Train with each option in turn, all for as many steps, and print a row for each."""
    sets = drawn_salt(given) if given.data is None else some_salt(given)
    known = {name: row for name, row in ROWS.items() if given.data or not row.edge}
    rows = {}
    for name, row in known.items() if not given.only else [(name, known[name]) for name in given.only]:
        base = ROWS[row.run] if row.run else row
        flags = [str(given.epochs // 2) if word == "half" else word for word in base.flags]
        runs = given.work / f"options-{given.images}x{given.epochs}-{given.seed}"
        run = runs / (row.run or name).replace(" ", "_").replace("/", "_")
        preds = run / ("preds-" + name.replace(" ", "_") if row.run else "preds")
        flags = [*PLAIN, "--epochs", str(given.epochs), "--seed", str(given.seed), *flags]
        if row.flags[:1] != ("--mask_loss.terms",):
            flags += ["--mask_loss.terms", "{bce: 1}"]
        of = resized(sets, row.edge) if row.edge else sets
        rows[name] = score(of, run, flags, row.asked, objects=False, preds=preds)
        head()
        for told, figures in rows.items():
            show(told, figures)


def drawn_salt(given: argparse.Namespace) -> tuple[Path, Path]:
    """Draw a set in the salt layout, and half as many images to score."""
    sets = given.work / f"drawn{given.images}" / "learn", given.work / f"drawn{given.images}" / "held_out"
    for folder, first, count in zip(sets, (0, 10**6), (given.images, given.images // 2), strict=True):
        if not folder.exists():
            write_salt(folder, first, count)
    return sets


def some_salt(given: argparse.Namespace) -> tuple[Path, Path]:
    """Link the first of the images to train on into a folder; their names are random."""
    learn, held_out = split_salt(given.data.resolve(), given.work)
    some = given.work / "salt" / f"learn{given.images}"
    if not some.exists():
        for kind in ("images", "masks"):
            (some / kind).mkdir(parents=True)
        for path in sorted((learn / "images").iterdir())[: given.images]:
            for kind in ("images", "masks"):
                (some / kind / path.name).symlink_to((learn / kind / path.name).resolve())
    return some, held_out


def resized(sets: tuple[Path, Path], edge: int) -> tuple[Path, Path]:
    """Write both sets with images (bilinear) and masks (nearest) of `edge` px beside them."""
    out = tuple(folder.with_name(f"{folder.name}-{edge}px") for folder in sets)
    for folder, target in zip(sets, out, strict=True):
        for kind, way in (("images", Image.Resampling.BILINEAR), ("masks", Image.Resampling.NEAREST)):
            if (target / kind).exists():
                continue
            (target / kind).mkdir(parents=True)
            for path in sorted((folder / kind).iterdir()):
                Image.open(path).resize((edge, edge), way).save(target / kind / path.name)
    return out[0], out[1]


def write_salt(folder: Path, first: int, images: int) -> None:
    """Write a set in the salt layout, its images drawn by the seeds from `first` on."""
    (folder / "images").mkdir(parents=True)
    lines, depths = ["id,rle_mask"], ["id,z"]
    for k in range(first, first + images):
        image, mask = draw_salt(np.random.default_rng([7, k]))
        Image.fromarray(image).save(folder / "images" / f"salt{k:07}.png")
        lines.append(f"salt{k:07},{encode_pairs(mask)}")
        depths.append(f"salt{k:07},{100 + k % 800}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    (folder / "depths.csv").write_text("\n".join(depths) + "\n")


def timing(given: argparse.Namespace) -> None:
    recipe = MaskRecipe(backbone=BACKBONE, weights="none", unet=UnetConfig())
    net = build_unet(recipe, channels=3, outputs=1).eval()
    print(f"{BACKBONE}, one image at a time, {torch.get_num_threads()} threads, median of 9")
    for edge in (101, 512):
        image = torch.randint(0, 256, (1, 3, edge, edge), dtype=torch.uint8)
        with torch.inference_mode():
            net(image)
            times = []
            for _ in range(9):
                started = time.perf_counter()
                net(image)
                times.append(time.perf_counter() - started)
        print(f"{edge} x {edge}: {statistics.median(times) * 1000:.0f} ms (fastest {min(times) * 1000:.0f})")


def beside_smp(given: argparse.Namespace) -> None:
    """Print images per second of our U-Net and of smp's, in training (forward and backward) and in inference."""
    ours = build_unet(MaskRecipe(backbone=BACKBONE, weights="none", unet=UnetConfig()), channels=3, outputs=1)
    channels = tuple(UnetConfig().channels)
    theirs = smp.Unet(f"tu-{BACKBONE}", encoder_weights=None, decoder_channels=channels)
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    images = torch.randint(0, 256, (given.images, 3, given.edge, given.edge), dtype=torch.uint8)
    truth = (torch.rand(given.images, 1, given.edge, given.edge) > 0.5).float()
    mean, std = ours.mean, ours.std

    def their_maps(images: torch.Tensor) -> torch.Tensor:
        return theirs((images.float() - mean) / std)  # as ours: from the stored bytes on

    nets: dict[str, tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor]]] = {
        "wsss": (ours, lambda images: ours(images).logits),
        "smp": (theirs, their_maps),
    }
    print(
        f"{BACKBONE}, {counts[0]:,} and {counts[1]:,} parameters, {given.images} x {given.edge} px, "
        f"{torch.get_num_threads()} threads"
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        theirs.to(memory_format=layout)
        for what in ("training", "inference"):
            times: dict[str, list[float]] = {name: [] for name in nets}
            for turn in range(given.rounds + 1):
                for name, (net, maps_of) in list(nets.items())[:: 1 if turn % 2 else -1]:
                    seconds = turn_of(net.train(what == "training"), maps_of, images, truth)
                    if turn:  # the first warms up
                        times[name].append(seconds)
            ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
            rates = ", ".join(f"{name} {given.images / statistics.median(own):.1f}" for name, own in times.items())
            print(
                f"{what:10} smp {str(layout)[6:]:18} images a second: {rates}; wsss is {ratio:.2f} times as fast",
                flush=True,
            )


def turn_of(
    net: torch.nn.Module, maps_of: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, truth: torch.Tensor
) -> float:
    """Return the seconds of a batch: forward and backward in training mode, else forward."""
    started = time.perf_counter()
    with torch.inference_mode(not net.training):
        logits = maps_of(images)
    if net.training:
        F.binary_cross_entropy_with_logits(logits, truth).backward()
        net.zero_grad(set_to_none=True)
    return time.perf_counter() - started


PARTS = {
    "nuclei": nuclei,
    "salt": salt,
    "ceiling": ceiling,
    "options": options,
    "time": timing,
    "smp": beside_smp,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(PARTS))
    parser.add_argument("--data", type=Path, help="the Bowl's stage1_train, for nuclei; the salt training images")
    parser.add_argument("--name", default="winner", help="of the run of nuclei or salt")
    parser.add_argument("--work", type=Path, default=Path("bench_unet"), help="where runs and predictions go")
    parser.add_argument("--only", nargs="+", help="these targets or options alone")
    parser.add_argument("--images", type=int, help="to train on, of options (640); in a batch of smp (4)")
    parser.add_argument("--edge", type=int, default=128, help="of the images of smp, px")
    parser.add_argument("--rounds", type=int, default=15, help="of smp")
    parser.add_argument("--epochs", type=int, default=8, help="of options")
    parser.add_argument("--seed", type=int, default=0, help="of options")
    parser.add_argument(
        "--set", nargs=argparse.REMAINDER, default=[], help="flags of train for nuclei and salt; the last option"
    )
    given = parser.parse_args()
    given.images = given.images or (4 if given.what == "smp" else 640)
    if given.what in ("nuclei", "salt", "ceiling") and given.data is None:
        parser.error(f"{given.what} needs --data")
    PARTS[given.what](given)


if __name__ == "__main__":
    main()
