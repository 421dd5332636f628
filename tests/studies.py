"""Folders of finished runs, made up: what the report reads."""

import json
from pathlib import Path
from typing import Any

PAIR = {"task": "digits", "model": "vit_micro", "recipe": "field"}


def write_run(
    study: Path,
    schedule: str,
    seed: int,
    score: float,
    *,
    lr: float = 0.01,
    updates: int = 40,
    eval_every: int = 10,
    reason: str = "the mean fell",
    **changes: Any,
) -> Path:
    """One run folder. ``changes`` overwrite fields of its result."""
    folder = study / f"{schedule.replace('/', '-')}-{lr:g}-{seed}-{changes.get('arm', 0)}"
    folder.mkdir(parents=True)
    stored = {"target": "digits/vit_micro@field", "recipe": {"lr": lr}}
    stored |= {"schedule": {"name": schedule, "fields": {}}}
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "state.json").write_text('{"status": "done"}')
    changes = {"study": study.name, "run_id": folder.name, "updates": updates, **changes}
    result = result_json(schedule, seed, score, lr, **changes)
    (folder / "result.json").write_text(json.dumps(result))
    with (folder / "events.jsonl").open("w") as events:
        for update in range(1, updates + 1):
            acts = schedule == "plan" and update % 20 == 0
            event = {
                "update": update,
                "epoch": update / 20,
                "loss": 2.0 / update,
                "count": 64.0,
                "nonfinite": 0,
                "lr": lr,
                "factor": 1.0,
                "pattern": "sharp_drop" if acts else "none",
                "statistic": 0.1 if acts else None,
                "action": "raise" if acts else "hold",
                "reason": reason if acts else "",
                "t": 1000.0 + update,
            }
            events.write(json.dumps(event) + "\n")
            if update % eval_every == 0:
                evaluation = {"kind": "evaluation", "update": update, "epoch": update / 20}
                evaluation |= {"split": "validation", "accuracy": score - 40 / update}
                events.write(json.dumps(evaluation | {"t": 1000.0 + update}) + "\n")
    return folder


def result_json(
    schedule: str = "cosine", seed: int = 0, score: float = 90.0, lr: float = 0.01, **changes: Any
) -> dict[str, Any]:
    """What ``result.json`` of such a run holds; ``changes`` overwrite fields of it."""
    updates = changes.get("updates", 40)
    return {
        **PAIR,
        "status": "done",
        "run_id": "a-run",
        "study": "made-up",
        "recipe_settings": {"lr": lr, "epochs": 2.0},
        "schedule": schedule,
        "schedule_config": {},
        "seed": seed,
        "arm": 0,
        "init": "random",
        "updates": updates,
        "epoch": updates / 20,
        "world_size": 1,
        "micro_batch": 64,
        "precision": "fp32",
        "metrics": {
            "test": {"accuracy": score},
            "validation": {"accuracy": score - 40 / updates},
        },
        "timing": {"train_seconds": 10.0 + seed, "data": 1.0, "evaluation": 2.0},
        "initial_weights_sha": f"weights {seed}",
        "batch_order_sha": f"order {seed}",
        "final_weights_sha": f"{schedule} {lr} {seed} {changes.get('arm', 0)}",
        "rollbacks": 0,
        "notes": [],
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "argv": ["somewhere/train.py", "digits/vit_micro", "--seed", str(seed)],
        **changes,
    }


def write_study(study: Path, family: list[dict[str, Any]] | None = None) -> Path:
    """Two schedules, eight seeds; ``plan`` is better than ``cosine`` by 2 points or so."""
    for seed in range(8):
        write_run(study, "plan", seed, 92.0 + 0.1 * seed)
        write_run(study, "cosine", seed, 90.0 + 0.1 * seed * (-1) ** seed)
    default = [
        {"pair": "digits/vit_micro@field", "lr": 0.01, "candidate": "plan", "baseline": "cosine"}
    ]
    plan = {"name": study.name, "question": "Is it?", "runs": 16, "rope": {"digits": 0.5}}
    (study / "study.json").write_text(json.dumps({**plan, "family": family or default}))
    return study


def write_large_study(study: Path, runs: int = 1_000) -> Path:
    """Five schedules at five base LRs, 500 readings and 20 evaluations a run."""
    for number in range(runs):
        seed, place = divmod(number, 25)
        schedule = ("plan", "cosine", "linear", "step", "constant")[place % 5]
        score = 90.0 + (7 * seed + place) % 11 / 10
        lr = 10.0 ** (place // 5 - 3)
        write_run(study, schedule, seed, score, lr=lr, updates=500, eval_every=25)
    family = [
        {"pair": "digits/vit_micro@field", "lr": lr, "candidate": "plan", "baseline": baseline}
        for lr in (0.01, 0.1)
        for baseline in ("cosine", "linear", "step")
    ]
    (study / "study.json").write_text(json.dumps({"runs": runs, "family": family}))
    return study
