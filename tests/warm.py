"""``accelerate launch`` for tests, with ranks that have imported their libraries already.

A process that imports what ranks import, once, and forks them: a rank takes 6 s to import it, and
the tests start a hundred. The launcher is Accelerate's own up to the point where torchrun would
start the ranks; each is a process of its own, and ends as Python does.

A rank differs from a real one in what happened before the fork: it has the server's hash seed and
what libraries read from the environment when they are imported, and lacks torchrun's own variables.
What is about these, or about the launcher, asks for ``cold=True``.

Says ``ready``, reads a request a line from standard input, and answers each with the launcher's
exit code; ends with its input, and its launch with it. ``tests.conftest`` has the other side.
"""

import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = (
    *("accelerate", "accelerate.commands.launch", "torch.distributed.run", "deepspeed"),
    *("datasets", "evaluate", "sklearn.datasets", "timm", "transformers.trainer"),
    *("toolkit.training.loop", "toolkit.training.build", "toolkit.metrics", "tyro"),
)
GRACE = 30
"""Seconds that the other ranks have once one has failed."""
POLL_MILLISECONDS = 20


class Rank(BaseException):
    """Leaves the launcher's code, in a fork of it: this process is a rank from here on."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.environment = command, dict(os.environ)


def main() -> None:
    """Serve until standard input ends. Returns in ranks only, when their program has ended."""
    from toolkit.vision_compat import repair_torchvision

    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    repair_torchvision()
    for name in LIBRARIES:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError("a library has started a thread of Python's: a fork would not have it")
    gc.freeze()
    sys.stdout.flush()  # or every fork would say it again
    os.write(answers, b"ready\n")
    try:
        serve(answers)
    except Rank as rank:
        command, environment = rank.command, rank.environment
    else:
        return
    os.environ.clear()
    os.environ.update(environment)
    run(command)


def serve(answers: int) -> None:
    """Fork a launcher for every request, and write the answers to this file descriptor."""
    for line in sys.stdin:
        request = json.loads(line)
        if (launcher := os.fork()) == 0:
            os.setpgid(0, 0)
            os.close(answers)
            os._exit(launch(request))
        os.setpgid(launcher, launcher)  # both do, whoever comes first
        code = wait(launcher)
        os.write(answers, f"{code}\n".encode())


def wait(launcher: int) -> int:
    """The launcher's exit code; if whoever asked is gone, it is killed, and its ranks with it."""
    asker = select.poll()
    asker.register(0, 0)  # nothing but a hang-up
    try:
        while True:
            pid, status = os.waitpid(launcher, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if asker.poll(POLL_MILLISECONDS):
                sys.exit(1)
    except BaseException:
        os.killpg(launcher, signal.SIGKILL)
        os.waitpid(launcher, 0)
        raise


def launch(request: dict[str, Any]) -> int:
    """What the executable ``accelerate-launch`` does with these arguments."""
    import torch.distributed.run as torchrun
    from accelerate.commands import launch as accelerate

    folder, out, err = request["files"]
    os.chdir(folder)
    # As in the foreground, whatever the shell that started the tests has them ignore.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate((os.devnull, out, err)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(file, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    raw = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(raw, write_through=True)  # as by python -u, so by torchrun
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    sys.argv = ["accelerate-launch", *request["arguments"]]
    torchrun.run = start  # type: ignore[assignment]
    accelerate.simple_launcher = start_alone  # type: ignore[assignment]
    try:
        accelerate.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(args: Namespace) -> None:
    """Fork the ranks of this machine, and end them all if one fails."""
    ranks: set[int] = set()
    count = int(args.nproc_per_node)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(args.master_port)}
    for rank in range(count):
        places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
        sizes = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        if (pid := os.fork()) == 0:
            os.environ.update({**shared, **{k: str(v) for k, v in {**places, **sizes}.items()}})
            raise Rank(_command(args))
        ranks.add(pid)
    failed = False
    while ranks:
        pid, status = os.wait()
        ranks.remove(pid)
        if status and not failed:
            failed = True
            _end(ranks)
    if failed:
        sys.exit(1)


def start_alone(args: Namespace) -> None:
    """Fork the one process of a launch that is not distributed."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    _, environment = prepare_simple_launcher_cmd_env(args)
    if (pid := os.fork()) == 0:
        os.environ.update(environment)
        raise Rank(_command(args))
    if os.waitpid(pid, 0)[1]:
        sys.exit(1)


def _command(args: Namespace) -> list[str]:
    return [*(["-m"] if args.module else []), args.training_script, *args.training_script_args]


def _end(ranks: set[int]) -> None:
    """SIGTERM, and SIGKILL for those that do not heed it."""

    def kill(*_: object) -> None:
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)

    for pid in ranks:
        os.kill(pid, signal.SIGTERM)
    signal.signal(signal.SIGALRM, kill)
    signal.alarm(GRACE)


def run(command: list[str]) -> None:
    """What Python does with these arguments."""
    np.random.seed()  # or all ranks would draw alike
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(str(Path(command[0]).resolve()), run_name="__main__")


if __name__ == "__main__":
    main()
