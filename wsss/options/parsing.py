"""From the words of the command line and the files behind --config to one instance of each of a stage's dataclasses."""

import dataclasses
import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, cast, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from wsss.core.checks import ConfigError, UserError
from wsss.core.console import OutputOptions, set_output
from wsss.core.files import OF_OPTIONS, check_seal, check_utf8, is_file
from wsss.core.reading import MOST_YAML, parse_yaml, read_yaml
from wsss.options.command_line import brief_help, parser_of, show_help
from wsss.options.configs import config_file
from wsss.options.renamed import FORMER_DEFAULTS, renamed_config, renamed_flags


def read_options(stage: str, module: ModuleType, words: Sequence[str] | None) -> list[Any]:
    """Read the options of a stage from words (those of the command line if None), one instance for each of OPTIONS.

    A stage with TASKS has options for each task; `choose` says from the words which task it is.

    Raises:
        ConfigError: an unknown or misshapen option, or one of another task.
    """
    words = list(sys.argv[1:] if words is None else words)
    for word in (*words, str(Path.cwd())):
        check_utf8(word, "of the command, or of the folder where it is started,")
    words = _current(words)
    if not hasattr(module, "TASKS"):
        parser = _kept_parser(stage, module)
        show_help(words, parser.format_help, parser)
        if hasattr(module, "read"):  # where reading takes more than parsing, and other defaults
            values: list[Any] = module.read(parser, words)
            return values
        return parse(parser, words, *module.OPTIONS)
    task = module.choose(words)
    parser = _kept_parser(stage, module, task)
    show_help(words, lambda: brief_help(parser), parser)
    return parse(parser, _of_task(words, module.TASKS, task), *module.TASKS[task])


_kept_parser = functools.cache(parser_of)
"""Making a parser takes longer than parsing with it: notebooks that run many stages make each once."""


def parse(parser: ArgumentParser, argv: Sequence[str] | None, *options: type) -> list[Any]:
    """Read flags and config files into one instance per dataclass of `options`.

    Flags may be written with '-' or '_'; a switch may stand alone, '--oof' for '--oof true'; several values may follow
    the flag of a list, '--preds A B'.

    Raises:
        ConfigError: an unknown or misshapen option.
    """
    known = list(_options(*options, OutputOptions))
    words = _gather(_complete(_current(sys.argv[1:] if argv is None else argv), known), known)
    _check_configs(words)
    _check_parts(words, known)
    _check_paths_given(words, known)
    values = parser.instantiate(parser.parse_args(words))
    _check_paths(values.as_dict())
    instances = [
        option(**{declared.name: _at_home(values[declared.name]) for declared in dataclasses.fields(option)})
        for option in (*options, OutputOptions)
    ]
    set_output(instances.pop(), parser.prog.rpartition(".")[2])
    return instances


class _Option(NamedTuple):
    """One field of a dataclass, or of one within it."""

    name: str
    """With dots for its groups."""
    kind: Any
    """Its type."""
    default: Any


def _options(*groups: type, above: str = "") -> Iterator[_Option]:
    """Yield every option of some dataclasses."""
    for group in groups:
        kinds = get_type_hints(group)
        for declared in dataclasses.fields(group):
            name, kind, factory = f"{above}{declared.name}", kinds[declared.name], declared.default_factory
            if dataclasses.is_dataclass(kind):
                yield from _options(cast(type, kind), above=f"{name}.")
            else:
                yield _Option(name, kind, declared.default if factory is dataclasses.MISSING else factory())


def _current(words: Sequence[str]) -> list[str]:
    """Return words with '_' for '-', '=' behind --config, and options, also those in its files, under today's names."""
    return _with_configs(renamed_flags(_joined([_underscores(word) for word in words])), renamed_config)


def _underscores(word: str) -> str:
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def _joined(words: Sequence[str]) -> list[str]:
    """Return words with '--config FILE' in one and in front, as flags override files; recipes named there as files."""
    out: list[str] = []
    for word in words:
        if out and out[-1] == "--config":
            out[-1] = f"--config={config_file(word)}"
        elif word.startswith("--config="):
            out.append(f"--config={config_file(word.removeprefix('--config='))}")
        else:
            out.append(word)
    return sorted(out, key=lambda word: not word.startswith("--config="))


def _with_configs(words: Sequence[str], change: Callable[[dict[str, Any], str], dict[str, Any]]) -> list[str]:
    """Return words with the files behind --config replaced by their changed content, where it changes.

    Args:
        change: takes the options of a file and its name.
    """
    out = []
    for word in words:
        values = _config_of(word)
        changed = None if values is None else change(values, word.partition("=")[2])
        out.append(word if changed == values else f"--config={json.dumps(changed)}")
    return out


def _config_of(word: str) -> dict[str, Any] | None:
    """Return the options in the file of '--config=FILE'; None for another word, or a file that the parser refuses."""
    name, _, path = word.partition("=")
    if name != "--config":
        return None
    try:
        values = parse_yaml(path, path) if path.startswith("{") else read_yaml(Path(path))
    except (OSError, UserError):
        return None
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else None


def first_value(words: Sequence[str], name: str) -> str | None:
    """Return the value that words, or the last file behind --config, give to an option at top level; None for none."""
    value: Any = None
    for word in words:
        value = (_config_of(word) or {}).get(name, value)
    for flag_word, after in itertools.pairwise([*words, None]):
        flag, equals, given = str(flag_word).partition("=")
        if flag == f"--{name}" and (equals or after is not None):
            value = given if equals else after
    return None if value is None else str(value)


def _of_task(words: Sequence[str], tasks: Mapping[str, Sequence[type]], task: str) -> list[str]:
    """Refuse options of other tasks; those that a file, such as a config.yaml of version 0.1.0, leaves as they are by
    default are dropped.
    """
    known = {option.name for option in _options(*tasks[task])}
    owners: dict[str, list[str]] = {}
    usual: dict[str, list[str]] = {}
    for other, groups in tasks.items():
        for name, _, default in _options(*groups):
            if name not in known:
                owners.setdefault(name, []).append(other)
                usual[name] = [_as_text(default), _as_text(FORMER_DEFAULTS.get(name, default))]

    def refuse(name: str) -> NoReturn:
        owner = " and ".join(owners.get(name) or next(o for n, o in owners.items() if n.startswith(f"{name}.")))
        raise ConfigError(
            f"--{name} is an option of task {owner}, not of {task}: leave it out, or pass another --task."
        )

    def keep_known(values: dict[str, Any], above: str = "") -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in values.items():
            name = f"{above}{key}"
            if name in owners:
                if _as_text(value) not in usual[name]:
                    refuse(name)
            elif isinstance(value, dict) and name not in known:
                part = keep_known(value, f"{name}.")
                kept |= {key: part} if part or not value else {}
            else:
                kept[key] = value
        return kept

    foreign = {name.partition(".")[0] for name in owners if "." in name} - {n.partition(".")[0] for n in known}
    for word in words:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and (name in owners or name in foreign):
            refuse(name)
    return _with_configs(words, lambda values, path: keep_known(values))


def _as_text(value: Any) -> str:
    return json.dumps(value, default=str)


def _complete(words: Sequence[str], options: Sequence[_Option]) -> list[str]:
    """Add 'true' behind switches that stand alone."""
    switches = {f"--{name}" for name, kind, _ in options if kind is bool or bool in get_args(kind)}
    out = []
    for word, after in itertools.pairwise([*words, "--"]):
        out += [word, "true"] if word in switches and after.startswith("--") else [word]
    return out


def _gather(words: Sequence[str], options: Sequence[_Option]) -> list[str]:
    """Turn the values behind the flag of a list into the one JSON text that the parser takes."""
    items = {  # of the list itself, or of the list in 'list or None'
        f"--{name}": get_args(variant)[0]
        for name, kind, _ in options
        for variant in (kind, *get_args(kind))
        if get_origin(variant) is list
    }
    out: list[str] = []
    rest = list(words)
    while rest:
        flag, word = out[-1] if out else "", rest[0]
        if flag in items and not word.startswith(("--", "[")) and word != "null":
            values = list(itertools.takewhile(lambda value: not value.startswith("--"), rest))
            plain = items[flag] in (int, float)  # numbers stand bare, texts in quotes
            out.append(f"[{', '.join(values)}]" if plain else json.dumps(values))
            rest = rest[len(values) :]
        else:
            out.append(rest.pop(0))
    return out


CODE = ("backbone", "encoder")
"""Options that may name a class, 'package.module:Class', whose code is then run."""


def _check_configs(words: Sequence[str]) -> None:
    """Read the files of --config within limits, before the parser reads them without any."""
    for word, after in itertools.pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name == "--config" and is_file(value):
            check_seal(Path(value), OF_OPTIONS, MOST_YAML)
            if not isinstance(read_yaml(Path(value), ConfigError), dict):
                raise ConfigError(f"{value} holds no options, expected 'name: value' in each line.")
        elif word.startswith("--") and (value or after).startswith("{"):  # a table
            parse_yaml(value or after, name, ConfigError)
    typed = {word.partition("=")[0] for word in words}
    for word, option in itertools.product(words, CODE):
        named = str((_config_of(word) or {}).get(option, ""))
        if re.fullmatch(r"[\w.]+:\w+", named) and f"--{option}" not in typed:
            raise ConfigError(
                f"--config names the {option} {named}, code that would be run: if you trust it, pass --{option} too."
            )


def _check_parts(words: Sequence[str], options: Sequence[_Option]) -> None:
    """Refuse a part of an option that has none, such as `--masks.category`."""
    defaults = {name: default for name, _, default in options}
    for word in words:
        above, _, part = word.removeprefix("--").partition("=")[0].rpartition(".")
        if word.startswith("--") and above in defaults and not isinstance(defaults[above], dict):
            hint = f"here it is --{part}" if part in defaults else "see --help"
            raise ConfigError(f"--{above}.{part} is no option: {hint}.")


def _check_paths_given(words: Sequence[str], options: Sequence[_Option]) -> None:
    """Refuse an empty text for a path, which would stand for the folder where the command is started."""
    paths = {name for name, kind, _ in options if "Path" in str(kind)}
    for word, after in itertools.pairwise([*words, None]):
        name, equals, value = str(word).removeprefix("--").partition("=")
        if str(word).startswith("--") and name in paths and (value if equals else after) == "":
            raise ConfigError(
                f"--{name} is empty: pass a path, or '.' for this folder (is a variable of the shell unset?)."
            )


def _check_paths(values: Any) -> None:
    """Refuse paths that no file can have, such as files behind --config may hold."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, dict | list | tuple):
            _check_paths(value)
        elif isinstance(value, Path) and "\0" in str(value):
            raise ConfigError(f"{str(value)!a} has a NUL character, which no path may have.")


def _at_home(value: Any) -> Any:
    """Return an option with '~', which shells leave as it is behind '=' and in files, as the folder that it means."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) and str(value)[:1] == "~" else value  # noqa: PTH111
