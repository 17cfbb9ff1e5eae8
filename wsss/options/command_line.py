"""The options of a stage as the command line shows them: names, help pages, errors of one line, shell completion."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

import jsonargparse
from jsonargparse import ArgumentParser

from wsss.core.checks import ConfigError, nearest
from wsss.core.console import OutputOptions, say

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
            several = ", " in missing[1]
            lacks = "are missing: pass them" if several else "is missing: pass it"
            raise ConfigError(f"--{missing[1].replace(', ', ', --')} {lacks}. See --help.") from ex
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


def parser_of(stage: str, module: ModuleType, task: str = "") -> ArgumentParser:
    """Return the parser of a stage whose options are in `module`: its docstring, EXAMPLES and OPTIONS, or TASKS."""
    options = module.TASKS[task] if task else module.OPTIONS
    return make_parser(stage, module.__doc__ or "", module.EXAMPLES, *options)


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


def show_help(words: Sequence[str], short: Callable[[], str], parser: ArgumentParser) -> None:
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
    say(_plain(text).rstrip())
    sys.exit(0)


def _plain(text: str) -> str:
    """Return a help page without what is for programmers: a backspace, Python's types, empty defaults."""
    text = re.sub(r"<class\s+'(\w+)'>", r"\1", text.replace(" \b", ""))
    text = re.sub(r"(--\S+) '\[\"PATH1\",\.\.\.\]' \| LIST_OF_PATHS_FILE .*", r"\1 PATH ...", text)
    return re.sub(r",\s+default: \)", ")", text)


def _described(action: Any) -> str:
    """Return name, default and meaning of an option."""
    default, indent = default_text(action), " " * 6
    head = f"  --{action.dest}" + (f" (default: {default})" if default else "")
    text = " ".join((action.help or "").split())
    return f"{head}\n" + textwrap.fill(text, 116, initial_indent=indent, subsequent_indent=indent)


def brief_help(parser: ArgumentParser) -> str:
    """Return a help page with a line for each option at top level and each group."""
    single: list[str] = []
    groups: dict[str, list[str]] = {}
    for action in options_of(parser):
        group, dot, name = action.dest.partition(".")
        if dot:
            groups.setdefault(group, []).append(name)
            continue
        single.append(_row(f"{action.dest} {default_text(action)}", (action.help or "").split()))
    rows = [_row(f"{group}.*", names) for group, names in groups.items()]
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


def _row(head: str, words: Sequence[str]) -> str:
    """Return a line of a help page, with an option's name and what is said of it."""
    return textwrap.fill(" ".join([f"  --{head}".ljust(27), *words]), 118, subsequent_indent=" " * 28)


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
        module_of: returns the module with the options of a stage.
    """
    cases = [f'      {name}) words="{" ".join(_flags(name, module_of(name)))}" ;;' for name in stages]
    script = _SCRIPT.format(stages=" ".join(stages), cases="\n".join(cases))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _flags(stage: str, module: ModuleType) -> list[str]:
    tasks = list(getattr(module, "TASKS", [""]))
    flags = {f"--{action.dest}" for task in tasks for action in options_of(parser_of(stage, module, task))}
    return ["--config", "--help", *sorted(flags)]
