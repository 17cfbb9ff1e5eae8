"""Predictions and preparation on a Ray cluster of two nodes, one of which is killed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsss import infer, prepare, segment, train
from wsss.core.checks import ConfigError
from wsss.core.runtime import connect
from wsss.inference import on_ray
from wsss.inference.on_ray import BATCHES, make_chunks
from wsss.options.infer import InferOptions

SIZE, IMAGES, CHANNELS = 64, 26, ("red", "green", "blue", "yellow")
CHUNKS = 2 * -(-IMAGES // 2 // BATCHES)
"""Of the two folds, with batches of one image."""
SMALL = {"object_store_memory": 80 * 2**20}


def test_chunks_hold_every_image_once_and_keep_the_batches() -> None:
    plan: Any = [([], list(range(50))), ([], list(range(60, 70)))]
    chunks = make_chunks(plan, [0, 1], 4, done=set(range(4)) | {9})
    batches = [(c.fold, c.indices[k : k + 4]) for c in chunks for k in range(0, len(c.indices), 4)]
    whole = [(0, list(range(b, min(b + 4, 50)))) for b in range(4, 50, 4)]
    whole += [(1, list(range(b, min(b + 4, 70)))) for b in range(60, 70, 4)]
    assert batches == whole, "a batch of which all are done is left out, one with some is done whole"
    assert max(len(chunk.indices) for chunk in chunks) == BATCHES * 4


def test_without_ray_the_message_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[ray\]'"):
        connect()


def test_an_engine_that_is_none_is_refused_and_shards_are_for_one_machine() -> None:
    with pytest.raises(ConfigError, match="expected one of local, ray"):
        InferOptions(Path("run"), engine="rai")
    with pytest.raises(ConfigError, match="leave --shard and --merge out"):
        InferOptions(Path("run"), engine="ray", shard="1/2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a Ray cluster of a head without cores."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 lets workers starve on a machine with other work
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write channel files and label maps of noisy images."""
    home = tmp_path_factory.mktemp("ray")
    rng = np.random.default_rng(0)
    (home / "images").mkdir()
    (home / "masks").mkdir()
    lines = ["ID,Label"]
    for n in range(IMAGES):
        for channel in CHANNELS:
            pixels = rng.integers(0, 200, (96, 80), np.uint8)
            Image.fromarray(pixels).save(home / f"images/im{n:02}_{channel}.png")
        cells = np.zeros((96, 80), np.uint16)
        cells[2:40, 2:30], cells[44:90, 8 + n : 60] = 2, 5
        Image.fromarray(cells).save(home / f"masks/im{n:02}.png")
        lines.append(f"im{n:02},{n % 2}")
    (home / "train.csv").write_text("\n".join(lines))
    return home


def bring_in(home: Path, name: str, *more: str) -> None:
    words = f"--images {home}/images --labels {home}/train.csv --out {home}/{name} --size {SIZE} --folds 2"
    assert prepare.main([*words.split(), *more]) == 0
    assert segment.main([*f"--data {home}/{name} --backend masks --masks {home}/masks".split(), *more]) == 0


def predict(home: Path, out: str, *more: str) -> int:
    words = f"--data {home}/local --run {home}/run --out {home}/{out} --device cpu --oof --batch 1 --parts"
    return infer.main([*words.split(), *more])


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != ".wsss"
    }


@pytest.fixture(scope="module")
def prepared(home: Path) -> Path:
    bring_in(home, "local")
    return home


@pytest.mark.slow
def test_a_cluster_gives_the_very_files_of_one_machine_though_a_node_is_killed(
    cluster: Any, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = prepared
    words = f"--data {home}/local --run {home}/run --fold all --backbone test_resnet --weights none --crop 64"
    train.main(f"{words} --batch 4 --epochs 1 --workers 0 --device cpu --crops.size 32".split())
    assert predict(home, "whole") == 0

    nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    cluster.wait_for_nodes()
    left: list[int] = []
    assign = on_ray._Crew.assign

    def assign_and_kill(crew: Any, waiting: Any) -> None:
        """Begin when both nodes are there; kill one when both are at work and half of the chunks are left."""
        if len(waiting) == CHUNKS and len(crew.idle) < 2:
            return
        assign(crew, waiting)
        at_work = [chunk for _, chunk in crew.busy.values() if chunk]
        if not left and len(waiting) <= CHUNKS // 2 and len(at_work) == 2:
            left.append(len(waiting))
            cluster.remove_node(nodes[1], allow_graceful=False)

    monkeypatch.setattr(on_ray._Crew, "assign", assign_and_kill)
    assert predict(home, "ray", "--engine", "ray") == 0
    assert left == [CHUNKS // 2]
    assert "its images are done again" in capsys.readouterr().out
    one, other = files(home / "whole"), files(home / "ray")
    assert one.keys() == other.keys()
    for path, content in one.items():
        assert other[path] == content, path


@pytest.mark.slow
def test_preparation_on_a_cluster_gives_the_very_pixels_and_maps(cluster: Any, prepared: Path) -> None:
    cluster.add_node(num_cpus=1, **SMALL)
    cluster.wait_for_nodes()
    bring_in(prepared, "spread", "--engine", "ray")
    one, other = files(prepared / "local"), files(prepared / "spread")
    assert one.keys() == other.keys()
    kept = [path for path in one if path.parts[0] in ("shards", "cells")]
    assert len(kept) > IMAGES
    for path in kept:
        assert other[path] == one[path], path
