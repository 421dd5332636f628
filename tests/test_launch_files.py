"""Every shipped launch file is run, from another folder than the checkout, on CPUs over gloo."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT, STARTED_WITH, all_cores
from toolkit import launch_files

pytestmark = [pytest.mark.full, pytest.mark.ranks]

RUN = [
    *("-m", "toolkit.train", "digits/vit_micro", "adaptive", "--updates", "30"),
    *("--log-with", "none", "--no-progress"),
]
RANKS = {
    **dict.fromkeys(("cpu", "gpu"), 1),
    **dict.fromkeys(("cpu2", "ddp", "fsdp", "zero2", "zero3", "zero3_offload"), 2),
}


def launch(folder: Path, name: str, *options: str) -> "subprocess.CompletedProcess[str]":
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    file = str(launch_files.path_of(name))
    command = [accelerate, "launch", "--quiet", "--config_file", file, *options, *RUN]
    environment = {**STARTED_WITH, "PYTHONPATH": str(ROOT)}
    with all_cores():
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500
        )


def assert_done(folder: Path, ranks: int) -> None:
    (file,) = folder.glob("runs/*/*/result.json")
    result = json.loads(file.read_text())
    assert (result["status"], result["world_size"], result["updates"]) == ("done", ranks, 30)


def test_all_are_here() -> None:
    shipped = {name for name in launch_files.files() if not name.startswith("slurm/")}
    assert shipped == {*RANKS, "multi_node"}


@pytest.mark.parametrize("name", RANKS)
def test_it_trains(name: str, tmp_path: Path) -> None:
    done = launch(tmp_path, name, "--num_processes", str(RANKS[name]))
    assert done.returncode == 0, done.stderr
    assert_done(tmp_path, RANKS[name])


def test_two_machines_meet(tmp_path: Path) -> None:
    """Both of them this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = ["--main_process_ip", "127.0.0.1", "--main_process_port", port]

    def machine(rank: int) -> "subprocess.CompletedProcess[str]":
        options = ["--num_processes", "2", "--machine_rank", str(rank), *place]
        return launch(tmp_path, "multi_node", *options)

    with ThreadPoolExecutor(2) as both:
        for done in both.map(machine, range(2)):
            assert done.returncode == 0, done.stderr
    assert_done(tmp_path, 2)
