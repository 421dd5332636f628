"""The scripts for SLURM, carried out with a stand-in for its srun and scontrol."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, STARTED_WITH
from toolkit import launch_files

SCRIPTS = sorted((ROOT / "launch_configs/slurm").glob("*.sh"))
FLAGS = ["digits/vit_micro", "adaptive", "--log-with", "none", "--no-progress"]

SRUN = """#!/bin/bash
# As srun does: a task on each node, and signals are passed on to the tasks.
tasks=()
for node in $(seq "$SLURM_NNODES"); do SLURM_NODEID=$((node - 1)) "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
worst=0
for task in "${tasks[@]}"; do
    wait "$task"; code=$?
    while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done
    [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) echo localhost; echo other ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


class Cluster:
    """Where ``sbatch`` would run a script.

    Args:
        folder: where the job is submitted.
        nodes, ranks: how many there are, and on each node.
    """

    def __init__(self, folder: Path, nodes: int, ranks: int) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        own = Path(sys.executable).parent
        self.environment = {
            **STARTED_WITH,
            "PATH": f"{programs}:{own}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NNODES": str(nodes),
            "SLURM_GPUS_ON_NODE": str(ranks),
            "LAUNCH": "cpu2" if ranks > 1 else "cpu",
        }

    def submit(self, script: Path, *flags: str) -> "subprocess.Popen[str]":
        """A job."""
        command = ["bash", str(script), *FLAGS, *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    @property
    def requeued(self) -> list[str]:
        """The jobs that were queued again."""
        file = self.folder / "requeued"
        return file.read_text().split() if file.exists() else []


def wait_for(what: Callable[[], object], job: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 240
    while not what():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_is_sound_and_found_by_its_name(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)  # noqa: S607
    assert launch_files.path_of(f"slurm/{script.stem}") == script
    options = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    # To the script alone, and early enough for the launcher to wait for the checkpoint.
    assert "#SBATCH --signal=B:USR1@300" in options
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240" in script.read_text()
    assert {"#SBATCH --requeue", "#SBATCH --ntasks-per-node=1"} <= {*options}


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "nodes", "ranks"),
    [
        ("one_node", 1, 1),
        pytest.param("one_node", 1, 2, marks=pytest.mark.full),
        pytest.param("several_nodes", 2, 1, marks=pytest.mark.full),
    ],
)
def test_a_job_at_its_time_limit_is_saved_queued_again_and_goes_on(
    name: str, nodes: int, ranks: int, tmp_path: Path
) -> None:
    cluster, script = Cluster(tmp_path, nodes, ranks), launch_files.path_of(f"slurm/{name}")
    flags = ("--updates", "600", "--eval-every", "600")
    job = cluster.submit(script, *flags)
    wait_for(lambda: [f for f in tmp_path.glob("runs/*/*/events.jsonl") if f.stat().st_size], job)
    job.send_signal(signal.SIGUSR1)  # to the script, as --signal=B: says
    output, error = job.communicate(timeout=240)
    assert job.returncode != 0, output
    (state,) = tmp_path.glob("runs/*/*/state.json")
    saved = json.loads(state.read_text())
    assert saved["status"] == "preempted", (output, error)
    assert cluster.requeued == [cluster.environment["SLURM_JOB_ID"]]
    job = cluster.submit(script, *flags)
    output, error = job.communicate(timeout=240)
    assert job.returncode == 0, error
    lines = map(json.loads, state.with_name("events.jsonl").read_text().splitlines())
    resumed = [line["update"] for line in lines if line.get("kind") == "resume"]
    assert resumed == [saved["update"]]
    result = json.loads(state.with_name("result.json").read_text())
    assert (result["status"], result["world_size"]) == ("done", nodes * ranks)
    assert len(cluster.requeued) == 1


LAUNCHER = """#!/bin/bash
# As a launcher does: passes the signal on, and makes exit code 1 of a stop and of a failure.
trap 'how=signalled' USR1
touch begun
while [ -z "$how" ]; do sleep 0.05; done
case "$ENDS" in
    stopped) touch "$TOOLKIT_STOPPED"; exit 1 ;;
    failed) exit 1 ;;
    done) exit 0 ;;
esac
"""


@pytest.mark.parametrize(("ends", "again"), [("stopped", 1), ("failed", 0), ("done", 0)])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_job_at_its_limit_is_queued_again_only_if_its_run_can_go_on(
    script: Path, ends: str, again: int, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, 1, 2)
    for name in ("accelerate", "torchrun", "toolkit"):
        program = tmp_path / "bin" / name
        program.write_text("#!/bin/bash\n" if name == "toolkit" else LAUNCHER)
        program.chmod(0o755)
    cluster.environment["ENDS"] = ends
    left = tmp_path / f"toolkit-stopped-{os.getpid()}"
    left.touch()  # of an earlier start of the job, which was killed
    job = cluster.submit(script)
    wait_for((tmp_path / "begun").exists, job)
    job.send_signal(signal.SIGUSR1)
    _, error = job.communicate(timeout=60)
    assert job.returncode == (0 if ends == "done" else 1), error
    assert len(cluster.requeued) == again
    assert not left.exists()


@pytest.mark.processes
def test_a_job_that_fails_is_not_queued_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1, 1)
    job = cluster.submit(launch_files.path_of("slurm/one_node"), "--no-such-flag")
    _, error = job.communicate(timeout=240)
    assert job.returncode not in (0, None)
    assert "no-such-flag" in error
    assert cluster.requeued == []
