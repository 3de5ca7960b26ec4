"""Run folders as fit leaves them, with scores drawn at random instead of a model's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ifir_lightning.benchmarks.task import mean_metrics
from ifir_lightning.data.evalset import Task, load_task
from ifir_lightning.metrics import Metrics, Run, evaluate_run
from ifir_lightning.trec import write_run

STEPS = (0, 10, 20)


def write_run_folder(
    folder: Path,
    tasks: list[str],
    seed: int = 0,
    skill: float = 0.0,
    steps: tuple[int, ...] | None = STEPS,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run whose scores know more of the qrels the greater ``skill`` is; without steps as ``validate`` leaves it."""
    loaded = [load_task(task) for task in tasks]
    for step in steps or (0,):
        validation = folder / "followir" / (f"step-{step:08d}" if steps else "validate")
        validation.mkdir(parents=True)
        results: list[Metrics] = []
        for index, task in enumerate(loaded):
            run = random_run(task, np.random.default_rng([seed, step, index]), skill * step / STEPS[-1])
            write_run(validation / f"{task.name}.trec", run, tag="test")
            results.append(evaluate_run(run, task.qrels, task.changed, task.name, task.metric))
        record = {"step": step, "benchmark": mean_metrics(Task.headline, results), "tasks": results}
        (validation / "metrics.json").write_text(json.dumps(record))
    config = folder / "config.yaml" if steps else validation / "config.yaml"
    config.write_text(yaml.safe_dump(recipe(folder, tasks, seed) | (settings or {})))
    return folder


def random_run(task: Task, generator: np.random.Generator, skill: float) -> Run:
    """Noise, and ``skill`` times the grade."""
    return {
        query_id: {
            doc_id: float(generator.normal() + skill * task.qrels[query_id].get(doc_id, 0)) for doc_id in candidates
        }
        for query_id, candidates in task.candidates.items()
    }


def head(pooling: str, scorer: str) -> dict[str, Any]:
    """The key ``model`` with this head."""
    return {
        "model": {
            "checkpoint": None,
            "backbone": {"config": {"model_type": "modernbert", "num_hidden_layers": 2, "hidden_size": 32}},
            "pooling": {"class_path": f"ifir_lightning.models.pooling.{pooling}"},
            "scorer": {"class_path": f"ifir_lightning.models.scoring.{scorer}"},
            "optimizer": {"learning_rate": 0.001, "betas": [0.9, 0.999]},
        }
    }


def recipe(folder: Path, tasks: list[str], seed: int) -> dict[str, Any]:
    """As config.yaml holds it."""
    return {
        "seed_everything": seed,
        "trainer": {"default_root_dir": str(folder), "max_steps": 20, "accumulate_grad_batches": 2, "callbacks": None},
        "data": {"global_batch_size": 8},
        "followir": {"tasks": tasks},
        "ckpt_path": None,
    } | head("MeanPooling", "Cosine")
