"""Small studies for tests."""

from pathlib import Path
from typing import Any

import yaml

RECIPE: dict[str, Any] = {
    "seed_everything": 0,
    "model": {
        "pooling": {"class_path": "P", "init_args": {"dim": 4}},
        "scorer": {"class_path": "S"},
        "loss": {"init_args": {"temperature": 0.05}},
        "optimizer": {"learning_rate": 1e-3},
    },
    "data": {"global_batch_size": 16},
    "trainer": {"default_root_dir": "runs/base", "max_steps": 1000, "val_check_interval": 100},
}
STUDY: dict[str, Any] = {
    "question": "Which?",
    "kind": "sensitivity",
    "budget": 320,
    "seeds": [0, 1],
    "heads": {"plain": {"model.scorer": {"class_path": "Cosine"}}, "late": {}},
    "axes": {
        "rate": {"key": "model.optimizer.learning_rate", "choices": [1e-3, 1e-2]},
        "width": {"key": "model.pooling.init_args.dim", "choices": [4, 8], "heads": ["late"]},
    },
}


def write_study(folder: Path, **changes: Any) -> Path:
    """A study file and its recipe; a change to None takes a field away."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    content = {key: value for key, value in (STUDY | {"recipe": str(recipe)} | changes).items() if value is not None}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


STAND_IN = """
import json, math, pathlib, sys, yaml
recipe = yaml.safe_load(open(sys.argv[1]))
run = pathlib.Path(recipe["trainer"]["default_root_dir"])
(run / "followir/step-00000020").mkdir(parents=True, exist_ok=True)
with open(run / "starts", "a") as starts:
    starts.write("x")
rate, seed = recipe["model"]["optimizer"]["learning_rate"], recipe["seed_everything"]
if {fault}:
    print("error: what a trial says at its end")
    sys.exit({status})
benchmark = dict.fromkeys(("p_mrr", "score_a", "score_b", "score_c"), {score})
record = {{"step": 20, "benchmark": benchmark, "tasks": [{{"task": "t", "p_mrr": 1.0}}]}}
(run / "followir/step-00000020/metrics.json").write_text(json.dumps(record))
(run / "threads").write_text(str(sys.modules["torch"].get_num_threads()))
"""


def stand_in(folder: Path, fault: str = "False", status: int = 1, score: str = "1000 * rate + seed") -> tuple[str, ...]:
    """A module that leaves what ``fit`` leaves; fault and score are Python, of rate and seed."""
    name = f"fit_{len(list(folder.glob('fit_*.py')))}"
    (folder / f"{name}.py").write_text(STAND_IN.format(fault=fault, status=status, score=score))
    return (name,)
