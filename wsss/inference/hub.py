"""A run as a Hugging Face model: config.json, model.safetensors with all its networks, README.md with its figures."""

import html
import re
import tempfile
import warnings
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from timm.layers import Conv2dSame
from torch import Tensor, nn

from wsss.core.checks import ConfigError, DataError, install
from wsss.core.console import waiting
from wsss.core.files import as_read, check_own_length, digest_file, read_record, write_bytes, write_json, write_text
from wsss.core.hub import first_line, quick_hub
from wsss.feature_classifier.features import describe_features
from wsss.feature_classifier.store import load_feature_classifier
from wsss.inference.checkpoints import CamCheckpoint, cam_checkpoint, check_alike
from wsss.models.cam_net import CamNet
from wsss.models.device import Device
from wsss.models.weights import strip
from wsss.runs.record import NETWORK, check_network_record, fold_name, record_from
from wsss.runs.run_folder import RunFolder, first_of, read_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SENT = [CONFIG, WEIGHTS, CARD, "feature_classifier-*.safetensors"]
"""What a model consists of."""
FORMAT = 1
MOST_NETWORKS = 100
SHARED = ("classes", "negative", "channels", "size", "fold", "versions")
"""What of a network's record goes with it; IDs of training images, data and paths stay at home."""
IMAGES = ("roles", "bits")
"""What is said of the images where it is not the usual."""


def save_model(checkpoints: list[CamCheckpoint], run: Path, out: Path) -> None:
    """Write the networks of a run to the folder `out`, README.md with the figures of the run's own logs.

    Raises:
        DataError: the networks differ in classes, channels or size.
    """
    check_alike(checkpoints, str(run))
    names = [fold_name(checkpoint.fold) for checkpoint in checkpoints]
    if len(set(names)) != len(names):
        raise DataError(f"{run} holds several networks of one fold: pass the folder of one of them.")
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, checkpoint in zip(names, checkpoints, strict=True)
        for key, tensor in checkpoint.net.state_dict().items()
    }
    beside: list[Path] = []
    for name, checkpoint in zip(names, checkpoints, strict=True):
        if checkpoint.feature_classifier is not None:
            beside.append(out / _feature_classifier_file(name))
            write_bytes(beside[-1], RunFolder(checkpoint.path).feature_classifier.read_bytes())
    networks = [{"name": name, **_shared(checkpoint)} for name, checkpoint in zip(names, checkpoints, strict=True)]
    write_bytes(out / WEIGHTS, save(tensors, {"format": "pt"}))
    write_text(out / CARD, model_card(checkpoints, run.name))
    files = [WEIGHTS, *(path.name for path in beside)]
    config = {"library_name": "wsss", "model_type": "wsss-cam", "format": FORMAT, "networks": networks}
    write_json(out / CONFIG, config | {"files": {name: digest_file(out / name) for name in files}})


def _feature_classifier_file(name: str) -> str:
    return f"feature_classifier-{name}.safetensors"


def _shared(checkpoint: CamCheckpoint) -> dict[str, Any]:
    recipe = asdict(checkpoint.recipe)
    if recipe["weights"] not in ("hub", "package", "none"):
        recipe["weights"] = "none"  # a path of the maker's machine; the weights are in the model itself
    recipe["augment"] = Path(recipe["augment"]).name
    recipe["init_from"] = recipe["drs"]["refine_from"] = None
    record = {name: getattr(checkpoint.record, name) for name in SHARED}
    record |= {name: value for name in IMAGES if (value := getattr(checkpoint.record, name))}
    return as_read(record | {"recipe": recipe, "trained_on": len(checkpoint.record.train_ids)})


def is_model(folder: Path) -> bool:
    """Say whether a folder is laid out as `save_model` does it."""
    return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()


def load_model(folder: Path, device: Device) -> list[CamCheckpoint]:
    """Read the networks that `save_model` wrote.

    Raises:
        DataError: a file is missing, damaged, of another tool or of a later format.
    """
    where = folder / CONFIG
    config = read_record(where, newest=FORMAT, what="wsss model", again="export the run again")
    if config.get("library_name") != "wsss" or "format" not in config:
        raise DataError(f"{where} is not of a wsss model: export the run again.")
    networks = config.get("networks")
    if not isinstance(networks, list) or not 0 < len(networks) <= MOST_NETWORKS:
        raise DataError(f"{where} lists no networks, or more than {MOST_NETWORKS}: export the run again.")
    for facts in networks:
        _check_network(facts, where)
    files = config.get("files")  # none in models of older versions
    if files is not None:
        _check_files(folder, files)
    tensors = read_tensors(folder / WEIGHTS)
    digest = digest_file(folder / WEIGHTS)
    checkpoints = []
    for facts in networks:
        # Whose images reached it stayed at its maker's: nothing may be predicted out of fold with it.
        name = facts["name"]
        record = record_from(facts, folder / name, [], None, digest)
        kept = first_of(folder / _feature_classifier_file(name), folder / f"opinion-{name}.safetensors")
        features = tuple(describe_features(record.stains))
        feature_classifier = load_feature_classifier(kept, features) if _belongs(kept, files) else None
        weights = strip(tensors, f"{name}.")
        checkpoints.append(cam_checkpoint(record, weights, folder / WEIGHTS, device, feature_classifier))
    return checkpoints


def _check_network(facts: Any, where: Path) -> None:
    """Refuse the record of a network that is none."""
    if not isinstance(facts, dict) or not re.fullmatch(r"full|fold\d{1,4}", str(facts.get("name"))):
        raise DataError(f"{where} lists '{str(facts)[:80]}', expected networks named full, fold0, fold1, ...")
    check_network_record(facts, where, NETWORK)


def _check_files(folder: Path, files: Any) -> None:
    """Compare the files of a model with their digests."""
    if not isinstance(files, dict) or WEIGHTS not in files or any(Path(name).name != name for name in files):
        raise DataError(f"{folder / CONFIG} does not list the files of the model: export the run again.")
    for name, digest in files.items():
        path, again = folder / name, "fetch it again, or export the run again."
        if path.is_file():
            check_own_length(path, again.capitalize())
        if not path.is_file() or digest_file(path) != digest:
            raise DataError(f"{path} is missing or damaged: {again}")


def _belongs(path: Path, files: dict[str, str] | None) -> bool:
    return path.exists() if files is None else path.name in files


def push_model(folder: Path, repository: str) -> str:
    """Upload a model's folder to a Hugging Face repository, made if missing; return its address.

    Raises:
        ConfigError: it cannot be reached, or the upload is not allowed.
    """
    try:
        huggingface_hub.create_repo(repository, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=SENT)
    except (OSError, ValueError) as error:  # what the hub's client raises: network, rights, names
        raise ConfigError(
            f"{repository} could not be uploaded ({first_line(error)}). The model is complete in {folder}: once you "
            f"are online and logged in (hf auth login), run: hf upload {repository} {folder}"
        ) from error
    return f"https://huggingface.co/{repository}"


def pull_model(repository: str) -> Path:
    """Download a model from Hugging Face, or find it among those downloaded before; return its folder.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        with quick_hub():
            return Path(huggingface_hub.snapshot_download(repository, allow_patterns=SENT))
    except (OSError, ValueError) as error:  # what the hub's client raises: network, rights, names
        raise ConfigError(
            f"hf:{repository} could not be downloaded ({first_line(error)}): check the name and the network, or "
            "copy its folder here and load that."
        ) from error


FIGURES = {"val_loss": "validation loss", "val_map": "mAP of images", "val_f1": "F1 of images"}
"""Columns of log.csv that the card shows."""

HEAD = """\
---
library_name: wsss
tags:
- microscopy
- weakly-supervised
- class-activation-maps
- human-protein-atlas
---

# {name}

Labels with confidences for every cell of a fluorescence image, learnt from labels of whole images (Puzzle-CAM),
by wsss {version}.

## Use

```python
import wsss

model = wsss.load("folder of these files")
cells = model.predict(image)             # ({n_channels}, H, W): {channels}
cells = model.predict(image, label_map)  # with your own cells
```

One row a cell; the columns `0` to `{last}` are the scores of the classes below.
"""


def model_card(checkpoints: list[CamCheckpoint], name: str) -> str:
    """Return a README for the networks of the run called `name`; figures that no log holds are left out."""
    record, recipe = checkpoints[0].record, checkpoints[0].recipe
    parts = [
        HEAD.format(
            name=plain(name),
            version=record.versions["wsss"],
            n_channels=len(record.channels),
            channels=" ".join(", ".join(record.channels).replace("`", "'").split()),
            last=len(record.classes) - 1,
        ),
        "## Training\n",
        f"Backbone `{recipe.backbone}`, images of {record.size} px, crops of {recipe.crop or record.size} px, "
        f"puzzle of {recipe.puzzle.side} x {recipe.puzzle.side} tiles with weight {recipe.puzzle.weight:g}, "
        f"{recipe.optim.name} at {recipe.optim.lr:g}, batch {recipe.batch}, at most {recipe.epochs} epochs. "
        f"All options: `config.json`.\n",
        _figures(checkpoints),
        "Figures are of the images each network held out, at the epoch its weights are from; the labels they are "
        "compared with are those of whole images.\n",
        "## Classes\n",
        "\n".join(f"- `{k}` {plain(label)}" for k, label in enumerate(record.classes)) + "\n",
        "## Limits\n",
        "Scores are ranked confidences, no calibrated probabilities. Images of other microscopes, stains or cell "
        "lines than those trained on are outside what these figures say.\n",
    ]
    return "\n".join(parts)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: on one line, nothing of it taken for HTML, links or emphasis."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", escaped)


def _figures(checkpoints: list[CamCheckpoint]) -> str:
    rows = [_row(checkpoint) for checkpoint in checkpoints]
    shown = [column for column in FIGURES if any(column in row for row in rows)]
    head = ["network", "images trained on", "epoch", *(FIGURES[column] for column in shown)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([row["network"], row["images"], row["epoch"], *(row.get(column, "-") for column in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(checkpoint: CamCheckpoint) -> dict[str, str]:
    """Return the figures of the epoch whose weights are kept, as the log has them."""
    name = "all images" if checkpoint.fold is None else f"held out fold {checkpoint.fold}"
    row = {"network": name, "images": str(len(checkpoint.record.train_ids)), "epoch": "-"}
    log = _log(RunFolder(checkpoint.path))
    if log is None:
        return row
    held_out = "val_loss" in log and log["val_loss"].notna().any()
    best = int(log["val_loss"].fillna(float("inf")).to_numpy().argmin()) if held_out else len(log) - 1
    row["epoch"] = f"{log['epoch'].iloc[best]:g}"
    return row | {column: f"{log[column].iloc[best]:.4g}" for column in FIGURES if column in log}


def _log(folder: RunFolder) -> pd.DataFrame | None:
    if not (folder.path / "log.csv").exists():
        return None
    try:
        log = folder.read_log()
    except DataError as error:
        raise DataError(f"{error} Restore it, or delete it to leave its figures out.") from error
    return log if len(log) and "epoch" in log else None


TOLERANCE = 1e-3
"""Largest difference from PyTorch: of probabilities, and of class maps relative to their largest value."""
SAMPLES = ((1, 128, 128), (3, 192, 256))
"""Images, height and width of what is compared."""


class _Outputs(nn.Module):
    """The network with the two outputs that are exported."""

    def __init__(self, net: CamNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.net(images)
        return output.logits.sigmoid(), output.cam


def export_onnx(checkpoints: list[CamCheckpoint], out: Path) -> list[tuple[Path, float]]:
    """Write <out>/fold<k>.onnx for every network; return each file with its largest difference from PyTorch.

    Input `images`: (B, C, H, W) float32, 0..255, H and W multiples of 32. Outputs `probs` (B, K) and `cam`
    (B, K, h, w), raw class maps. B, H and W are free.

    Raises:
        ConfigError: the ONNX packages are not installed.
        DataError: the exported network does not agree with PyTorch.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--to onnx needs {error.name}: {install('onnx')}.") from error
    done = []
    for checkpoint in checkpoints:
        name = fold_name(checkpoint.fold)
        net = _Outputs(checkpoint.net).eval()
        with waiting(f"export {name}"):
            content = _convert(net, channels=len(checkpoint.record.channels))
            worst = _compare(content, net, len(checkpoint.record.channels))
        if not worst <= TOLERANCE:
            raise DataError(
                f"{checkpoint.path}: as ONNX it differs from PyTorch by {worst:.2g}, allowed is {TOLERANCE:g}."
            )
        write_bytes(out / f"{name}.onnx", content)
        done.append((out / f"{name}.onnx", worst))
    return done


_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")


def _fix_padding(net: nn.Module) -> None:
    """Give convolutions of TensorFlow's kind ('same') the padding that they need where sizes are multiples of 32.

    They compute it from the size of each image, which the exporter follows step by step: more than nine minutes for
    tf_efficientnet_lite0.
    """
    for name, module in list(net.named_children()):
        if isinstance(module, Conv2dSame):
            sides = zip(module.kernel_size, module.stride, module.dilation, strict=True)
            height, width = (max((k - 1) * d + 1 - s, 0) for k, s, d in sides)
            pad = nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2))
            sizes: Any = {key: getattr(module, key) for key in _CONV}
            conv = nn.Conv2d(**sizes, bias=module.bias is not None)
            conv.load_state_dict(module.state_dict())
            setattr(net, name, nn.Sequential(pad, conv))
        else:
            _fix_padding(module)


def _convert(net: nn.Module, channels: int) -> bytes:
    net = deepcopy(net)
    _fix_padding(net)
    free = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, channels, 128, 160)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter warns of its internals
        program: Any = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["probs", "cam"],
            dynamic_shapes={"images": {0: free, 2: free, 3: free}},
            verbose=False,
        )
        path = Path(folder) / "network.onnx"
        program.save(str(path))
        return path.read_bytes()


def _compare(content: bytes, net: nn.Module, channels: int) -> float:
    """Return the largest difference of both outputs over images of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random, worst = np.random.default_rng(0), 0.0
    for count, height, width in SAMPLES:
        images = random.random((count, channels, height, width), np.float32) * 255
        with torch.no_grad():
            probs, cam = (output.numpy() for output in net(torch.from_numpy(images)))
        found_probs, found_cam = session.run(None, {"images": images})
        scale = max(float(np.abs(cam).max()), 1e-6)
        worst = max(worst, float(np.abs(found_probs - probs).max()), float(np.abs(found_cam - cam).max()) / scale)
    return worst
