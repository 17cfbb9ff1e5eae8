"""The command line: flags, config files, one-line errors, exit codes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wsss import cli
from wsss.core.checks import ConfigError, DataError, check_range
from wsss.options.command_line import make_parser
from wsss.options.parsing import parse, read_options
from wsss.options.scoring import CropConfig, ScoreConfig


@dataclass(frozen=True)
class Inner:
    side: int = 2
    """Tiles per side."""

    def __post_init__(self) -> None:
        check_range("inner.side", self.side, 1)


@dataclass(frozen=True)
class Options:
    data: Path
    """Folder."""
    rate: float = 0.5
    """Rate."""
    oof: bool = False
    """Switch."""
    inner: Inner = field(default_factory=Inner)
    """More."""


def read(*words: str) -> Options:
    parser = make_parser("stage", "About.", "  example", Options)
    return parse(parser, words, Options)[0]


def test_flags_reach_nested_options() -> None:
    assert read("--data", "x", "--inner.side", "3") == Options(Path("x"), inner=Inner(3))


def test_a_config_file_is_overridden_by_flags(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: y\nrate: 0.1\ninner: {side: 4}\n")
    assert read("--config", str(tmp_path / "c.yaml"), "--rate", "0.2") == Options(Path("y"), 0.2, inner=Inner(4))
    assert read("--rate", "0.2", "--config", str(tmp_path / "c.yaml")) == Options(Path("y"), 0.2, inner=Inner(4))


@pytest.mark.parametrize("words", [["--oof"], ["--oof", "true"], ["--oof=true"]])
def test_a_switch_may_stand_alone(words: list[str]) -> None:
    assert read("--data", "x", *words).oof
    assert read(*words, "--data", "x").oof


def test_false_means_false() -> None:
    assert not read("--data", "x", "--oof", "false").oof


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "x", "--rat", "1"], "Did you mean 'rate'"),
        (["--data", "x", "--inner.sied", "1"], "Did you mean 'inner.side'"),
        (["--data", "x", "--rate", "fast"], "^--rate is 'fast', expected a number.$"),
        (["--data", "x", "--data.rate", "1"], "^--data.rate is no option: here it is --rate.$"),
        (["--data", "x", "--rate.x", "1"], "^--rate.x is no option: see --help.$"),
        (["--data", "x", "--inner.side", "0"], "inner.side is 0, expected at least 1"),
        ([], "data"),
    ],
)
def test_a_wrong_option_is_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read(*words)
    assert "\n" not in str(error.value)


def test_an_unknown_key_of_a_config_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: y\nraet: 0.1\n")
    with pytest.raises(ConfigError, match="Did you mean 'rate'"):
        read("--config", str(tmp_path / "c.yaml"))


def test_yaml_tags_do_not_run(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"data: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError):
        read("--config", str(tmp_path / "c.yaml"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("row 3 is empty"), 2, "error: row 3 is empty\n"),
        (KeyboardInterrupt(), 130, "interrupted: start the same command again to go on from here.\n"),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str] | None) -> int:
        raise error

    with pytest.raises(SystemExit) as exit_:
        cli.run(main, [])
    assert exit_.value.code == code
    assert capsys.readouterr().err == text


def test_a_bug_keeps_its_traceback() -> None:
    def main(argv: Sequence[str] | None) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run(main, [])


@dataclass(frozen=True)
class Several:
    names: list[Path]
    """Names."""
    deep: bool = False
    """Deep."""


@pytest.mark.parametrize("text", ["--names a b c --deep", "--deep --names a b c", '--names ["a","b","c"] --deep true'])
def test_several_values_may_follow_a_list_flag(text: str) -> None:
    parser = make_parser("stage", "", "", Several)
    (found,) = parse(parser, text.split(), Several)
    assert found == Several([Path("a"), Path("b"), Path("c")], True)


def test_a_list_flag_keeps_values_that_look_like_other_things() -> None:
    parser = make_parser("stage", "", "", Several)
    (found,) = parse(parser, ["--names", "1", "a b", "null"], Several)
    assert found.names == [Path("1"), Path("a b"), Path("null")]


@dataclass(frozen=True)
class Scales:
    scales: list[float] = field(default_factory=lambda: [1.0])
    """Scales."""
    weights: list[float] | None = None
    """Weights."""


@dataclass(frozen=True)
class Views:
    tta: Scales = field(default_factory=Scales)
    """Views."""


@pytest.mark.parametrize("scales", ["1 0.75", "[1,0.75]", "1.0 7.5e-1"])
@pytest.mark.parametrize(("weights", "wanted"), [("2 3", [2.0, 3.0]), ("null", None)])
def test_numbers_may_follow_a_nested_list_flag(scales: str, weights: str, wanted: list[float] | None) -> None:
    words = f"--tta.scales {scales} --tta.weights {weights}".split()
    (found,) = parse(make_parser("stage", "", "", Views), words, Views)
    assert found == Views(Scales([1.0, 0.75], wanted))


WORDS = [("train", "--out", "--run"), ("report", "--predictions", "--preds")]


@pytest.mark.parametrize(("stage", "word", "meant"), WORDS)
def test_a_name_of_another_stage_is_answered_with_the_one_here(stage: str, word: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Here it is {meant}"):
        read_options(stage, cli.options_of(stage), [word, "x"])


def test_the_rules_of_one_run_are_no_defaults_for_the_next(tmp_path: Path) -> None:
    for name, text in (("top", "score: {region: topk}\ncrops: {size: 48}\n"), ("plain", "seed: 1\n")):
        (tmp_path / name / "fold0").mkdir(parents=True)
        (tmp_path / name / "fold0/config.yaml").write_text(text)
    found = [read_options("infer", cli.options_of("infer"), ["--run", f"{tmp_path}/{n}"])[0] for n in ("top", "plain")]
    assert [(options.score.region, options.crops.size) for options in found] == [
        ("topk", 48),
        (ScoreConfig().region, CropConfig().size),
    ]
