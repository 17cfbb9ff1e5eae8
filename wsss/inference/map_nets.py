"""U-Nets of class maps beside a classifier's networks: whose maps go into whose scores."""

from dataclasses import replace

from wsss.core.checks import ConfigError, DataError, some
from wsss.core.device import Device
from wsss.core.files import digest_file, digest_json, read_lines
from wsss.core.run_facts import check_facts
from wsss.inference.members import MapNet, Member
from wsss.models.unet import build_unet
from wsss.models.weights import load_weights, strip
from wsss.options.recipe import recipe_from
from wsss.runs.checkpoint import load_checkpoint
from wsss.runs.run_folder import RunFolder


def load_map_net(folder: RunFolder, device: Device) -> MapNet:
    """Load one network with its record.

    Raises:
        DataError: a file is missing or damaged, is of another task, or train_ids.txt is not that of the checkpoint.
    """
    tensors, facts = load_checkpoint(folder.best)
    check_facts(facts, folder.best, ("recipe", "fold", "classes", "channels", "train_ids"))
    recipe = recipe_from(facts["recipe"], str(folder.best))
    if recipe.task != "maps":
        raise DataError(f"{folder.path} was trained for the task '{recipe.task}', expected maps.")
    net = build_unet(recipe, channels=len(facts["channels"]), outputs=len(facts["classes"]), pretrained=False)
    load_weights(net, strip(tensors, "net."))
    ids = read_lines(folder.ids) if folder.ids.exists() else []
    if digest_json(ids) != facts["train_ids"]:
        raise DataError(f"{folder.ids} is missing or changed: it is not the list {folder.best} was trained on.")
    net = device.settle(net).eval()
    return MapNet(folder.path, facts["fold"], net, facts, frozenset(ids), digest_file(folder.best))


def pair(members: list[Member], nets: list[MapNet], *, oof: bool) -> list[Member]:
    """Give each network of a classifier the U-Nets that held out the same fold; else those that held out none.

    Raises:
        ConfigError: there is none for a network.
        DataError: it is for other classes, channels or sizes; or, out of fold, labels have reached it that the
            classifier never saw.
    """
    found = []
    for member in members:
        own = [net for net in nets if net.fold == member.fold] or [net for net in nets if net.fold is None]
        if not own:
            raise ConfigError(f"no U-Net held out fold {member.fold}, as {member.path} did: train it with that --fold.")
        for net in own:
            _check(net, member, oof=oof)
        found.append(replace(member, unets=tuple(own)))
    return found


def _check(net: MapNet, member: Member, *, oof: bool) -> None:
    for name in ("classes", "channels", "size", *(["data"] if oof else [])):
        if net.facts[name] != member.facts[name]:
            raise DataError(f"{net.path} and {member.path} were trained on other {name}: choose runs of one data set.")
    if oof and (seen := sorted(net.train_ids - member.train_ids)):
        raise DataError(
            f"labels of {some(seen)} have reached {net.path}, which {member.path} holds out: its maps would not be out "
            "of fold. Make pseudo-masks without --oof and train one U-Net a fold."
        )
