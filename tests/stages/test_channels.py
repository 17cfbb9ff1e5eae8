"""Any number of channels from files to tables, and given masks that are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import wsss
from wsss import doctor, evaluate, export, infer, overlay, prepare, report, segment, train
from wsss.core.checks import ConfigError
from wsss.core.label_maps import read_label_map
from wsss.core.runtime import version_of
from wsss.data.catalog import DataSet
from wsss.data.synthetic import draw_field

SIZE = 128
SETS = {
    "one": "DAPI",
    "rgb": "red,green,blue",
    "five": "nucleus=DAPI,signal=GFP,cell=Tubulin,Calnexin,Brightfield",
    "ten": "nucleus=DAPI,signal=GFP,cell=Tubulin,Calnexin,Brightfield,Mito,Actin,Golgi,Lipid,Phase",
}
ROLES = {"one": "nucleus=DAPI", "rgb": "", "five": "nucleus=nucleus,signal=signal,cell=cell+Calnexin", "ten": ""}


def write_set(folder: Path, kind: str, count: int = 4) -> list[np.ndarray]:
    """Write drawn fields in one of the forms; return their true label maps."""
    folder.mkdir()
    rng, truth = np.random.default_rng(0), []
    for n in range(count):
        field = draw_field(rng, SIZE, [(2,), (13,)][n % 2])
        red, green, blue, yellow = field.image
        truth.append(field.label_map)
        if kind == "one":
            Image.fromarray(blue).save(folder / f"i{n}_DAPI.png")
        elif kind == "rgb":
            Image.fromarray(np.stack([red, green, blue], axis=-1)).save(folder / f"i{n}.png")
        else:
            planes = np.stack([yellow, blue, red, np.full_like(red, 9), green]).astype(np.uint16) * 16
            names = ["Calnexin", "DAPI", "Tubulin", "Brightfield", "GFP"]
            if kind == "ten":
                names += ["Mito", "Actin", "Golgi", "Lipid", "Phase"]
                planes = np.concatenate([planes, planes // 2])
            tifffile.imwrite(folder / f"i{n}.ome.tif", planes, metadata={"axes": "CYX", "Channel": {"Name": names}})
    (folder / "train.csv").write_text("ID,Label\n" + "".join(f"i{n},{n % 2}\n" for n in range(count)))
    (folder / "classes.yaml").write_text("names: [dots, rim]\n")
    return truth


@pytest.mark.parametrize("kind", [pytest.param(n, marks=pytest.mark.slow) if n in ("rgb", "ten") else n for n in SETS])
def test_any_number_of_channels_goes_through_all_stages(kind: str, tmp_path: Path) -> None:
    images, data, run, preds = (tmp_path / name for name in ("images", "data", "run", "preds"))
    truth = write_set(images, kind)
    words = ["--images", str(images), "--labels", str(images / "train.csv"), "--classes", str(images / "classes.yaml")]
    words += ["--out", str(data), "--size", str(SIZE), "--folds", "2", "--workers", "0", "--channels", SETS[kind]]
    assert prepare.main([*words, *(["--roles", ROLES[kind]] if ROLES[kind] else [])]) == 0
    assert prepare.main([*words, *(["--roles", ROLES[kind]] if ROLES[kind] else [])]) == 0
    found = DataSet.open(data)
    roles = {"one": ("nucleus",), "rgb": ("cell", "signal", "nucleus"), "ten": ("nucleus", "signal", "cell", *[""] * 7)}
    roles["five"] = ("nucleus", "signal", "cell", "cell", "")
    assert json.loads((data / "dataset.json").read_text())["roles"] == list(roles[kind])
    assert found.roles == roles[kind]
    assert found.bits == (12 if kind in ("five", "ten") else None)
    assert segment.main(["--data", str(data), "--workers", "0"]) == 0
    maps = [read_label_map(data / "cells" / f"i{n}.png") for n in range(len(truth))]
    assert sum(m.max() for m in maps) >= 0.6 * sum(len(np.unique(t)) - 1 for t in truth)
    words = f"--data {data} --run {run} --fold 0 --backbone test_resnet --weights none --crop 64 --batch 2 --epochs 1"
    words += " --workers 0 --device cpu --crops.size 32 --feature_classifier.enabled true"
    words += "".join(f" --feature_classifier.weak.{few}" for few in ("folds 2", "rounds 1", "trees 8"))
    words += " --feature_classifier.copies 0"
    train.main(words.split())
    learnt = json.loads((run / "fold0/feature_classifier.json").read_text())
    assert ("shape_area" in {row["feature"] for row in learnt["importance"]}) == (kind == "one")
    assert infer.main(f"--data {data} --run {run} --out {preds} --device cpu".split()) == 0
    cells = pd.read_parquet(preds / "cells.parquet")
    assert len(cells) == sum(len(np.unique(m)) - 1 for m in maps)
    table = pd.DataFrame({"ID": cells.ID, "cell": cells.cell_id, "Label": [int(name[1:]) % 2 for name in cells.ID]})
    table.to_csv(tmp_path / "truth.csv", index=False)
    assert evaluate.main(f"--preds {preds} --truth {tmp_path / 'truth.csv'} --data {data} --join number".split()) == 0
    assert report.main(f"--preds {preds} --run {run} --out {tmp_path / 'r.html'}".split()) == 0
    assert overlay.main(f"--data {data} --preds {preds} --out {tmp_path / 'pictures'}".split()) == 0
    for form in ("geojson", "coco", "csv", *(["h5ad"] if version_of("anndata") else [])):
        out = tmp_path / "out" / {"geojson": "outlines", "coco": "cells.json"}.get(form, f"cells.{form}")
        assert export.main(f"--preds {preds} --data {data} --to {form} --out {out}".split()) == 0
        if form in ("geojson", "coco"):  # given back as masks, the same cells with the same numbers
            shutil.copytree(
                data, tmp_path / form, ignore=shutil.ignore_patterns("cells", "nuclei", "segment*", ".wsss")
            )
            words = f"--data {tmp_path / form} --backend masks --masks {out} --workers 0"
            assert segment.main(words.split()) == 0
            for n, wanted in enumerate(maps):
                found_again = DataSet.open(tmp_path / form).cells(n)
                np.testing.assert_array_equal(found_again, wanted)
    again = wsss.load(run, device="cpu").predict(np.array(found.image(0)), name="i0")
    assert again.cell_id.tolist() == cells.cell_id[cells.ID == "i0"].tolist()


def test_cells_are_nuclei_or_grown_and_a_cell_stain_alone_will_do(tmp_path: Path) -> None:
    truth = write_set(tmp_path / "images", "one", 2)
    data = tmp_path / "data"
    place = ["--images", str(tmp_path / "images"), "--size", str(SIZE), "--workers", "0", "--channels", "DAPI"]
    assert prepare.main([*place, "--out", str(data), "--roles", "nucleus=DAPI"]) == 0
    areas = []
    for more in ([], ["--grow", "0.5", "--overwrite"]):
        assert segment.main(["--data", str(data), "--workers", "0", *more]) == 0
        cells, nuclei = (read_label_map(data / kind / "i0.png") for kind in ("cells", "nuclei"))
        assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()
        areas.append(((cells > 0).sum(), (nuclei > 0).sum()))
    assert areas[0][0] == areas[0][1]
    assert areas[1][0] > 1.3 * areas[1][1]
    assert prepare.main([*place, "--out", str(tmp_path / "whole"), "--roles", "cell=DAPI"]) == 0
    assert segment.main(["--data", str(tmp_path / "whole"), "--workers", "0"]) == 0
    assert read_label_map(tmp_path / "whole/cells/i0.png").max() >= 0.5 * (len(np.unique(truth[0])) - 1)
    assert not (tmp_path / "whole/nuclei/i0.png").exists()
    with pytest.raises(ConfigError, match="unet looks at channels of the role nucleus and cell; the data set has cell"):
        segment.main(["--data", str(tmp_path / "whole"), "--backend", "unet"])
    assert prepare.main([*place, "--out", str(tmp_path / "none")]) == 0
    with pytest.raises(ConfigError, match=r"classical looks at .* the role nucleus or cell; the data set has none"):
        segment.main(["--data", str(tmp_path / "none")])


def test_one_channel_pictures_may_be_rgb_of_grey_with_transparency(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)).save(tmp_path / "in/a.png")
    words = ["--images", str(tmp_path / "in"), "--size", "32", "--workers", "0", "--out"]
    assert prepare.main([*words, str(tmp_path / "a"), "--channels", "DAPI"]) == 0
    np.testing.assert_array_equal(DataSet.open(tmp_path / "a").image(0)[0], grey)
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], axis=-1)).save(tmp_path / "in/a.png")
    assert prepare.main([*words, str(tmp_path / "b"), "--channels", "nucleus=blue,signal=green"]) == 0
    np.testing.assert_array_equal(DataSet.open(tmp_path / "b").image(0), [grey // 3, grey // 2])


def test_the_depth_is_that_of_the_set_and_a_dim_image_stays_dim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for n, top in enumerate((60_000, 50_000, 200)):
        plane = rng.integers(0, top, (32, 32)).astype(np.uint16)
        Image.fromarray(plane).save(tmp_path / f"in/i{n}_DAPI.png")
    words = ["--images", str(tmp_path / "in"), "--size", "32", "--workers", "0", "--channels", "DAPI", "--out"]
    assert prepare.main([*words, str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "1 of 3 images of 16-bit files use fewer than the 16 bits of the set" in told
    assert "i2 (largest value 199)" in told
    data = DataSet.open(tmp_path / "a")
    assert data.image(2).max() == 0
    assert data.bits == 16
    (tmp_path / "in/i0_DAPI.png").unlink()
    (tmp_path / "in/i1_DAPI.png").unlink()
    assert prepare.main([*words, str(tmp_path / "b"), "--bits", "10"]) == 0
    assert DataSet.open(tmp_path / "b").image(0).max() == 199 >> 2


def test_a_changed_file_that_needs_more_bits_puts_all_images_on_its_scale(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(2):
        Image.fromarray(np.full((32, 32), 1000 + n, np.uint16)).save(tmp_path / f"in/i{n}_DAPI.png")
    words = ["--images", str(tmp_path / "in"), "--size", "32", "--workers", "0", "--channels", "DAPI"]
    assert prepare.main([*words, "--out", str(tmp_path / "a")]) == 0
    assert DataSet.open(tmp_path / "a").image(0).max() == 1000 >> 2
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "in/i1_DAPI.png")
    assert prepare.main([*words, "--out", str(tmp_path / "a")]) == 0
    data = DataSet.open(tmp_path / "a")
    assert [data.image(i).max() for i in range(2)] == [1000 >> 8, 40_000 >> 8]


def test_given_masks_that_are_none_are_told_by_segment_and_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_set(tmp_path / "images", "one", 2)
    data, masks = tmp_path / "data", tmp_path / "masks"
    words = ["--images", str(tmp_path / "images"), "--out", str(data), "--size", str(SIZE), "--channels", "DAPI"]
    assert prepare.main([*words, "--workers", "0"]) == 0
    masks.mkdir()
    apart = np.zeros((SIZE, SIZE), np.uint8)
    apart[5:20, 5:20] = apart[5:20, 40:60] = apart[50:70, 10:30] = 255
    Image.fromarray(apart).save(masks / "i0.png")
    picture = Image.fromarray(1 - (truth[1] > 0).astype(np.uint8), "P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(masks / "i1.PNG")
    words = ["--data", str(data), "--backend", "masks", "--masks", str(masks), "--workers", "0"]
    assert segment.main(words) == 0
    told = capsys.readouterr().out
    assert "images (i0" in told
    assert "one label is many pieces" in told
    assert "places in a table of colours" in told
    assert doctor.main(["--data", str(data)]) == 0
    assert "one label is many pieces" in capsys.readouterr().out
    assert segment.main([*words, "--split", "--overwrite"]) == 0
    assert read_label_map(data / "cells/i0.png").max() == 3
    with pytest.raises(ConfigError, match="--split changes nothing with --backend auto"):
        segment.main(["--data", str(data), "--split"])
