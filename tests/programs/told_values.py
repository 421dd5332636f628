"""Does MLflow or Trackio have each number of a run's events once, though the run was killed?

``python tests/programs/told_values.py mlflow|trackio FOLDER``, with the package installed, trains a
small run in the folder, kills it, goes on, and compares what the tracker has with ``events.jsonl``.
It is no test of pytest, for neither package is among those that the tests install.
"""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

from toolkit.records.mirror_rows import follow

TRAIN = """
import sys
from toolkit import train

def kill(run):
    if run.update == 25:
        run.record.close()
        sys.exit(9)

tracker, hooks = sys.argv[1], [kill] * (sys.argv[2] == "kill")
flags = ["--updates", "40", "--save-every", "10", "--clip", "1", "--project", "told"]
raise SystemExit(train.main(["digits/vit_micro", *flags, "--log-with", tracker, "plan"], hooks))
"""


def expected(folder):
    """Number -> updates and values, as the run's events have them, but for seconds."""
    over, found = threading.Event(), defaultdict(list)
    over.set()
    for row, _ in follow(folder, 0, over):
        for name, value in row.values.items():
            if not name.startswith("timing/"):
                found[name].append((int(row.axes["update"]), value))
    return found


def in_mlflow(name):
    """Updates and values of a number, as MLflow's own client reads them."""
    import mlflow

    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'told'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["console.log"]
    history = client.get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def in_trackio(name):
    """Updates and values of a number, from Trackio's database."""
    with sqlite3.connect("trackio/told.db") as database:
        rows = [(step, json.loads(text)) for step, text in database.execute(READ)]
        assert database.execute("select count(*) from configs").fetchall() == [(1,)]
    return sorted((step, numbers[name]) for step, numbers in rows if name in numbers)


READ = "select step, metrics from metrics"


def main():
    """Print how many values were compared."""
    tracker, place = sys.argv[1:]
    os.chdir(place)
    os.environ |= {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "TRACKIO_DIR": "trackio"}
    for how, code in (("kill", 9), ("go on", 0)):
        done = subprocess.run([sys.executable, "-c", TRAIN, tracker, how], check=False)
        assert done.returncode == code
    (folder,) = (file.parent for file in Path().glob("runs/single/*/result.json"))
    assert '"resume"' in (folder / "events.jsonl").read_text()
    numbers = expected(folder)
    for name, points in numbers.items():
        found = {"mlflow": in_mlflow, "trackio": in_trackio}[tracker](name)
        assert found == sorted(points), (name, found, points)
    values = sum(map(len, numbers.values()))
    print(f"{tracker}: {len(numbers)} numbers, {values} values, each once and equal")


if __name__ == "__main__":
    main()
