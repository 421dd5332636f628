"""How a model's passes are made: compiled, with checkpointed activations, with TF32 products."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import own
from tests.conftest import Launch
from toolkit.config import parse, run_id
from toolkit.errors import ConfigError
from toolkit.task import load
from toolkit.training import loop
from toolkit.training.build import build

DIGITS = ["digits/vit_micro", "--log-with", "none", "--save-every", "0", "--no-progress"]
SMALL = (
    *("--recipe.layers", "2", "--recipe.hidden", "16", "--recipe.heads", "2"),
    *("--recipe.max-length", "16", "--recipe.global-batch", "4", "--recipe.dropout", "0"),
)


def kept_bytes(folder: Path, *flags: str) -> tuple[int, str]:
    """Bytes of activations that a forward pass keeps, and the weights after six updates."""
    file = folder / "fox.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    config = own.config_of("lm", "gpt2@characters", file, *SMALL, *flags)
    run = build(config, folder / "runs")
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    run.model.train()
    batch = run.splits.train.__getitems__([0, 1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run.task.loss(run.model, batch)
    result = loop.fit(run)
    loop.release(run)
    assert result is not None
    return kept, result.final_weights_sha or ""


def test_checkpointed_activations_are_few_and_the_weights_the_same(tmp_path: Path) -> None:
    whole, sha = kept_bytes(tmp_path)
    few, again = kept_bytes(tmp_path, "--recipe.gradient-checkpointing", "True")
    assert few < whole / 2
    assert again == sha != ""


def test_a_model_that_has_no_checkpointing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(GPT2LMHeadModel, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="checkpointing = True: GPT2LMHeadModel does not have it"):
        kept_bytes(tmp_path, "--recipe.gradient-checkpointing", "True")
    with pytest.raises(ConfigError, match="gradient_checkpointing = True: that is for encoders"):
        parse(["imdb/lstm-glove", "--gradient-checkpointing"])


def test_tf32_is_of_its_run_alone(tmp_path: Path) -> None:
    for precision, products in (("tf32", "high"), ("fp32", "highest")):
        run = build(parse([*DIGITS, "--updates", "1", "--precision", precision]), tmp_path)
        assert torch.get_float32_matmul_precision() == products
        assert next(run.model.parameters()).dtype == torch.float32
        loop.fit(run)
        loop.release(run)


def test_how_passes_are_made_belongs_to_the_experiment() -> None:
    plain, *others = (
        run_id(parse([*DIGITS, *flags]))
        for flags in ((), ("--compile",), ("--precision", "tf32"), ("--compile", "False"))
    )
    assert others[:2] != [plain, plain]
    assert others[2] == plain  # as before there was such a setting
    assert load("digits").recipes["vit_micro"]["field"].compile is False


COMPILED = """
import json
import torch
from torch._dynamo.utils import counters
from toolkit.config import parse
from toolkit.training import loop
from toolkit.training.build import build

found = {}
for name in ("plain", "compiled"):
    flags = FLAGS + (["--compile"] if name == "compiled" else [])
    run = build(parse(flags))
    result = loop.fit(run)
    loop.release(run)
    found[name] = [run.initial_weights_sha, result.metrics.test["accuracy"]]
    if name == "plain":
        assert not counters["stats"]
found["graphs"] = counters["stats"]["unique_graphs"]
found["weights"] = sorted(run.accelerator.unwrap_model(run.model).state_dict())[0]
print(json.dumps(found))
"""


@pytest.mark.processes
@pytest.mark.full
def test_a_compiled_model_has_one_graph_whatever_the_lr(python: Launch) -> None:
    import json

    flags = [
        *DIGITS,
        "--updates",
        "24",
        "--eval-every",
        "24",
        "--recipe.eval-batch",
        "64",
        "adaptive",
    ]
    done = python("-c", COMPILED.replace("FLAGS", repr(flags)))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["plain"][0] == found["compiled"][0]
    assert found["compiled"][1] == pytest.approx(found["plain"][1], abs=3)
    # One to train on, one to evaluate with, and one for its last, smaller batches.
    assert 2 <= found["graphs"] <= 3
    assert "_orig_mod" not in found["weights"]
