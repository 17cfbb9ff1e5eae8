"""Make the pictures of docs/how_it_works.md: train a small network on drawn fields, then show each step on one field.

usage: python scripts/make_explainer.py [--work explainer] [--out docs]
       python scripts/make_explainer.py --masks          the picture of docs/unet.md alone, which needs no network

The network is trained into the folder --work, or taken from there; about a minute on two free cores.
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage.color import label2rgb

from wsss import train
from wsss.cells.instances import crop_batches, objects_of
from wsss.cells.scoring import blend, cell_cam_scores, cell_values, normalise, resize
from wsss.core.files import write_bytes
from wsss.core.labels import HPA, HPA_CHANNELS
from wsss.data.build import Spec, create_dataset
from wsss.data.synthetic import Field, draw_field
from wsss.inference.checkpoints import CamCheckpoint, load_classifier
from wsss.models.cam_net import CamNet, class_maps, crop_outputs, merge, split
from wsss.models.device import Device, choose_device
from wsss.reports.figures import short_names
from wsss.reports.overlay import Note, Panel, composite, describe, describe_truth, fit, heat, mark_cells, overlay_page
from wsss.runs.run_folder import find_folders
from wsss.training.tasks.masks import make_target

CLASSES = (2, 10, 13, 14)
SIZE, EDGE = 192, 300
SHOWN = (2, 13)
"""The classes of the field that is shown: Nucleoli and Plasma membrane."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("explainer"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    parser.add_argument("--fields", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--masks", action="store_true", help="only the picture of docs/unet.md")
    options = parser.parse_args()
    pictures = {"explain_border": show_border()}
    if not options.masks:
        pictures |= steps(options)
    for name, picture in pictures.items():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, format="WEBP", quality=80)
        write_bytes(options.out / f"{name}.webp", stream.getvalue())
        print(options.out / f"{name}.webp", picture.shape)


def steps(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the pictures of docs/how_it_works.md."""
    checkpoint, device = network(options.work, options.fields, options.epochs)
    field = draw_field(np.random.default_rng(7), SIZE, SHOWN)
    probs, cam = maps_of(checkpoint.net, field.image, device)
    return {
        "explain_image": show_image(field),
        "explain_cam": show_cam(field, cam, probs),
        "explain_puzzle": show_puzzle(field, cam, checkpoint.net, device),
        "explain_score": show_scores(field, cam, probs, checkpoint, device),
    }


def network(work: Path, fields: int, epochs: int) -> tuple[CamCheckpoint, Device]:
    """Train on drawn fields of one or two classes, labels of images alone; return the network."""
    data = work / "data"
    if not (data / "dataset.json").exists():
        rng = np.random.default_rng(1)
        wanted = [rng.choice(CLASSES, rng.integers(1, 3), replace=False).tolist() for _ in range(fields)]
        drawn = {f"f{n:03}": draw_field(rng, SIZE, classes) for n, classes in enumerate(wanted)}
        images = {name: field.image for name, field in drawn.items()}
        create_dataset(data, images, {name: field.image_labels for name, field in drawn.items()}, Spec(size=SIZE))
    words = f"--data {data} --run {work}/run --fold none --backbone tf_efficientnet_lite0 --weights package"
    words += f" --output_stride 16 --crop 128 --batch 8 --epochs {epochs} --optim.lr 1e-3 --optim.schedule onecycle"
    if not (work / "run/full/best.safetensors").exists():
        train.main(words.split())
    device = choose_device()
    return load_classifier(find_folders(work / "run")[0], device), device


def show_border() -> np.ndarray:
    """Show why the larger of inside and border is no mask, on the true target of drawn nuclei blurred by 1.5 px."""
    truth = np.zeros((60, 60), np.int32)
    y, x = np.mgrid[:60, :60]
    for number, (cy, cx, radius) in enumerate(((20, 20, 12), (20, 42, 10), (40, 32, 11), (48, 10, 7)), 1):
        truth[(np.hypot(y - cy, x - cx) < radius) & (truth == 0)] = number
    target = make_target(truth, np.zeros(truth.shape, bool), "border").astype(np.float32)
    inside, border = (ndimage.gaussian_filter(channel, 1.5) for channel in target)
    probs = np.stack([inside, border])
    together = objects_of(probs, "border")
    larger = np.where(probs.max(axis=0) >= 0.5, together, 0)

    def panel(picture: np.ndarray, text: str) -> Panel:
        return Panel(large(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)), text)

    return overlay_page(
        "A network that is not sure where one nucleus ends: the true target, blurred by 1.5 px.",
        [
            panel(label2rgb(truth, bg_label=0), "true nuclei"),
            panel(np.repeat(inside[..., None], 3, axis=2), "inside"),
            panel(np.repeat(border[..., None], 3, axis=2), "border"),
            panel(label2rgb(larger, bg_label=0), "mask: the larger is .5 or more"),
            panel(label2rgb(together, bg_label=0), "mask: their sum is .5 or more"),
        ],
        [],
        HPA.names,
    )


def maps_of(net: CamNet, image: np.ndarray, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities (K,) and the raw class maps (K, h, w) of an image."""
    cam, probs = class_maps(net, image[None], device)
    return probs[0], cam[0]


def large(picture: np.ndarray) -> np.ndarray:
    return fit(picture, EDGE)


def show_image(field: Field) -> np.ndarray:
    """Show the channels, and all that training is told: the labels of the image."""
    names = ("microtubules", "protein", "nucleus", "ER")
    panels = [
        Panel(large(composite(plane[None], ("grey",))), f"{channel}: {name}")
        for plane, channel, name in zip(field.image, HPA_CHANNELS, names, strict=True)
    ]
    panels.append(Panel(large(composite(field.image)), "all four"))
    labels = ", ".join(HPA.names[k] for k in field.image_labels)
    title = f"What training is told of this image: {labels}. Which cell shows which, it is not told."
    return overlay_page(title, panels, [], HPA.names)


def show_cam(field: Field, cam: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Show the maps of the image's classes, and of one it has not."""
    panels = [Panel(large(composite(field.image)), "image")]
    cam01 = normalise(cam)
    for k in (*SHOWN, 14):
        full = resize(cam01[k : k + 1], field.label_map.shape)[0]
        panels.append(Panel(large(heat(field.image, full)), f"{HPA.names[k]}, p = {probs[k]:.2f}"))
    title = "Class activation maps: where the network sees what speaks for a class; p is the probability of the image."
    return overlay_page(title, panels, [], HPA.names)


def show_puzzle(field: Field, cam: np.ndarray, net: CamNet, device: Device) -> np.ndarray:
    """Show the tiles, and one class's map from the whole image and from the tiles."""
    k = SHOWN[1]
    images = torch.from_numpy(field.image[None].copy())
    tiles = split(images.float(), 2).numpy().astype(np.uint8)
    parts, _ = class_maps(net, tiles, device)
    merged = merge(torch.from_numpy(parts), 2)[0].numpy()
    whole, joined = (maps[k] / max(float(cam[k].max()), 1e-5) for maps in (cam, merged))
    apart = np.abs(whole - joined)
    shown = [(whole, "map from the whole image"), (joined, "map from the tiles"), (apart, "their difference")]
    half = EDGE // 2 - 4
    gaps = np.full((EDGE, EDGE, 3), 18, np.uint8)
    for n, tile in enumerate(tiles):
        row, column = divmod(n, 2)
        y, x = row * (half + 8), column * (half + 8)
        gaps[y : y + half, x : x + half] = fit(composite(tile), half)
    panels = [Panel(large(composite(field.image)), "the whole image"), Panel(gaps, "its four tiles")]
    for values, caption in shown:
        full = resize(np.clip(values, 0, 1)[None].astype(np.float32), field.label_map.shape)[0]
        panels.append(Panel(large(heat(field.image, full)), caption))
    title = f"Puzzle: the same network sees image and tiles; training makes the two maps agree ({HPA.names[k]})."
    return overlay_page(title, panels, [], HPA.names)


def show_scores(
    field: Field, cam: np.ndarray, probs: np.ndarray, checkpoint: CamCheckpoint, device: Device
) -> np.ndarray:
    """Show for one class the map in each cell, and for all cells how the two stages become a score."""
    k, rules = SHOWN[1], replace(checkpoint.recipe.score, region="mean", prob_power=1.0, feature_share=0.0)
    values = cell_values(normalise(cam), field.label_map, rules, negative=HPA.negative)
    first = cell_cam_scores(cam, probs, field.label_map, rules, negative=HPA.negative)
    crops = np.concatenate([*crop_batches([(field.image, field.label_map)], checkpoint.recipe.crops)])
    second = crop_outputs(checkpoint.net, [crops], device)[0]
    final = blend(first, second, rules.blend, rules.crop_share)
    ids = np.unique(field.label_map)[1:].tolist()
    full = resize(normalise(cam)[k : k + 1], field.label_map.shape)[0]
    edge, cells = 2 * EDGE - 60, fit(field.label_map, 2 * EDGE - 60, labels=True)
    warm, plain = fit(heat(field.image, full), edge), fit(composite(field.image), edge)
    noted = {i: Note((k,), f"r {r:.2f}") for i, r in zip(ids, values[:, k], strict=True)}
    top = final.argmax(axis=1)
    predicted = {i: describe(row, HPA.names, row.max()) for i, row in zip(ids, final, strict=True)}
    true = {i: describe_truth(labels, HPA.names) for i, labels in enumerate(field.cell_labels, 1)}
    panels = [
        Panel(mark_cells(warm, cells, noted), f"1. map of {HPA.names[k]} in each cell: r"),
        Panel(mark_cells(plain, cells, predicted), "2. r * p, blended with the crops' scores"),
        Panel(mark_cells(plain, cells, true), "the truth, which training never saw"),
    ]
    page = overlay_page("From maps to cells", panels, sorted({*SHOWN, *top.tolist(), 18}), HPA.names)
    return np.concatenate([page, table(crops, first, second, final, page.shape[1])])


def table(crops: np.ndarray, first: np.ndarray, second: np.ndarray, final: np.ndarray, width: int) -> np.ndarray:
    """Show six cells as stage 2 sees them, with the scores of both stages and the blend for the field's classes."""
    order = np.argsort(-final[:, list(SHOWN)].max(axis=1))
    panels, short = [], short_names(HPA.names)
    for row in (*order[:3], *order[-3:]):
        k = max(SHOWN, key=lambda k: final[row, k])
        text = f"{short[k]}: {first[row, k]:.2f}, {second[row, k]:.2f} -> {final[row, k]:.2f}"
        panels.append(Panel(fit(composite(crops[row]), width // 6 - 12), text))
    title = "Stage 2 sees each cell alone. Score from the map, score of the crop -> their mean, for six of the cells:"
    page = overlay_page(title, panels, [], HPA.names)
    out = np.full((page.shape[0], width, 3), 18, np.uint8)
    out[:, : min(width, page.shape[1])] = page[:, :width]
    return out


if __name__ == "__main__":
    main()
