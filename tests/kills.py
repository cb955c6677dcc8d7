"""Drivers that are killed half way, so that something is left to resume."""

import os
import subprocess
import sys
from pathlib import Path

from distens.config.config import to_yaml


def killed(config, said, times=1):
    """Run a config by the command line and SIGKILL it when its log has said something so many times; return the run's
    folder, which is the only one in the storage."""
    storage = Path(config.storage)
    path = storage.with_suffix(".yaml")
    path.write_text(to_yaml(config))
    kill_when(said, "run", str(path), times=times)
    (folder,) = storage.iterdir()
    return folder


def kill_when(said, *words, times=1):
    """SIGKILL a command of distens when its log has said something so many times."""
    command = [sys.executable, "-m", "distens.cli", *words]
    at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=at_once) as run:
        for line in run.stdout:
            times -= said in line
            if not times:
                run.kill()
                break


HEEDING = ("env", "--default-signal=INT")
"""Before a command, makes it heed SIGINT: a shell's background job ignores it, and so would all that it starts. Not by
`preexec_fn`, which forks: in a process that is connected to Ray, a call to the head may then wait for ever."""
