"""FollowIRValidation: the FollowIR benchmark at every validation."""

import json
import os
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ifir_lightning import distributed
from ifir_lightning.callbacks.curves import draw_curves
from ifir_lightning.data.evalset import Task, load_task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Metrics, Run, benchmark, evaluate_run
from ifir_lightning.module import RetrieverModule
from ifir_lightning.reranking import Reranker
from ifir_lightning.trec import write_run
from ifir_lightning.truncation import audit_queries

_LOGGED = (
    "p_mrr",
    *(f"{metric}_{scale}" for metric in ("map_1000", "ndcg_5", "score") for scale in "abc"),
    "truncated_query_tokens",
    "truncated_passage_tokens",
)


class FollowIRValidation(Callback):
    """Re-ranks FollowIR tasks before the first step of ``fit``, at each validation, and under validate and test.

    Logs ``followir/p_mrr``, ``followir/score_a|b|c`` (means over tasks) and the same per task as
    ``followir/<task>/...``, all x100; checkpoints and early stopping can monitor them. Writes into the run folder
    ``followir/step-XXXXXXXX/<task>.trec`` and ``metrics.json``, and redraws ``p_mrr.png``; under ``validate`` and
    ``test`` the folder is ``followir/validate`` or ``followir/test``.

    Args:
        tasks: Folders, hub ids (``id@revision``) or ``synthetic/NAME``.
        max_tokens: Tokens encoded at a time.

    Raises:
        InputError: A task that cannot be read, or two of one name, before training begins.
    """

    def __init__(self, tasks: list[str], max_tokens: int = 16384) -> None:
        if not tasks:
            raise InputError(
                "followir.tasks is empty; allowed are one or more tasks: name one (to train without validation, "
                "name one and set trainer.limit_val_batches to 0)"
            )
        if max_tokens < 1:
            raise InputError(f"followir.max_tokens is {max_tokens}; allowed is 1 or more, e.g. 16384: raise it")
        self.paths, self.max_tokens = tasks, max_tokens
        self.tasks: list[Task] = []
        self._audited: set[str] = set()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.PREDICTING:
            return
        self.tasks = self.tasks or [load_task(path) for path in self.paths]
        names = [task.name for task in self.tasks]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(
                f"followir.tasks {self.paths}: {len(repeated)} have the name {repeated[0]!r}, which metrics "
                "and files carry; allowed are distinct names: rename a folder or leave one out"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """The untrained model, as step 0 of the curves."""
        if trainer.global_step == 0 and trainer.enable_validation:
            module.eval()
            logged = self._evaluate(trainer, module)
            module.train()
            for logger in trainer.loggers:
                logger.log_metrics(logged, step=0)
                logger.save()

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            logged = self._evaluate(trainer, module)
            headline = {key: logged.pop(key) for key in ("followir/p_mrr", "followir/score_b")}
            module.log_dict(headline, prog_bar=True, sync_dist=True)
            module.log_dict(logged | {"step": float(trainer.global_step)}, sync_dist=True)

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.log_dict(self._evaluate(trainer, module), sync_dist=True)

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Re-rank every task, write, draw, print; the metrics under their logger names, the same on every rank."""
        assert isinstance(module, RetrieverModule)
        reranker = Reranker(module.retriever, self.max_tokens)
        folder = _output_folder(trainer)
        results = []
        for task in self.tasks:
            with trainer.precision_plugin.forward_context():  # Lightning's own autocast covers steps, not hooks
                run, passage_cut = self._rerank(reranker, task, trainer)
            metrics = evaluate_run(run, task.qrels, task.changed, task.name, task.metric)
            query_cut = self._audit(module, task)
            results.append(
                metrics | {"truncated_query_tokens": 100 * query_cut, "truncated_passage_tokens": 100 * passage_cut}
            )
            if trainer.is_global_zero:
                write_run(folder / f"{task.name}.trec", run, tag="ifir_lightning")
        means = benchmark(results)
        if trainer.is_global_zero:
            _report(trainer, folder, results, means)
        return _logger_names(results, means)

    def _rerank(self, reranker: Reranker, task: Task, trainer: Trainer) -> tuple[Run, float]:
        with Progress(console=_console(trainer), transient=True, disable=not trainer.is_global_zero) as progress:
            bar = progress.add_task(f"re-ranking {task.name}", total=len(task.passages) / distributed.world_size())
            return reranker(
                {id_: (text, task.instructions[id_]) for id_, text in task.queries.items()},
                task.passages,
                task.candidates,
                lambda num_passages: progress.advance(bar, num_passages),
            )

    def _audit(self, module: RetrieverModule, task: Task) -> float:
        """Share of query tokens that the limit cut; the first time, a warning if that costs instructions."""
        cuts = audit_queries(module.retriever.tokenizer, task.queries, task.instructions)
        if task.name not in self._audited and (message := cuts.warning(task.name)):
            rank_zero_warn(message)
        self._audited.add(task.name)
        return cuts.share


def _output_folder(trainer: Trainer) -> Path:
    assert trainer.state.fn is not None
    fitting = trainer.state.fn == TrainerFn.FITTING
    name = f"step-{trainer.global_step:08d}" if fitting else trainer.state.fn.value
    folder = Path(trainer.default_root_dir) / "followir" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _console(trainer: Trainer) -> Console:
    """The console of the progress bar, which keeps what is printed apart from the bar."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None:
        return bar.progress.console
    return Console()


def _report(trainer: Trainer, folder: Path, results: list[Metrics], means: dict[str, float]) -> None:
    record = {"step": trainer.global_step, "benchmark": means, "tasks": results}
    partial = folder / "metrics.json.tmp"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(partial, folder / "metrics.json")
    if folder.name.startswith("step-"):
        draw_curves(folder.parent, folder.parent.parent / "p_mrr.png")
    _console(trainer).print(_table(results, means, folder.name))


def _logger_names(results: list[Metrics], means: dict[str, float]) -> dict[str, float]:
    named = {f"followir/{key}": value for key, value in means.items()}
    for metrics in results:
        named |= {f"followir/{metrics['task']}/{key}": float(metrics[key]) for key in _LOGGED}
    return named


def _table(results: list[Metrics], means: dict[str, float], title: str) -> Table:
    table = Table(title=f"FollowIR (x100), {title}")
    table.add_column("task", no_wrap=True)
    for column in ("p-MRR", "Score B", "Score A", "Score C", "queries", "query cut"):
        table.add_column(column, justify="right")
    keys = ("score_b", "score_a", "score_c")
    for metrics in results:
        values = [f"{metrics['p_mrr']:+.2f}", *(f"{metrics[key]:.2f}" for key in keys)]
        table.add_row(
            str(metrics["task"]),
            *values,
            str(metrics["num_queries"]),
            f"{metrics['truncated_query_tokens']:.1f}%",
        )
    table.add_section()
    table.add_row("mean", f"{means['p_mrr']:+.2f}", *(f"{means[key]:.2f}" for key in keys), style="bold")
    return table
