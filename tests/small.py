"""Small retrievers, trainers and tasks that several test files share."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer

from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.sampling import GroupSampler, Strategy
from ifir_lightning.data.synthetic import task_tables
from ifir_lightning.distributed import world_size
from ifir_lightning.losses import InfoNCE
from ifir_lightning.models.backbone import Backbone, BackboneSettings
from ifir_lightning.models.checkpoints import read_checkpoint
from ifir_lightning.models.pooling import MeanPooling, Pooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim, Scorer, WeightedMaxSim
from ifir_lightning.module import RetrieverModule
from ifir_lightning.optimization import AdamW, Schedule
from ifir_lightning.text_format import TextSettings

Head = Literal["bi-encoder", "maxsim", "weighted"]
HEADS: tuple[Head, ...] = ("bi-encoder", "maxsim", "weighted")
WORDS = ("a", "quiet", "hotel", "near", "the", "harbour", "with", "breakfast", "and", "garden", "for", "walks", "no")
QUICK = (
    "--config=configs/quickstart.yaml",
    "--data.path=synthetic:64",
    "--data.rows=all",
    "--data.global_batch_size=4",
    "--data.groups.group_size=4",
    "--trainer.max_steps=4",
    "--followir.tasks=[synthetic/food]",
)
"""Arguments of a quickstart of seconds."""
DROPOUT = {"attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1}


def retriever(
    backbone: Path, /, head: Head = "bi-encoder", config: dict[str, Any] | None = None, **settings: Any
) -> RetrieverModule:
    """A retriever on the weights of a folder, or on random ones of a config with the folder's tokenizer.

    Its layers are drawn from seed 0. The weights of weighted MaxSim, which start at 1, are moved apart. It computes
    on one thread: so small a model gains nothing from more, and the ranks, of one thread each, have the same bits.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pooling, scorer = make_head(head)
    options = {
        "checkpoint": str(backbone) if config is None else None,
        "backbone": BackboneSettings() if config is None else BackboneSettings(config, str(backbone)),
        "pooling": pooling,
        "scorer": scorer,
        "text": TextSettings(max_query_length=64, max_passage_length=64),
        "loss": InfoNCE(temperature=0.1),
        "optimizer": AdamW(learning_rate=3e-3),
        "schedule": Schedule(decay="constant"),
    }
    module = RetrieverModule(**(options | settings))  # type: ignore[arg-type]
    built = module.retriever.pooling
    if isinstance(built, TokenProjection) and built.weight:
        torch.nn.init.normal_(built.weight.weight, std=0.3)
    return module


def make_head(head: Head) -> tuple[Pooling, Scorer]:
    """The pooling and the scorer of a head."""
    if head == "bi-encoder":
        return MeanPooling(), Cosine()
    scorer: Scorer = WeightedMaxSim("mean") if head == "weighted" else MaxSim("mean")
    return TokenProjection(dim=16, token_weights=head == "weighted"), scorer


TINY = {
    "model_type": "modernbert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def synthetic_data(
    num_rows: int = 16,
    batch: int = 4,
    group_size: int = 3,
    strategy: Strategy = "shuffled_window",
    **settings: Any,
) -> PromptrieverData:
    """Rows of the synthetic world."""
    groups = GroupSampler(group_size=group_size, strategy=strategy)
    return PromptrieverData(f"synthetic:{num_rows}", batch, groups, **settings)


def trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    """A quiet trainer on the CPU, over the ranks that there are."""
    quiet = {
        "default_root_dir": folder,
        "callbacks": list(callbacks),
        "accelerator": "cpu",
        "devices": world_size(),
        "strategy": "ddp" if world_size() > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**(quiet | settings))


class Recorder(Callback):
    """Remembers the rows of every batch and the metrics logged with it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[int]]] = []  # epoch and rows of the table
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        _, batch, _ = args
        self.rows.append((trainer.current_epoch, batch.rows_Q.tolist()))
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def write_task(folder: Path, domain: str = "travel", num_queries: int = 3, num_candidates: int = 30) -> str:
    """A task of the synthetic world as a folder in the published layout; its name is that of the folder."""
    for config, records in task_tables(domain, num_queries=num_queries, num_candidates=num_candidates).items():
        (folder / config).mkdir(parents=True)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / config / "test.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


def load_backbone(checkpoint: Path, **settings: Any) -> Backbone:
    """The backbone of a folder."""
    read = read_checkpoint(str(checkpoint))
    return Backbone(read.transformer, read.tokenizer, BackboneSettings(**settings))
