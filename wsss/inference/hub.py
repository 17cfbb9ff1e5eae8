"""A run as a Hugging Face model: config.json, model.safetensors with all its networks, README.md with its figures."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from wsss.core.checks import ConfigError, DataError
from wsss.core.device import Device
from wsss.core.files import as_read, digest_file, read_json, write_bytes, write_json, write_text
from wsss.feature_classifier.features import FEATURES
from wsss.feature_classifier.store import load_feature_classifier
from wsss.inference.checkpoints import CamCheckpoint, load_self_trained
from wsss.inference.model_card import model_card
from wsss.inference.one_image import check_alike
from wsss.models.cam_net import build_cam_net
from wsss.models.weights import load_weights, strip
from wsss.runs.checkpoint import read_tensors
from wsss.runs.record import record_from
from wsss.runs.run_folder import RunFolder

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SENT = [CONFIG, WEIGHTS, CARD, "feature_classifier-*.safetensors", "self_trained-*.safetensors"]
"""What a model consists of."""
FORMAT = 1
SHARED = ("classes", "negative", "channels", "size", "fold", "versions")
"""What of a network's record goes with it; IDs of training images, data and paths stay at home."""


def save_model(members: list[CamCheckpoint], run: Path, out: Path) -> None:
    """Write the networks of a run to the folder `out`, README.md with the figures of the run's own logs.

    Raises:
        DataError: the networks differ in classes, channels or size.
    """
    check_alike(members, str(run))
    names = ["full" if member.fold is None else f"fold{member.fold}" for member in members]
    if len(set(names)) != len(names):
        raise DataError(f"{run} holds several networks of one fold: pass the folder of one of them.")
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, member in zip(names, members, strict=True)
        for key, tensor in member.net.state_dict().items()
    }
    for name, member in zip(names, members, strict=True):
        if member.feature_classifier is not None:
            write_bytes(out / _feature_classifier_file(name), RunFolder(member.path).feature_classifier.read_bytes())
        if member.self_trained is not None:
            write_bytes(out / _self_trained_file(name), RunFolder(member.path).self_trained.read_bytes())
    networks = [{"name": name, **_shared(member)} for name, member in zip(names, members, strict=True)]
    write_bytes(out / WEIGHTS, save(tensors, {"format": "pt"}))
    write_text(out / CARD, model_card(members, run.name))
    write_json(out / CONFIG, {"library_name": "wsss", "model_type": "wsss-cam", "format": FORMAT, "networks": networks})


def _feature_classifier_file(name: str) -> str:
    return f"feature_classifier-{name}.safetensors"


def _self_trained_file(name: str) -> str:
    return f"self_trained-{name}.safetensors"


def _shared(member: CamCheckpoint) -> dict[str, Any]:
    recipe = asdict(member.recipe)
    if recipe["weights"] not in ("hub", "package", "none"):
        recipe["weights"] = "none"  # a path of the maker's machine; the weights are in the model itself
    recipe["augment"] = Path(recipe["augment"]).name
    recipe["init_from"] = recipe["drs"]["refine_from"] = None
    record = {name: getattr(member.record, name) for name in SHARED}
    return as_read(record | {"recipe": recipe, "trained_on": len(member.record.train_ids)})


def is_model(folder: Path) -> bool:
    """Say whether a folder is laid out as `save_model` does it."""
    return (folder / CONFIG).exists() and (folder / WEIGHTS).exists()


def load_model(folder: Path, device: Device) -> list[CamCheckpoint]:
    """Read the networks that `save_model` wrote.

    Raises:
        DataError: a file is missing, damaged, of another tool or of a later format.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("library_name") != "wsss" or config.get("format") != FORMAT:
        raise DataError(f"{folder / CONFIG} is not of a wsss model of format {FORMAT}: export the run again.")
    tensors = read_tensors(folder / WEIGHTS)
    digest = digest_file(folder / WEIGHTS)
    members = []
    for facts in config["networks"]:
        # Whose images reached it stayed at its maker's: nothing may be predicted out of fold with it.
        record = record_from(facts, folder / facts["name"], [], None, digest)
        net = build_cam_net(record.recipe, channels=len(record.channels), classes=len(record.classes), pretrained=False)
        load_weights(net, strip(tensors, f"{facts['name']}."))
        net = net.to(device.place).eval()
        kept = folder / _feature_classifier_file(facts["name"])
        feature_classifier = load_feature_classifier(kept, FEATURES) if kept.exists() else None
        kept = folder / _self_trained_file(facts["name"])
        self_trained = load_self_trained(kept, record, device)[0] if kept.exists() else None
        members.append(CamCheckpoint(record, net, feature_classifier, self_trained))
    return members


def push_model(folder: Path, repository: str) -> str:
    """Upload a model's folder to a Hugging Face repository, made if missing; return its address.

    Raises:
        ConfigError: it cannot be reached, or the upload is not allowed.
    """
    import huggingface_hub

    try:
        huggingface_hub.create_repo(repository, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=SENT)
    except (OSError, ValueError) as error:  # what the hub's client raises: network, rights, names
        raise ConfigError(
            f"{repository} could not be uploaded ({_first_line(error)}). The model is complete in {folder}: once you "
            f"are online and logged in (hf auth login), run: hf upload {repository} {folder}"
        ) from error
    return f"https://huggingface.co/{repository}"


def pull_model(repository: str) -> Path:
    """Download a model from Hugging Face, or find it among those downloaded before; return its folder.

    Raises:
        ConfigError: it cannot be had.
    """
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=SENT))
    except (OSError, ValueError) as error:  # what the hub's client raises: network, rights, names
        raise ConfigError(
            f"hf:{repository} could not be downloaded ({_first_line(error)}): check the name and the network, or "
            "copy its folder here and load that."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
