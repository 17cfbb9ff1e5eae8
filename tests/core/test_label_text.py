"""Labels as people write them."""

import pytest

from wsss.core.channels import channel_names, parse_roles, split_channel
from wsss.core.checks import ConfigError
from wsss.core.labels import ATLAS_TO_HPA, HPA, HPA_NAMES, ClassList, LabelReader

ATLAS = [
    ("Peroxisomes", 17),
    ("Lysosomes", 17),
    ("Endosomes", 17),
    ("Lipid droplets", 17),
    ("Cytoplasmic bodies", 17),
    ("Vesicles", 17),
    ("Cell Junctions", 13),
    ("Focal adhesion sites", 9),
    ("Centriolar satellite", 12),
    ("Microtubule ends", 10),
    ("Nucleoli rim", 2),
    ("No staining", 18),
]


SEPARATORS = [" & ", " + ", ":", "\\", "_", " - ", " and ", " || ", "\u00a6", "/", "\t", " \u2022 ", "\uff1b", "~"]


@pytest.mark.parametrize(
    "text",
    [
        "Nucleoplasm|Cytosol",
        "Cytosol;Nucleoplasm",
        "nucleoplasm, cytosol",
        "['Nucleoplasm', 'Cytosol']",
        "0|16",
        "0 16",
        "0.0|16.0",
        *(f"Nucleoplasm{sign}Cytosol" for sign in SEPARATORS),
    ],
)
def test_names_and_ids_are_read_with_any_common_separator(text: str) -> None:
    assert LabelReader(HPA).read(text) == ((0, 16), [])


def test_names_with_a_separator_in_them_stand_beside_others() -> None:
    reader = LabelReader(ClassList(("wild type", "knock-out, strong", "a|b|c", "d and e"), None))
    assert reader.read("knock-out, strong, wild type") == ((0, 1), [])
    assert reader.read("wild type,Knock-Out,strong") == ((0, 1), [])
    assert reader.read("a|b|c|wild type|a|b|c") == ((0, 2), [])
    assert reader.read("d and e and wild type") == ((0, 3), [])
    with pytest.raises(ValueError, match="'a'"):
        reader.read("wild type|a|b")


@pytest.mark.parametrize(
    ("names", "text"),
    [("GFP+,none", "GFP-"), ("0,1,2", "-1"), (">2,other", "<2"), ("CD4+ CD8-,none", "CD4- CD8+"), ("ER,Golgi", "ER?")],
)
def test_a_sign_makes_another_name(names: str, text: str) -> None:
    with pytest.raises(ValueError, match="neither a class id nor a class name"):
        LabelReader(ClassList(tuple(names.split(",")), None)).read(text)
    assert LabelReader(ClassList(("gfp+", "GFP-", "wild type"), None)).read("GFP+|gfp-|Wild-Type") == ((0, 1, 2), [])


def test_channels_that_differ_only_in_case_are_refused_and_roles_find_them_in_any() -> None:
    with pytest.raises(ConfigError, match="expected different names"):
        channel_names("DAPI,dapi")
    assert parse_roles("nucleus=dapi,signal=Gfp", ("DAPI", "GFP")) == ("nucleus", "signal")
    assert split_channel("a_w1_dapi", ("DAPI", "w1_DAPI")) == ("a", "w1_DAPI")
    assert split_channel("_dapi", ("DAPI",)) == ("_dapi", "")
    assert split_channel("c1-a.b", ("C1", "C12")) == ("a.b", "C1")
    assert split_channel("cell-1", ("cell",)) == ("cell-1", "")


def test_names_with_blanks_stay_whole() -> None:
    assert LabelReader(HPA).read("Golgi apparatus;Plasma membrane")[0] == (7, 13)


@pytest.mark.parametrize(("name", "wanted"), ATLAS)
def test_the_names_of_the_public_atlas_become_the_19_classes(name: str, wanted: int) -> None:
    assert LabelReader(HPA).read(name) == ((wanted,), [])
    assert LabelReader(HPA).read(name.upper()) == ((wanted,), [])


def test_locations_without_a_counterpart_are_given_back() -> None:
    assert LabelReader(HPA).read("Rods & Rings,Cytosol,Midbody") == ((16,), ["Rods & Rings", "Midbody"])


def test_every_synonym_means_a_class_that_exists() -> None:
    assert set(ATLAS_TO_HPA.values()) <= {*HPA_NAMES, None}
    assert not set(ATLAS_TO_HPA) & set(HPA_NAMES)


def test_ones_own_names_go_first_and_may_hold_separators() -> None:
    reader = LabelReader(ClassList(("a, b", "c", "Vesicles"), None))
    assert reader.read("a, b") == ((0,), [])
    assert reader.read("a, b|c") == ((0, 1), [])
    assert reader.read("vesicles") == ((2,), [])
    with pytest.raises(ValueError, match="'Lysosomes' is neither a class id nor a class name"):
        reader.read("Lysosomes")


def test_a_number_that_is_one_classes_id_and_anothers_name_is_refused() -> None:
    with pytest.raises(ValueError, match="id of one class and the name of another"):
        LabelReader(ClassList(("1", "2"), None)).read("1")
