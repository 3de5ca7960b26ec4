"""RetrieverModule: the one LightningModule. Bi-encoder and late interaction differ in pooling and scorer only."""

import hashlib
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from ifir_lightning import distributed
from ifir_lightning.errors import InputError
from ifir_lightning.losses import Loss, accuracy, instruction_accuracy, pair_kinds
from ifir_lightning.models.backbone import Backbone
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.optimization import AdamW, Schedule
from ifir_lightning.records import Batch, Embeddings, Kind, Tokens
from ifir_lightning.text import TextFormat, TextTokenizer

_PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What attention computes in, by ``trainer.precision``."""


class RetrieverModule(LightningModule):
    """A retriever: texts -> embeddings -> scores, and how it learns.

    Args:
        backbone: The transformer and its tokenizer.
        pooling: Hidden states -> embeddings: one vector per text (bi-encoder) or per token (late interaction).
        scorer: Embeddings -> scores.
        loss: Scores -> scalar.
        text: Prefixes and limits of texts.
        optimizer: AdamW's settings.
        schedule: Warm-up and decay.
        seed: Seeds dropout, at the address (seed, rank, epoch, batch); recipes link it to ``seed_everything``.

    Raises:
        InputError: A pooling and a scorer that do not fit, a text limit beyond the backbone's positions.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: Pooling,
        scorer: Scorer,
        loss: Loss,
        text: TextFormat = TextFormat(),  # noqa: B008  (frozen)
        optimizer: AdamW = AdamW(),  # noqa: B008  (frozen)
        schedule: Schedule = Schedule(),  # noqa: B008  (frozen)
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_fit(pooling, scorer)
        _check_limits(text, backbone)
        pooling.build(backbone.hidden_size)
        self.backbone, self.pooling, self.scorer, self.loss = backbone, pooling, scorer, loss
        self.tokenizer = TextTokenizer(backbone.tokenizer, text)
        self.optimizer_settings, self.schedule, self.seed = optimizer, schedule, seed

    def setup(self, stage: str) -> None:
        """Choose the attention kernel for the device and precision of this trainer."""
        precision = str(self.trainer.precision)
        if precision not in _PRECISIONS:
            raise InputError(
                f"trainer.precision is {precision}; allowed are {', '.join(_PRECISIONS)} (weights and scores stay in "
                "float32): use bf16-mixed for speed"
            )
        self.backbone.prepare(self.trainer.strategy.root_device, _PRECISIONS[precision])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        address = f"{self.seed}/{distributed.rank()}/{self.current_epoch}/{batch_idx}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(address.encode(), digest_size=7).digest(), "big"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Encode, gather, score, loss."""
        texts = self.encode(Tokens.concat([batch.queries, batch.passages]))
        queries, passages = texts.split(len(batch.queries), len(batch.passages))
        all_queries, num_queries = distributed.gather_embeddings(queries)
        all_ids_P, num_passages = distributed.gather_rows(batch.passage_ids_P)
        all_kinds_P, _ = distributed.gather_rows(batch.kinds_P)

        scores_QP = self.scorer(all_queries, passages)
        scores_QP = distributed.exchange_scores(scores_QP, num_queries, num_passages)

        first = sum(num_passages[: distributed.rank()])
        targets_Q = first + torch.arange(len(batch.queries), device=self.device) * batch.group_size
        kinds_QP = pair_kinds(all_kinds_P, all_ids_P, targets_Q, batch.group_size)
        loss = self.loss(scores_QP, targets_Q, kinds_QP)
        self._log_step(loss, scores_QP.detach(), targets_Q, kinds_QP, batch)
        return loss

    def encode(self, tokens: Tokens) -> Embeddings:
        """Embeddings of packed texts, on the device of the tokens."""
        return self.pooling(self.backbone(tokens))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Validation is the work of callbacks (``FollowIRValidation``); Lightning wants a step to loop over."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As ``validation_step``."""

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """As ``validation_step``: ``TrecPrediction`` does the work."""

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, stepped with the optimizer."""
        new_layers = [p for part in (self.pooling, self.scorer, self.loss) for p in part.parameters()]
        optimizer = self.optimizer_settings.build(self.backbone.parameters(), new_layers)
        scheduler = self.schedule.build(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log_step(self, loss: Tensor, scores_QP: Tensor, targets_Q: Tensor, kinds_QP: Tensor, batch: Batch) -> None:
        """Log means over the queries of all ranks."""
        scored = (scores_QP, targets_Q, kinds_QP)
        asked = (kinds_QP == Kind.INSTRUCTION_NEGATIVE).any(dim=1).float().mean()
        followed = instruction_accuracy(*scored).nan_to_num() * asked
        cut = (batch.queries.cut_B > 0).float().mean()
        shares = torch.stack([loss.detach(), accuracy(*scored), cut, asked, followed])
        loss, correct, cut, asked, followed = distributed.average(shares)
        log = {
            "train/accuracy": correct,
            "train/truncated_queries": cut,
            # loggers count updates done, as folders and pictures do
            "step": torch.tensor(self.global_step + 1.0, dtype=torch.float32),
        }
        if asked > 0:
            log["train/accuracy_instruction_negatives"] = followed / asked
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.queries))
        self.log_dict(log, batch_size=len(batch.queries))


def _check_fit(pooling: Pooling, scorer: Scorer) -> None:
    names = f"model.scorer {type(scorer).__name__}", f"model.pooling {type(pooling).__name__}"
    if scorer.one_per_text and not pooling.one_per_text:
        raise InputError(
            f"{names[0]} compares one vector per text, but {names[1]} gives one per token; allowed with it are "
            "MeanPooling, CLSPooling and LastTokenPooling: change the pooling, or take MaxSim as scorer"
        )
    if scorer.needs_weights != pooling.has_weights:
        raise InputError(
            f"{names[0]} {'needs' if scorer.needs_weights else 'does not use'} token weights, but {names[1]} "
            f"{'gives none' if scorer.needs_weights else 'learns them'}; allowed are WeightedMaxSim with "
            "TokenProjection(token_weights=true) and every other scorer without: set token_weights or the scorer"
        )


def _check_limits(text: TextFormat, backbone: Backbone) -> None:
    for name in ("max_query_length", "max_passage_length"):
        if backbone.max_length is not None and getattr(text, name) > backbone.max_length:
            raise InputError(
                f"model.text.{name} is {getattr(text, name)}, but the backbone has {backbone.max_length} positions; "
                f"allowed are up to {backbone.max_length}: lower model.text.{name}"
            )
