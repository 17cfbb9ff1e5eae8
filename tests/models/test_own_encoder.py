"""An encoder of the user's own: the example of the docs, and what is refused."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from wsss import infer, train
from wsss.core.checks import ConfigError, DataError
from wsss.models.encoder import build_encoder, source_digest
from wsss.models.unet import build_unet
from wsss.options.masks import UnetConfig
from wsss.options.recipe import MaskRecipe

DOCS = Path(__file__).parents[2] / "docs" / "unet.md"


class Odd(nn.Module):
    """Maps of 31 x 31 from 64 x 64."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, 3, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layer(images)]


class Backwards(nn.Module):
    """Maps from coarse to fine."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.layer(images)
        return [nn.functional.avg_pool2d(fine, 4), nn.functional.avg_pool2d(fine, 2)]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example of the docs as a module that can be imported."""
    example = re.search(r"```python\n(# tiny\.py\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "tiny_of_docs.py").write_text(example[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_of_docs", raising=False)  # of another test
    return "tiny_of_docs:Tiny"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_option_of_the_decoder_works_on_the_example(tiny: str, channels: int) -> None:
    config = UnetConfig(
        channels=[16, 8, 4],
        attention="scse",
        gates=True,
        hypercolumn=True,
        deep_supervision=True,
        upsample="transposed",
    )
    net = build_unet(MaskRecipe(backbone=tiny, weights="none", unet=config), channels=channels, outputs=2)
    output = net(torch.rand(2, channels, 33, 50) * 255)
    assert output.logits.shape == (2, 2, 33, 50)
    assert [own.shape for own in output.side] == [output.logits.shape] * 2
    (output.logits.mean() + torch.stack(output.side).mean()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert net.mean.flatten().tolist() == [127.5] * channels


def squares(folder: Path) -> None:
    """Draw five images with masks."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for k in range(5):
            picture = np.zeros((32, 32), np.uint8)
            picture[8:20, k : k + 12] = 255
            Image.fromarray(picture).save(folder / kind / f"{k}.png")


def test_the_example_is_trained_and_asked_by_the_commands(tiny: str, tmp_path: Path) -> None:
    squares(tmp_path / "data")
    common = ["--data", str(tmp_path / "data"), "--run", str(tmp_path / "run"), "--device", "cpu"]
    flags = ["--backbone", tiny, "--weights", "none", "--unet.channels", "[8,8,4]", "--crop", "32", "--epochs", "1"]
    train_it = ["--task", "masks", *common, *flags, "--fold", "none", "--workers", "0", "--batch", "2"]
    infer_it = [*common, "--out", str(tmp_path / "preds"), "--encoder", tiny]
    assert train.main(train_it) == 0
    with pytest.raises(ConfigError, match=f"code that would be run .*: if you trust it, pass --encoder {tiny}"):
        infer.main(infer_it[:-2])
    with pytest.raises(ConfigError, match=r"--encoder is os:getcwd, but .* was trained with the backbone tiny_of_docs"):
        infer.main([*infer_it[:-1], "os:getcwd"])
    assert infer.main(infer_it) == 0
    assert len(list((tmp_path / "preds" / "masks").iterdir())) == 5
    assert (train.main(train_it), infer.main(infer_it)) == (0, 0), "nothing to do"

    source = tmp_path / "tiny_of_docs.py"
    source.write_text(source.read_text().replace("nn.ReLU()", "nn.GELU()"))
    with pytest.raises(DataError, match="begun with another encoder: the source code of tiny_of_docs:Tiny has changed"):
        train.main(train_it)
    with pytest.raises(DataError, match=r"source code of the encoder tiny_of_docs:Tiny has changed since .*run"):
        infer.main(infer_it)


def test_a_config_file_does_not_start_code_that_the_command_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: ...\n")
    for text in ('backbone: "strange:Net"', '{"backbone": "strange:Net"}'):
        config = tmp_path / "c.yaml"
        config.write_text(text)
        for given in (str(config), '{"backbone": "strange:Net"}'):
            with pytest.raises(ConfigError, match="code that would be run: if you trust it, pass --backbone too"):
                train.main(["--task", "masks", "--data", str(tmp_path), "--config", given])
    assert not (tmp_path / "ran").exists()
    squares(tmp_path / "data")
    words = f"--task masks --data {tmp_path}/data --run {tmp_path}/run --weights none --config {config}".split()
    with pytest.raises(ConfigError, match="is no class of torch"):
        train.main([*words, "--backbone", "strange:Net"])


def test_the_code_that_an_encoder_imports_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "net_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text("WIDTH = 3\n\n\ndef block(): ...\n")
    (package / "net.py").write_text("from torch import nn\nfrom .blocks import block\n\nclass Net(nn.Module): ...\n")
    (package / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_digest("net_of_test.net:Net")
    (package / "other.py").write_text("a = 1\n")
    assert source_digest("net_of_test.net:Net") == before, "what is not imported does not count"
    (package / "blocks.py").write_text("WIDTH = 4\n\n\ndef block(): ...\n")
    assert source_digest("net_of_test.net:Net") != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Net", "cannot be imported"),
        (f"{__name__}:Missing", "cannot be imported"),
        ("os:getcwd", "is no class of torch.nn.Module"),
        (f"{__name__}:Odd", r"makes maps of \[\(31, 31\)\] from 64 x 64 px"),
        (f"{__name__}:Backwards", r"strides \[4, 2\], expected one or more from fine to coarse"),
    ],
)
def test_what_is_no_encoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(name, channels=3)


def test_weights_of_a_hub_and_the_stems_pooling_are_refused(tiny: str) -> None:
    with pytest.raises(ConfigError, match="no hub carries weights"):
        build_encoder(tiny, channels=3, weights="hub")
    with pytest.raises(ConfigError, match=r"unet\.stem_pool"):
        build_encoder(tiny, channels=3, stem_pool=False)
