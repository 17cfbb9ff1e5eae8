"""Completion for shells: bash itself is asked."""

import subprocess

import pytest

from wsss.cli import STAGES, options_of, stages
from wsss.core.checks import ConfigError
from wsss.options.command_line import completion

ASK = """
{script}
complete_words() {{ COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _wsss; echo "${{COMPREPLY[*]}}"; }}
complete_words wsss rep
complete_words wsss review --sum
complete_words wsss train --feature_classifier.en
"""


def test_bash_completes_stages_and_their_options() -> None:
    script = completion("bash", {name: STAGES[name] for name in ("report", "review", "train")}, options_of)
    done = subprocess.run(["bash", "-c", ASK.format(script=script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["report", "--summary", "--feature_classifier.enabled"]


def test_zsh_reads_the_same_script_and_other_shells_are_refused() -> None:
    few = {"review": STAGES["review"]}
    assert completion("zsh", few, options_of).endswith(completion("bash", few, options_of))
    with pytest.raises(ConfigError, match="expected one of bash, zsh"):
        stages(["--completion", "fish"])
