"""The one command-line look of all stages: options are dataclasses, errors one line, exit codes the same everywhere.

Exit codes: 0 done; 1 done, but some images failed (they are listed), or a bug, with its traceback; 2 a mistake the user
can fix, a full disk or a killed worker; 130 interrupted by Ctrl-C; 143 ended by SIGTERM. After 2, 130 and 143 the same
command goes on from what is done.
"""

import argparse
import dataclasses
import itertools
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import jsonargparse
from jsonargparse import ArgumentParser

from wsss.core.checks import ConfigError, UserError, nearest
from wsss.core.console import OutputOptions, say, set_output
from wsss.core.files import OF_OPTIONS, check_seal, check_utf8, is_file
from wsss.core.reading import MOST_YAML, parse_yaml, read_yaml
from wsss.options.configs import config_file
from wsss.options.renamed import FORMER_DEFAULTS, renamed_config, renamed_flags

EXIT_CODES = """\
exit codes:
  0 done; 1 done, but what failed is listed; 2 something for you to fix, shown in one line;
  130 or 143 interrupted (Ctrl-C, SIGTERM): start the same command again to go on"""

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


INSTEAD = {"out": "run", "run": "out", "output": "out", "model": "run", "dataset": "data", "predictions": "preds"}
"""Names that people try -> the option that is called so in some stages."""


_MISFIT = re.compile(r'Parser key "([\w.]+)": (.*)(?:Got|Given) value:\s?(.*)')
"""What jsonargparse says of a value of the wrong kind."""
_NO_PATH = re.compile(r'Parser key "([\w.]+)": Not of type Path: .* not (\w+)')
_MISSING = re.compile(r"the following arguments are required: ([\w., ]+)")
_KIND = re.compile(r"Expected an? (?:<class '[\w.]*?(\w+)'>|typing\.Literal\[(.*?)\])")
_IN_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
_IN_WORDS |= {"list": "a list such as [1,2]", "tuple": "a list such as [1,2]", "dict": "a table such as {a: 1, b: 2}"}


def _expected(name: str, kinds: str, value: str) -> str:
    """Say in words that an option has a value of the wrong kind."""
    found = _KIND.findall(kinds)
    choices = [choice for _, literal in found for choice in re.findall(r"'([^']*)'", literal)]
    words = [_IN_WORDS.get(kind, kind) for kind, _ in found if kind not in ("", "NoneType")]
    return f"--{name} is '{value}', expected {' or '.join(dict.fromkeys([*words, *choices]))}.{nearest(value, choices)}"


class _Parser(ArgumentParser):
    """A parser whose errors are ConfigErrors of one line, with the nearest option name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's message as a ConfigError."""
        if isinstance(ex, ConfigError):
            raise ex
        text = " ".join(str(message).split())
        if misfit := _MISFIT.fullmatch(text):
            raise ConfigError(_expected(*misfit.groups())) from ex
        if no_path := _NO_PATH.fullmatch(text):
            raise ConfigError(f"--{no_path[1]} is a value of the kind {no_path[2]}, expected a path.") from ex
        if text.startswith("Unexpected config"):
            raise ConfigError("--config holds no options, expected 'name: value' in each line.") from ex
        if missing := _MISSING.fullmatch(text):
            raise ConfigError(f"--{missing[1].replace(', ', ', --')} is missing: pass it. See --help.") from ex
        unknown = re.search(r"Option '([\w.+-]+)' is not accepted|[Uu]nrecognized arguments: -*([\w.+-]+)", text)
        name = (unknown.group(1) or unknown.group(2)) if unknown else ""
        names = [action.dest for action in self._actions]
        meant = INSTEAD.get(name.replace("-", "_"), "")
        near = nearest(name, names) or nearest(name.split(".")[0], names)
        hint = (f" Here it is --{meant}." if meant in names and name not in names else near) if name else ""
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
        formatter_class=_Formatter,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these options, or the name of a recipe (wsss configs); flags override it.",
    )
    for option in (*options, OutputOptions):
        parser.add_class_arguments(option, None)
    return parser


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the examples."""


def parse(parser: ArgumentParser, argv: Sequence[str] | None, *options: type) -> list[Any]:
    """Read flags and config files into one instance per dataclass of `options`.

    Flags may be written with '-' or '_'; a switch may stand alone, '--oof' for '--oof true'; several values may follow
    the flag of a list, '--preds A B'.

    Raises:
        ConfigError: an unknown or misshapen option.
    """
    words = _current(sys.argv[1:] if argv is None else argv)
    words = _gather(_complete(words, _switches((*options, OutputOptions))), _lists(options))
    _check_configs(words)
    _check_parts(words, options)
    _check_paths_given(words, options)
    values = parser.instantiate(parser.parse_args(words))
    _check_paths(values.as_dict())
    instances = [
        option(**{declared.name: _at_home(values[declared.name]) for declared in dataclasses.fields(option)})
        for option in (*options, OutputOptions)
    ]
    set_output(instances.pop(), parser.prog.rpartition(".")[2])
    return instances


def _check_parts(words: Sequence[str], options: Sequence[type]) -> None:
    """Refuse a part of an option that has none, such as `--masks.category`."""
    leaves = dict(pair for option in options for pair in _leaves(option))
    for word in words:
        above, _, part = word.removeprefix("--").partition("=")[0].rpartition(".")
        is_group = isinstance(leaves.get(above), dict) or dataclasses.is_dataclass(leaves.get(above))
        if word.startswith("--") and above in leaves and not is_group:
            hint = f"here it is --{part}" if part in leaves else "see --help"
            raise ConfigError(f"--{above}.{part} is no option: {hint}.")


def _check_paths_given(words: Sequence[str], options: Sequence[type]) -> None:
    """Refuse an empty text for a path, which would stand for the folder where the command is started."""
    paths = {name for option in options for name, kind in get_type_hints(option).items() if "Path" in str(kind)}
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


def parser_of(stage: str, module: ModuleType, task: str = "") -> ArgumentParser:
    """Return the parser of a stage whose options are in `module`: its docstring, EXAMPLES and OPTIONS, or TASKS."""
    options = module.TASKS[task] if task else module.OPTIONS
    return make_parser(stage, module.__doc__ or "", module.EXAMPLES, *options)


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
        parser = parser_of(stage, module)
        _help(words, parser.format_help, parser)
        if hasattr(module, "read"):  # where reading takes more than parsing
            values: list[Any] = module.read(parser, words)
            return values
        return parse(parser, words, *module.OPTIONS)
    task = module.choose(words)
    parser = parser_of(stage, module, task)
    _help(words, lambda: _brief(parser), parser)
    return parse(parser, _of_task(words, module.TASKS, task), *module.TASKS[task])


def first_value(words: Sequence[str], name: str) -> str | None:
    """Return the value that words, or the last file behind --config, give to an option at top level; None for none."""
    value = None
    for where, word in enumerate(words):
        if word.startswith("--config"):
            value = (_config_at(words, where) or {}).get(name, value)
    for where, word in enumerate(words):
        if word == f"--{name}" and where + 1 < len(words):
            value = words[where + 1]
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return None if value is None else str(value)


def _current(words: Sequence[str]) -> list[str]:
    """Return words with '_' for '-' and with options, also those in files behind --config, under today's names."""
    return _with_configs(renamed_flags(_named_configs([_underscores(word) for word in words])), renamed_config)


def _named_configs(words: Sequence[str]) -> list[str]:
    """Return words with recipes named behind --config as files.

    Raises:
        ConfigError: there is no such file or recipe.
    """
    out = list(words)
    for where, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--config" and equals:
            out[where] = f"--config={config_file(value)}"
        elif name == "--config" and where + 1 < len(words):
            out[where + 1] = config_file(words[where + 1])
    return out


def _with_configs(words: list[str], change: Callable[[dict[str, Any], str], dict[str, Any]]) -> list[str]:
    """Return words with the files behind --config replaced by their changed content, where it changes.

    Args:
        words: of the command line.
        change: takes the options of a file and its name.
    """
    out = list(words)
    for where, word in enumerate(words):
        values = _config_at(words, where)
        if values is None:
            continue
        name, equals, path = word.partition("=")
        changed = change(values, path if equals else words[where + 1])
        if changed != values:
            out[where if equals else where + 1] = f"{name}={json.dumps(changed)}" if equals else json.dumps(changed)
    return out


def _config_at(words: Sequence[str], where: int) -> dict[str, Any] | None:
    """Return the options in the file that a word '--config' names; None if it is no such word, or for the parser."""
    name, equals, path = words[where].partition("=")
    if name != "--config" or not (equals or where + 1 < len(words)):
        return None
    path = path if equals else words[where + 1]
    try:
        values = parse_yaml(path, path) if path.startswith("{") else read_yaml(Path(path))
    except (OSError, UserError):
        return None  # the parser says what is wrong
    return values if isinstance(values, dict) and all(isinstance(key, str) for key in values) else None


def _of_task(words: list[str], tasks: Mapping[str, Sequence[type]], task: str) -> list[str]:
    """Refuse options of other tasks; those that a file, such as a config.yaml of version 0.1.0, leaves as they are by
    default are dropped.

    Raises:
        ConfigError: there are some.
    """
    known = dict(pair for option in tasks[task] for pair in _leaves(option))
    owners: dict[str, list[str]] = {}
    defaults: dict[str, Any] = {}
    for other, options in tasks.items():
        for name, default in (pair for option in options for pair in _leaves(option)):
            if name not in known:
                owners.setdefault(name, []).append(other)
                defaults[name] = default

    def refuse(name: str) -> NoReturn:
        owner = " and ".join(owners.get(name) or next(o for n, o in owners.items() if n.startswith(f"{name}.")))
        raise ConfigError(
            f"--{name} is an option of task {owner}, not of {task}: leave it out, or pass another --task."
        )

    def keep_known(values: dict[str, Any], above: str, kept: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            name = f"{above}{key}"
            if name in owners:
                usual = (defaults[name], FORMER_DEFAULTS.get(name, defaults[name]))
                if json.dumps(value, default=str) not in [json.dumps(one, default=str) for one in usual]:
                    refuse(name)
            elif isinstance(value, dict) and name not in known:
                part = keep_known(value, f"{name}.", {})
                kept |= {key: part} if part or not value else {}
            else:
                kept[key] = value
        return kept

    groups = {name.partition(".")[0] for name in owners if "." in name} - {n.partition(".")[0] for n in known}
    for word in words:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and (name in owners or name in groups):
            refuse(name)
    return _with_configs(words, lambda values, path: keep_known(values, "", {}))


def _leaves(option: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the default of every option in a dataclass."""
    for declared in dataclasses.fields(option):
        factory = declared.default_factory
        if dataclasses.is_dataclass(factory):
            yield from _leaves(cast(type, factory), f"{above}{declared.name}.")
        else:
            yield f"{above}{declared.name}", declared.default if factory is dataclasses.MISSING else factory()


def options_of(parser: ArgumentParser) -> Iterator[Any]:
    """Yield the action of every option of a stage; groups are shown by their members."""
    dests = [action.dest for action in parser._actions]
    groups = {dest[:end] for dest in dests for end, letter in enumerate(dest) if letter == "."}
    for action in parser._actions:
        if action.dest not in ("help", "config", "print_config", *groups) and action.option_strings:
            yield action


def default_text(action: Any) -> str:
    """Return the default of an option as one writes it; '' for none."""
    if action.default is None or action.default == "":
        return ""
    return str(action.default).lower() if isinstance(action.default, bool) else str(action.default)


def _help(words: Sequence[str], short: Callable[[], str], parser: ArgumentParser) -> None:
    """Print help and end, if words ask for it: '--help', '--help all', or '--help GROUP'."""
    where = next((k for k, word in enumerate(words) if word in ("--help", "-h")), None)
    if where is None:
        return
    topic = words[where + 1] if where + 1 < len(words) and not words[where + 1].startswith("-") else ""
    if not topic:
        text = short()
    elif topic == "all":
        text = parser.format_help()
    else:
        actions = [
            action for action in options_of(parser) if action.dest == topic or action.dest.startswith(f"{topic}.")
        ]
        if not actions:
            raise ConfigError(f"--help {topic}: there is no such option or group of options; see --help.")
        text = "\n".join(_described(action) for action in actions)
    say(text.replace(" \b", "").rstrip())  # jsonargparse writes --print_config, a backspace and its flags
    sys.exit(0)


def _described(action: Any) -> str:
    """Return name, default and meaning of an option."""
    default = default_text(action)
    head = f"  --{action.dest}" + (f" (default: {default})" if default else "")
    return f"{head}\n" + textwrap.fill(" ".join((action.help or "").split()), 116, **_INDENT)


_INDENT: dict[str, Any] = {"initial_indent": "      ", "subsequent_indent": "      "}


def _brief(parser: ArgumentParser) -> str:
    """Return a help page with a line for each option at top level and each group."""
    single: list[str] = []
    groups: dict[str, list[str]] = {}
    for action in options_of(parser):
        group, dot, name = action.dest.partition(".")
        if dot:
            groups.setdefault(group, []).append(name)
            continue
        default = default_text(action)
        meaning = " ".join((action.help or "").split())
        head = f"  --{action.dest} {default}".ljust(27)
        single.append(textwrap.fill(f"{head} {meaning}", 118, subsequent_indent=" " * 28))
    rows = [
        textwrap.fill(f"  --{group}.*".ljust(27) + " " + " ".join(names), 118, subsequent_indent=" " * 28)
        for group, names in groups.items()
    ]
    return "\n".join(
        [
            f"{parser.format_usage()}",
            f"{parser.description}\n",
            "options, with their defaults:",
            "  --config FILE             YAML file with any of these options, or a name of `wsss configs`; flags win.",
            *single,
            "\ngroups of options (--help GROUP explains one of them, --help all everything):",
            *rows,
            f"\n{parser.epilog}",
        ]
    )


CODE = ("backbone", "encoder")
"""Options that may name a class, 'package.module:Class', whose code is then run."""


def _check_configs(words: Sequence[str]) -> None:
    """Read the files of --config within limits, before the parser reads them without any.

    Raises:
        ConfigError: one is no YAML, or blows up, or names code that the command line does not name.
    """
    for word, after in itertools.pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name == "--config" and is_file(value or after):
            check_seal(Path(value or after), OF_OPTIONS, MOST_YAML)
            if not isinstance(read_yaml(Path(value or after), ConfigError), dict):
                raise ConfigError(f"{value or after} holds no options, expected 'name: value' in each line.")
        elif word.startswith("--") and (value or after).startswith("{"):  # a table
            parse_yaml(value or after, name, ConfigError)
    typed = {word.partition("=")[0] for word in words}
    for where, option in itertools.product(range(len(words)), CODE):
        named = str((_config_at(words, where) or {}).get(option, ""))
        if re.fullmatch(r"[\w.]+:\w+", named) and f"--{option}" not in typed:
            raise ConfigError(
                f"--config names the {option} {named}, code that would be run: if you trust it, pass --{option} too."
            )


def _switches(options: Sequence[type], prefix: str = "--") -> set[str]:
    """Return the flags of all fields that may be true or false."""
    flags: set[str] = set()
    for option in options:
        for name, kind in get_type_hints(option).items():
            if kind is bool or bool in get_args(kind):
                flags.add(prefix + name)
            elif dataclasses.is_dataclass(kind):
                flags |= _switches([cast(type, kind)], f"{prefix}{name}.")
    return flags


def _complete(words: list[str], switches: set[str]) -> list[str]:
    """Add 'true' behind switches that stand alone."""
    next_words = [*words[1:], "--"]
    alone = [word in switches and after.startswith("--") for word, after in zip(words, next_words, strict=False)]
    return [part for word, bare in zip(words, alone, strict=True) for part in ([word, "true"] if bare else [word])]


def _lists(options: Sequence[type], prefix: str = "--") -> dict[str, type]:
    """Return the flags of all fields that are lists, each with the type of its items."""
    flags: dict[str, type] = {}
    for option in options:
        for name, kind in get_type_hints(option).items():
            if dataclasses.is_dataclass(kind):
                flags |= _lists([cast(type, kind)], f"{prefix}{name}.")
            for variant in (kind, *get_args(kind)):  # the list itself, or the list in 'list or None'
                if get_origin(variant) is list:
                    flags[prefix + name] = get_args(variant)[0]
    return flags


def _gather(words: list[str], lists: dict[str, type]) -> list[str]:
    """Turn the values behind the flag of a list into the one JSON text that the parser takes."""
    out: list[str] = []
    for k, word in enumerate(words):
        flag = out[-1] if out else ""
        if flag in lists and not word.startswith(("--", "[")) and word != "null":
            behind = list(itertools.takewhile(lambda value: not value.startswith("--"), words[k:]))
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


SHELLS = ("bash", "zsh")
_SCRIPT = """\
_wsss() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{stages} --help --version"
  elif [ "${{word#-}}" != "$word" ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _wsss wsss
"""


def completion(shell: str, stages: Mapping[str, str], module_of: Callable[[str], ModuleType]) -> str:
    """Return the script that a shell reads to complete `wsss`: stages first, then the options of the stage.

    Args:
        shell: out of SHELLS.
        stages: every stage.
        module_of: returns the module with the options of a stage.
    """
    cases = [f'      {name}) words="{" ".join(_flags(name, module_of(name)))}" ;;' for name in stages]
    script = _SCRIPT.format(stages=" ".join(stages), cases="\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _flags(stage: str, module: ModuleType) -> list[str]:
    tasks = list(getattr(module, "TASKS", [""]))
    flags = {f"--{action.dest}" for task in tasks for action in options_of(parser_of(stage, module, task))}
    return ["--config", "--help", *sorted(flags)]
