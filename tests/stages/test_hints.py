"""What stages say of data that they do not expect leads on, with options that can be pasted."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsss
from wsss.core.checks import ConfigError, DataError
from wsss.data.catalog import DataSet
from wsss.prepare import main

GREY = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def prepare(images: Path, **options: object) -> DataSet:
    options |= {"images": images, "out": images.parent / "data", "size": 32, "workers": 0}
    assert main([f"--{name}={value}" for name, value in options.items()]) == 0
    return DataSet.open(images.parent / "data")


@pytest.mark.parametrize("names", [(), ("Hoechst 33342", "GFP", "Cy-5"), ("Channel 1", "Channel 2", "Channel 3")])
def test_the_channels_that_a_refusal_suggests_can_be_pasted(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "my images"
    folder.mkdir()
    if names:
        facts = {"axes": "CYX", "Channel": {"Name": list(names)}}
        tifffile.imwrite(folder / "a.ome.tif", np.stack([GREY] * 3), metadata=facts)
    else:
        Image.fromarray(np.dstack([GREY] * 3)).save(folder / "a.png")
    with pytest.raises(DataError, match="such as --channels") as refusal:
        prepare(folder)
    words = shlex.split(re.sub(r"[.,](?=\s|$)", "", str(refusal.value).split("such as ")[1]))
    data = prepare(folder, channels=words[words.index("--channels") + 1])
    assert (len(data.channels), data.ok.tolist()) == (3, [True])


def test_images_in_sub_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plate"
    (folder / "well 1").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("well 1/a.png", ".hidden/b.png"):
        Image.fromarray(GREY).save(folder / name)
    with pytest.raises(DataError, match=r"sub-folders do, which are not read \(well 1\).*--images '.*plate/well 1'"):
        prepare(folder, channels="nucleus")
    Image.fromarray(GREY).save(folder / "c.png")
    assert prepare(folder, channels="nucleus").ids == ["c"]
    assert "pictures in sub-folders are not read (well 1)" in capsys.readouterr().out


def test_channels_of_which_nothing_says_what_they_show_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a_DAPI", "a_GFP", "b_DAPI", "b_GFP"):
        Image.fromarray(GREY if name[0] == "a" else GREY**2).save(folder / f"{name}.png")
    (tmp_path / "labels.csv").write_text("ID,Label\na,1\nb,0\n")
    prepare(folder, channels="DAPI,GFP", labels=tmp_path / "labels.csv", folds=2)
    said = capsys.readouterr().out
    assert "note: nothing says what the channels show" in said
    assert "--roles nucleus=DAPI" in said
    assert "note: labels are read as the 19 classes of the Human Protein Atlas" in said
    with pytest.raises(DataError, match=r"prepared with --roles none, now it is nucleus=DAPI: .*--overwrite true"):
        prepare(folder, channels="DAPI,GFP", roles="nucleus=DAPI")
    prepare(folder, channels="DAPI,GFP", roles="nucleus=DAPI", overwrite="true")
    assert "note: no role for GFP" in capsys.readouterr().out


def test_several_options_that_are_missing_are_asked_for_together() -> None:
    with pytest.raises(ConfigError, match=r"--images, --out are missing: pass them\."):
        main([])


def test_paths_in_commands_of_messages_are_quoted() -> None:
    command = re.compile(r"wsss[. ][a-z]+[^\"\n]* --\w+ \{(?!pasted\()")
    package = Path(wsss.__file__).parent
    assert not {path.name for path in package.rglob("*.py") if command.search(path.read_text())}
