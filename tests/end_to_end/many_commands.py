"""Runs verbs of an installation one after the other, each in a fork of a process that has imported none of our modules.

`python many_commands.py < jobs.json`, where a job is `{"cwd": …, "argv": […]}` with what follows `python -m`; the
environment says where our packages are.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import optuna  # noqa: F401  # what all verbs import, so that it is imported once
import pytorch_lightning.cli  # noqa: F401
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401


def main():
    del sys.path[0]  # the folder of this file: it is not the user's
    done = [run(**job) for job in json.load(sys.stdin)]
    json.dump(done, sys.stdout)


def run(cwd, argv):
    out = Path(cwd, ".out")
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        become(cwd, argv, out)
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "text": out.read_text()}


def become(cwd, argv, out):
    code = 1
    try:
        os.chdir(cwd)
        stream = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.path.insert(0, cwd)
        sys.argv = ["", *argv[1:]]
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # noqa: BLE001  # it is what the command ended with
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
