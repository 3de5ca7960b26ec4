"""RetrieverModule: the one LightningModule. Bi-encoder and late interaction differ in pooling and scorer only."""

import hashlib
import logging
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import Parameter

from ifir_lightning import distributed
from ifir_lightning.errors import InputError
from ifir_lightning.losses import Loss, accuracy, check_loss, instruction_accuracy, pair_kinds
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.models.description import describe, phrase
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.models.snapshot import KEY as SNAPSHOT
from ifir_lightning.optimization import AdamW, Schedule, hyperparameters, restate
from ifir_lightning.records import Batch, Kind, Tokens
from ifir_lightning.retriever import build_retriever
from ifir_lightning.text_format import TextSettings

_log = logging.getLogger(__name__)
_PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What attention computes in, by ``trainer.precision``."""


class RetrieverModule(LightningModule):
    """A retriever and how it learns.

    Args:
        loss: Scores -> scalar.
        checkpoint: What to start from: a folder of transformers, sentence-transformers, PyLate or Stanford
            ColBERT, a hub id of one (owner/name[@revision]), a run folder or a .ckpt file of ours. What it says of
            pooling, scorer and texts is the default of the settings below.
        backbone: How the transformer runs; or, instead of a checkpoint, its configuration.
        pooling: Hidden states -> embeddings: one vector per text (bi-encoder) or per token (late interaction).
        scorer: Embeddings -> scores.
        text: Prefixes, markers and limits of texts.
        optimizer: AdamW's settings.
        schedule: Warm-up and decay.
        seed: Seeds new layers, and dropout at the address (seed, rank, epoch, batch); recipes link it to
            ``seed_everything``.

    Raises:
        InputError: A checkpoint that cannot be read, parts that are missing or do not fit, a loss that training
            could not call.
    """

    def __init__(
        self,
        loss: Loss,
        checkpoint: str | None = None,
        backbone: BackboneSettings = BackboneSettings(),  # noqa: B008  (frozen, as those below)
        pooling: Pooling | None = None,
        scorer: Scorer | None = None,
        text: TextSettings = TextSettings(),  # noqa: B008
        optimizer: AdamW = AdamW(),  # noqa: B008
        schedule: Schedule = Schedule(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_loss(loss)
        self.retriever = build_retriever(checkpoint, backbone, pooling, scorer, text, seed)
        self.loss, self.optimizer_settings, self.schedule, self.seed = loss, optimizer, schedule, seed
        self._loaded_step = 0

    @property
    def steps_done(self) -> int:
        """Optimizer steps behind the weights: of this run, or of the checkpoint that is only evaluated."""
        return self.global_step or self._loaded_step

    def setup(self, stage: str) -> None:
        """Choose the attention kernel for the device and precision of this trainer."""
        precision = str(self.trainer.precision)
        if precision not in _PRECISIONS:
            raise InputError(
                f"trainer.precision is {precision}; allowed are {', '.join(_PRECISIONS)} (weights and scores stay in "
                "float32): use bf16-mixed for speed"
            )
        self.retriever.prepare(self.trainer.strategy.root_device, _PRECISIONS[precision])
        self._snapshot = self.retriever.snapshot()
        if stage == "fit":
            parts = [phrase(describe(part)) for part in (self.retriever.pooling, self.retriever.scorer)]
            _log.info("model: %s, %s, %s", *parts, self.retriever.tokenizer.format)
            _log.info("parameters: %s", self._sizes())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside the weights, what it takes to make the retriever again: a checkpoint needs nothing else."""
        checkpoint[SNAPSHOT] = self._snapshot

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not those of this recipe's model, by their names and shapes."""
        _check_same_weights(checkpoint["state_dict"], self.state_dict())
        self._loaded_step = checkpoint["global_step"]

    def on_train_start(self) -> None:
        """When optimizer and schedule of a checkpoint have been loaded."""
        restate(self._scheduler, self._hyperparameters)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        address = f"{self.seed}/{distributed.rank()}/{self.current_epoch}/{batch_idx}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(address.encode(), digest_size=7).digest(), "big"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Encode, gather, score, loss."""
        texts = self.retriever(Tokens.concat([batch.queries, batch.passages]))
        queries, passages = texts.split(len(batch.queries), len(batch.passages))
        all_queries = distributed.gather_embeddings(queries)
        all_ids_P = distributed.gather_rows(batch.passage_ids_P)
        all_kinds_P = distributed.gather_rows(batch.kinds_P)

        scores_QP = self.retriever.scorer(all_queries, passages)
        scores_QP = distributed.exchange_scores(scores_QP)

        first = distributed.rank() * len(batch.passages)
        targets_Q = first + torch.arange(len(batch.queries), device=self.device) * batch.group_size
        kinds_QP = pair_kinds(all_kinds_P, all_ids_P, targets_Q, batch.group_size)
        loss = self.loss(scores_QP, targets_Q, kinds_QP, teacher_QG=batch.teacher_QG)
        self._log_step(loss, scores_QP.detach(), targets_Q, kinds_QP, batch)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Validation is the work of callbacks (``FollowIRValidation``); Lightning wants a step to loop over."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As ``validation_step``."""

    def predict_step(self, batch: Any, batch_idx: int) -> list[Any]:
        """As ``validation_step``: ``TrecPrediction`` does the work. Of None Lightning would warn."""
        return []

    def new_layers(self) -> list[Parameter]:
        """Parameters of what pooling, scorer and loss bring along."""
        parts = (self.retriever.pooling, self.retriever.scorer, self.loss)
        return [parameter for part in parts for parameter in part.parameters()]

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped with the optimizer."""
        optimizer = self.optimizer_settings.build(self.retriever.backbone.parameters(), self.new_layers())
        self._scheduler = self.schedule.build(optimizer, self.trainer.max_steps)
        self._hyperparameters = hyperparameters(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler, "interval": "step"}}

    def _sizes(self) -> str:
        parts = {name: getattr(self.retriever, name) for name in ("backbone", "pooling", "scorer")} | {
            "loss": self.loss
        }
        sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
        trained = sum(each.numel() for each in self.parameters() if each.requires_grad)
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
        return f"{listed}; {'all' if trained == sum(sizes.values()) else f'{trained:,}'} trained"

    def _log_step(self, loss: Tensor, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, batch: Batch) -> None:
        """Log means over the queries of all ranks; of a step of several batches the last one's stay."""
        scored = (scores_QP, targets_Q, kinds_QP)
        asked = (kinds_QP == Kind.INSTRUCTION_NEGATIVE).any(dim=1).float().mean()
        followed = instruction_accuracy(*scored).nan_to_num() * asked
        cut = (batch.queries.cut_B > 0).float().mean()
        shares = torch.stack([loss.detach(), accuracy(*scored), cut, asked, followed])
        loss, correct, cut, asked, followed = distributed.all_reduce_mean(shares)
        log = {
            "train/accuracy": correct,
            "train/accuracy_instruction_negatives": followed / asked,  # NaN where no query of the batch has one
            "train/truncated_queries": cut,
            "epoch": torch.tensor(float(self.current_epoch)),  # Lightning adds it where nobody says the step
            # loggers count updates done, as folders and pictures do
            "step": torch.tensor(self.global_step + 1.0, dtype=torch.float32),
        }
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.queries))
        self.log_dict(log, batch_size=len(batch.queries))


def _check_same_weights(written: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    before, now = ({name: list(weight.shape) for name, weight in each.items()} for each in (written, own))
    differing = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    if differing:
        name, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise InputError(
            f"the checkpoint has other weights than the recipe's model: {name} was {before.get(name, 'not there')} and "
            f"is {now.get(name, 'not there')}{more}; allowed are the same: restore the settings of model, or train "
            "another run that starts from them, with model.checkpoint"
        )
