"""Every number that an option gives has bounds: NaN, infinity and absurd values are refused before any work."""

import pkgutil
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

import pytest

import wsss.options
from wsss.core.checks import ConfigError, check_range

CHECKED_OTHERWISE = {
    ("Shard", "number"),
    ("Shard", "count"),
    ("ScoreConfig", "nuclear_classes"),
    ("MaskLossConfig", "terms"),
    ("MaskLossConfig", "later"),
    ("ClassifyRecipe", "output_stride"),
}


def numbers() -> list[tuple[str, str, Any]]:
    """Return class, field and declaration of every number among the options."""
    found = []
    for module in pkgutil.iter_modules(wsss.options.__path__):
        for kind in vars(import_module(f"wsss.options.{module.name}")).values():
            if not isinstance(kind, type) or not is_dataclass(kind):
                continue
            hints = get_type_hints(kind)
            for declared in fields(kind):
                hint = hints[declared.name]
                kinds = {hint, *get_args(hint), *(part for inner in get_args(hint) for part in get_args(inner))}
                if kinds & {int, float}:
                    found.append((kind.__name__, declared.name, declared))
    return found


def test_every_number_has_bounds() -> None:
    lacking = {(kind, name) for kind, name, declared in numbers() if "bounds" not in declared.metadata}
    assert lacking == CHECKED_OTHERWISE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 10**30])
def test_no_bounds_hold_what_is_no_number_of_any_use(value: float) -> None:
    for kind, name, declared in numbers():
        if "bounds" in declared.metadata:
            with pytest.raises(ConfigError, match="expected"):
                check_range(f"{kind}.{name}", value, *declared.metadata["bounds"])
