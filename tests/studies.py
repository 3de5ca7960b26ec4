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
