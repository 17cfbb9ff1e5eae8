"""The one command-line look of all stages: options are dataclasses, errors one line, exit codes the same everywhere.

Exit codes: 0 done; 1 done, but some images failed (they are listed), or a bug, with its traceback; 2 a mistake the user
can mend, a full disk or a killed worker; 130 interrupted by Ctrl-C; 143 ended by SIGTERM. After 2, 130 and 143 the same
command goes on from what is done.
"""

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import jsonargparse
from jsonargparse import ArgumentParser

from wsss.core.checks import ConfigError, nearest
from wsss.core.console import OutputOptions, tell_as
from wsss.core.files import is_file
from wsss.core.reading import read_yaml

EXIT_CODES = """\
exit codes:
  0 done; 1 done, but what failed is listed; 2 something for you to mend, told in one line;
  130 or 143 interrupted (Ctrl-C, SIGTERM): start the same command again to go on"""

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(ArgumentParser):
    """A parser whose errors are ConfigErrors of one line, with the nearest option name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's message as a ConfigError."""
        if isinstance(ex, ConfigError):
            raise ex
        text = " ".join(str(message).split())
        unknown = re.search(r"Option '([\w.+-]+)' is not accepted|[Uu]nrecognized arguments: -*([\w.+-]+)", text)
        name = (unknown.group(1) or unknown.group(2)) if unknown else ""
        names = [action.dest for action in self._actions]
        hint = (nearest(name, names) or nearest(name.split(".")[0], names)) if name else ""
        in_file = "is not accepted" in text
        newer = " If it stands in a file of a newer wsss, update wsss or take it out." if in_file else ""
        raise ConfigError(f"{text.rstrip('.')}.{hint}{newer} See --help.") from ex


def make_parser(stage: str, about: str, examples: str, *options: type) -> ArgumentParser:
    """Build the parser of a stage from its option dataclasses; every field is a flag and a key of --config."""
    parser = _Parser(
        prog=f"python -m wsss.{stage}",
        usage=f"python -m wsss.{stage} [options]",
        allow_abbrev=False,
        description=about,
        epilog=f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}",
        formatter_class=_formatter(),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options; flags override it.")
    for option in (*options, OutputOptions):
        parser.add_class_arguments(option, None)
    return parser


def _formatter() -> type:
    import argparse

    class Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keep the line breaks of the examples."""

    return Formatter


def parse(parser: ArgumentParser, argv: Sequence[str] | None, *options: type) -> list[Any]:
    """Read flags and config files into one instance per dataclass of `options`.

    Flags may be written with '-' or '_'; a switch may stand alone, '--oof' for '--oof true'; several values may follow
    the flag of a list, '--preds A B'.

    Raises:
        ConfigError: an unknown or misshapen option.
    """
    words = [_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    words = _gather(_complete(words, _switches((*options, OutputOptions))), _lists(options))
    _check_configs(words)
    values = parser.instantiate(parser.parse_args(words))
    found = [
        option(**{own.name: values[own.name] for own in dataclasses.fields(option)})
        for option in (*options, OutputOptions)
    ]
    tell_as(found.pop(), parser.prog.rpartition(".")[2])
    return found


def parser_of(stage: str, module: ModuleType) -> ArgumentParser:
    """Return the parser of a stage whose options are in `module`: its docstring, EXAMPLES and OPTIONS."""
    return make_parser(stage, module.__doc__ or "", module.EXAMPLES, *module.OPTIONS)


def read_options(stage: str, module: ModuleType, words: Sequence[str] | None) -> list[Any]:
    """Read the options of a stage from words (those of the command line if None), one instance for each of OPTIONS.

    Raises:
        ConfigError: an unknown or misshapen option.
    """
    parser = parser_of(stage, module)
    if hasattr(module, "read"):  # where reading takes more than parsing
        values: list[Any] = module.read(parser, words)
        return values
    return parse(parser, words, *module.OPTIONS)


def _check_configs(words: Sequence[str]) -> None:
    """Read the files of --config within limits, before the parser reads them without any.

    Raises:
        ConfigError: one is no YAML, or blows up.
    """
    for word, after in itertools.pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name == "--config" and is_file(value or after):
            read_yaml(Path(value or after), ConfigError)


def _switches(options: Sequence[type], prefix: str = "--") -> set[str]:
    """Return the flags of all fields that are true or false."""
    found: set[str] = set()
    for option in options:
        for name, kind in get_type_hints(option).items():
            if kind is bool:
                found.add(prefix + name)
            elif dataclasses.is_dataclass(kind):
                found |= _switches([cast(type, kind)], f"{prefix}{name}.")
    return found


def _complete(words: list[str], switches: set[str]) -> list[str]:
    """Add 'true' behind switches that stand alone."""
    following = [*words[1:], "--"]
    alone = [word in switches and after.startswith("--") for word, after in zip(words, following, strict=False)]
    return [part for word, bare in zip(words, alone, strict=True) for part in ([word, "true"] if bare else [word])]


def _lists(options: Sequence[type], prefix: str = "--") -> dict[str, type]:
    """Return the flags of all fields that are lists, each with the type of its items."""
    found: dict[str, type] = {}
    for option in options:
        for name, kind in get_type_hints(option).items():
            if dataclasses.is_dataclass(kind):
                found |= _lists([cast(type, kind)], f"{prefix}{name}.")
            for own in (kind, *get_args(kind)):  # the list itself, or the list in 'list or None'
                if get_origin(own) is list:
                    found[prefix + name] = get_args(own)[0]
    return found


def _gather(words: list[str], lists: dict[str, type]) -> list[str]:
    """Turn the values behind the flag of a list into the one JSON text that the parser takes."""
    out: list[str] = []
    for k, word in enumerate(words):
        flag = out[-1] if out else ""
        if flag in lists and not word.startswith(("--", "[")) and word != "null":
            behind = list(itertools.takewhile(lambda own: not own.startswith("--"), words[k:]))
            plain = lists[flag] in (int, float)  # numbers stand bare, texts in quotes
            items = f"[{', '.join(behind)}]" if plain else json.dumps(behind)
            return [*out, items, *_gather(words[k + len(behind) :], lists)]
        out.append(word)
    return out


def _underscores(word: str) -> str:
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value
