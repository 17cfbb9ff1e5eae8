"""Completion of stages and their options for bash and zsh."""

from collections.abc import Callable, Mapping
from types import ModuleType

from wsss.options.parsing import options_of, parser_of

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
