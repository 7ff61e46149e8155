"""`outlive completion bash|zsh|fish`: what a shell needs to complete commands and options.

    source <(outlive completion bash)           in ~/.bashrc
    outlive completion zsh > ~/.zfunc/_outlive   and `fpath+=~/.zfunc` before compinit
    outlive completion fish > ~/.config/fish/completions/outlive.fish

The script is made from the commands themselves and asks nothing of outlive while it completes.
"""

from __future__ import annotations

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print what completes `outlive` in a shell.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from outlive.commands import command_line

    sys.stdout.write(command_line().generate_completion(shell=shell).rstrip() + "\n")
