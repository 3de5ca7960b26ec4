"""FollowIRDiagnostics: at every validation, why p-MRR is what it is."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.table import Table
from torch import Tensor

from ifir_lightning import distributed, durable
from ifir_lightning.callbacks.observer import ValidationObserver
from ifir_lightning.callbacks.progress import console
from ifir_lightning.data.evalset import Task
from ifir_lightning.diagnostics import PairDiagnostics, Spectrum, spectrum_figures
from ifir_lightning.errors import InputError
from ifir_lightning.models.scoring import MaxSim, WeightedMaxSim
from ifir_lightning.module import RetrieverModule
from ifir_lightning.reranking import Encoded
from ifir_lightning.spans import Span, query_spans, special_tokens
from ifir_lightning.task_diagnostics import (
    change_figures,
    joined_pairs,
    mean_figures,
    ranking_figures,
    share_figures,
)

COLLAPSED = 0.95
"""Mean cosine of two passage embeddings drawn at random from which on they are hardly told apart."""


class FollowIRDiagnostics(ValidationObserver):
    """Logs ``followir/diagnostics/<figure>``, means over tasks, from the encodings of ``FollowIRValidation``.

    Every model: ``without_instruction/p_mrr|score_b`` (queries encoded again without their instruction; their p-MRR is
    0 where original and changed have one query), ``effective_rank`` and ``mean_cosine`` of the passages' embeddings,
    ``cost`` (share of the validation's time, in %). MaxSim and weighted MaxSim also: what ``task_diagnostics.py``
    lists, ``scorer/<name>/p_mrr|score_b`` (the same token vectors under other operators), and ``negative_weight`` (of
    the instruction's tokens, in %). All figures of every task are in ``diagnostics.json`` beside ``metrics.json``.

    Args:
        smooth_temperature: Of the smooth maximum; similarities are divided by it.
        top_k: The k of ``top_k_mean``.
    """

    def __init__(self, smooth_temperature: float = 0.1, top_k: int = 3) -> None:
        if not (smooth_temperature > 0 and top_k > 0):
            raise InputError(
                f"FollowIRDiagnostics has smooth_temperature {smooth_temperature} and top_k {top_k}; allowed is more "
                "than 0: set them to 0.1 and 3"
            )
        self.smooth_temperature, self.top_k = smooth_temperature, top_k
        self._tasks: dict[str, dict[str, float]] = {}
        self._seconds = self._begun = self._total = 0.0

    def begin_task(self, task: Task, module: RetrieverModule) -> None:
        self._begun = time.perf_counter()
        self._task, self._retriever = task, module.retriever
        self._pairs: PairDiagnostics | None = None
        self._spectrum = Spectrum()
        self._numbers: list[int] = []
        self._ids: list[str] = []
        self._figures: list[dict[str, Tensor]] = []
        with self._timed():
            texts = [(text, task.instructions[id_]) for id_, text in task.queries.items()]
            bare = {text: number for number, text in enumerate(dict.fromkeys(task.queries.values()))}
            self._bare_Q = torch.tensor([bare[text] for text in task.queries.values()])
            self._bare = self._retriever.encode(self._retriever.tokenizer.queries((text, "") for text in bare))
            self._spans_N = query_spans(self._retriever.tokenizer, texts) if self._by_token else None

    @property
    def _by_token(self) -> bool:
        return not self._retriever.pooling.one_per_text and isinstance(self._retriever.scorer, MaxSim | WeightedMaxSim)

    def observe(self, encoded: Encoded) -> None:
        with self._timed():
            self._spectrum.add(encoded.passages.values_ND)
            figures = {"without_instruction": self._score_bare(encoded)}
            if self._spans_N is not None:
                figures |= self._diagnose(encoded, self._spans_N)
            self._figures.append(figures)
            self._numbers += encoded.index_K2[:, 0].tolist()
            self._ids += [encoded.ids[place] for place in encoded.index_K2[:, 1].tolist()]

    def _score_bare(self, encoded: Encoded) -> Tensor:
        """Original and changed have one bare query, which is scored once."""
        width = len(encoded.passages)
        number_K = self._bare_Q[encoded.index_K2[:, 0]] * width + encoded.index_K2[:, 1]
        distinct, place_K = number_K.unique(return_inverse=True)
        pairs = torch.stack([distinct // width, distinct % width], dim=1)
        scores = self._retriever.scorer.pairs(self._bare, encoded.passages, pairs)
        return scores[place_K.to(scores.device)]

    def _diagnose(self, encoded: Encoded, spans_N: Tensor) -> dict[str, Tensor]:
        special_N = special_tokens(self._retriever.tokenizer, encoded.tokens)[encoded.tokens.keep_T]
        if self._pairs is None:
            scorer = self._retriever.scorer
            assert isinstance(scorer, MaxSim | WeightedMaxSim)
            spans_N = _fitting(spans_N, encoded.queries.values_ND)
            settings = scorer.reduction, self.smooth_temperature, self.top_k
            self._pairs = PairDiagnostics(encoded.queries, spans_N, *settings)
        return self._pairs(encoded.passages, _fitting(special_N, encoded.passages.values_ND), encoded.index_K2)

    def end_task(self) -> None:
        with self._timed():
            names = self._figures[0] if self._figures else {}
            own = {name: torch.cat([each[name] for each in self._figures]).cpu() for name in names}
            task = self._task
            gathered = distributed.gather_objects((self._numbers, self._ids, own))
            pairs = joined_pairs(list(task.queries), gathered)
            figures = ranking_figures(pairs, task.qrels, task.changed, task.metric)
            figures |= spectrum_figures(distributed.gather_objects(self._spectrum.sums))
            if self._spans_N is not None:
                figures |= share_figures(pairs, self._num_instruction_tokens(self._spans_N))
                figures |= change_figures(pairs, task.changed)
                for weights in distributed.gather_objects(self._weights(self._spans_N)):
                    figures |= weights  # a rank without passages has none
            self._tasks[task.name] = figures
        self._total += time.perf_counter() - self._begun

    def _num_instruction_tokens(self, spans_N: Tensor) -> dict[str, int]:
        lengths = self._retriever.tokenizer.queries(
            (text, self._task.instructions[id_]) for id_, text in self._task.queries.items()
        ).lengths_B.tolist()
        counts = ((part == Span.INSTRUCTION).sum() for part in spans_N.split(lengths))
        return {id_: int(count) for id_, count in zip(self._task.queries, counts, strict=True)}

    def _weights(self, spans_N: Tensor) -> dict[str, float]:
        weights_N = None if self._pairs is None else self._pairs.queries.weights_N
        if weights_N is None:
            return {}
        of_instruction = weights_N.cpu()[spans_N == Span.INSTRUCTION]
        return {"negative_weight": 100 * float((of_instruction < 0).float().mean())} if len(of_instruction) else {}

    def finish(self, trainer: Trainer, module: RetrieverModule, folder: Path) -> dict[str, float]:
        cost = 100 * self._seconds / self._total
        means = mean_figures(list(self._tasks.values())) | {
            "cost": float(distributed.all_reduce_mean(torch.tensor(cost, device=module.device)))
        }
        if trainer.is_global_zero:
            record = {"step": module.steps_done, "means": means, "tasks": self._tasks}
            durable.write_text(folder / "diagnostics.json", json.dumps(record, indent=1))
            console(trainer).print(_table(means, folder.name))
        if module.steps_done and means["mean_cosine"] > COLLAPSED:
            rank_zero_warn(_alarm(means))
        self._tasks, self._seconds, self._total = {}, 0.0, 0.0
        return {f"followir/diagnostics/{name}": value for name, value in means.items()}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Adds to the time that diagnostics take; a GPU is waited for, so that its work is counted where it belongs."""
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self._seconds += time.perf_counter() - begin

    def _wait(self) -> None:
        if self._retriever.device.type == "cuda":
            torch.cuda.synchronize(self._retriever.device)


def _fitting(per_token: Tensor, values_ND: Tensor) -> Tensor:
    """On the embeddings' device; a pooling of one's own must keep the tokens that the tokenizer says."""
    if len(per_token) != len(values_ND):
        raise InputError(
            f"model.pooling gives {len(values_ND)} embeddings for {len(per_token)} kept tokens; FollowIRDiagnostics "
            "allows one each, in their order: leave it out of trainer.callbacks"
        )
    return per_token.to(values_ND.device)


def _alarm(means: dict[str, float]) -> str:
    return (
        f"collapse: two passage embeddings drawn at random have a cosine of {means['mean_cosine']:.3f} (effective rank "
        f"{means['effective_rank']:.1f}); a model that tells passages apart has less than {COLLAPSED}: lower "
        "model.optimizer.learning_rate, lengthen model.schedule.warmup_steps, or go back to an earlier checkpoint"
    )


def _table(means: dict[str, float], title: str) -> Table:
    """Rankings first, as pairs of p-MRR and Score B; then the other figures."""
    table = Table(title=f"FollowIR diagnostics (x100; ranks and cosines as they are), {title}")
    table.add_column("", no_wrap=True)
    for column in ("p-MRR", "Score B", "value"):
        table.add_column(column, justify="right")
    for name in [name.removesuffix("/p_mrr") for name in means if name.endswith("/p_mrr")]:
        label = "scorer/maxsim (sum or mean: the same order)" if name == "scorer/maxsim" else name
        table.add_row(label, f"{means[f'{name}/p_mrr']:+.2f}", f"{means[f'{name}/score_b']:.2f}", "")
    table.add_section()
    for name, value in means.items():
        if not name.endswith(("/p_mrr", "/score_b")):
            table.add_row(name, "", "", f"{value:.2f}")
    return table
