"""Runs command lines one after another, each in a fork of a process that has torch imported already.

Started with an environment's own Python. Reads a JSON object a line (``words``, ``cwd``, ``out``) and writes
each command's exit code. A command begins as a new process would: own modules, own state, packages installed
since included.
"""

import importlib
import json
import os
import site
import sys
import sysconfig
from pathlib import Path


def heavy(everything):
    """What takes seconds to import and belongs to others."""
    import torch

    if not everything:
        return torch
    from diffusers import AutoencoderKL, LatteTransformer3DModel
    from transformers import ByT5Tokenizer, T5EncoderModel

    return torch, AutoencoderKL, LatteTransformer3DModel, ByT5Tokenizer, T5EncoderModel


def child(words, cwd, out):
    """One command, in a fork: never returns."""
    with Path(out).open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    code = 1
    try:
        os.chdir(cwd)
        site.addsitedir(sysconfig.get_path("purelib"))
        importlib.invalidate_caches()
        if words[0] == "pytest":
            import pytest

            code = int(pytest.main(["-q", "-p", "no:cacheprovider", *words[1:]]))
        else:
            from vader_core.cli import run

            code = run(words[1:])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    held = heavy(everything="all" in sys.argv[1:])
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            child(**asked)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return held


main()
