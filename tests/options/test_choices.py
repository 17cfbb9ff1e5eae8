"""A value outside the choices of an option is refused however its dataclass is made."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from wsss import options
from wsss.core.checks import ConfigError
from wsss.options.recipe import OptimConfig
from wsss.options.train import TrainOptions


def literals() -> Iterator[tuple[type, str]]:
    """Yield class and name of every option with choices."""
    for module in pkgutil.iter_modules(options.__path__):
        for name, kind in vars(importlib.import_module(f"wsss.options.{module.name}")).items():
            if dataclasses.is_dataclass(kind) and isinstance(kind, type) and name[0] != "_":
                for option, hint in get_type_hints(kind).items():
                    if any(get_origin(part) is Literal for part in (hint, *get_args(hint))):
                        yield kind, option


@pytest.mark.parametrize(("kind", "option"), sorted(set(literals()), key=str))
def test_a_value_that_is_no_choice_is_refused(kind: type[Any], option: str) -> None:
    needed = {
        declared.name: Path("x")
        for declared in dataclasses.fields(kind)
        if declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
    }
    with pytest.raises(ConfigError, match=rf"{option} is 'adamm', expected one of"):
        kind(**needed | {option: "adamm"})


def test_the_message_names_the_option_and_the_nearest_choice() -> None:
    with pytest.raises(ConfigError, match=r"optim.name is 'adamm', expected one of adam, .*Did you mean 'adam"):
        OptimConfig(name="adamm")  # type: ignore[arg-type]


def test_another_type_of_a_union_is_taken() -> None:
    assert TrainOptions(fold=3).fold == 3
    assert TrainOptions(fold="all").fold == "all"
    with pytest.raises(ConfigError, match="fold is 'every', expected one of all, none"):
        TrainOptions(fold="every")  # type: ignore[arg-type]
