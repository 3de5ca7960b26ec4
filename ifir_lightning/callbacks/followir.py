"""FollowIRValidation: FollowIR, and other benchmarks beside it, at every validation."""

import json
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ifir_lightning import distributed, durable
from ifir_lightning.benchmarks.names import named_task
from ifir_lightning.benchmarks.task import RankingTask, mean_metrics
from ifir_lightning.callbacks.checkpoints import never_validates
from ifir_lightning.callbacks.curves import draw_curves
from ifir_lightning.callbacks.observer import ValidationObserver
from ifir_lightning.callbacks.progress import console
from ifir_lightning.data.evalset import Task
from ifir_lightning.errors import InputError
from ifir_lightning.metrics import Metrics, Run
from ifir_lightning.module import RetrieverModule
from ifir_lightning.reranking import Encoded
from ifir_lightning.search import run_task
from ifir_lightning.trec import write_run
from ifir_lightning.truncation import audit_queries

_log = logging.getLogger(__name__)


class FollowIRValidation(Callback):
    """Runs tasks before the first step of ``fit``, at each validation, and under validate and test.

    Logs ``followir/p_mrr``, ``followir/score_a|b|c`` (means over tasks) and the same per task as
    ``followir/<task>/...``, all x100; checkpoints and early stopping can monitor them. Writes into the run folder
    ``followir/step-XXXXXXXX/<task>.trec`` and ``metrics.json``, and redraws ``p_mrr.png``; under ``validate`` and
    ``test`` the folder is ``followir/validate`` or ``followir/test``. Other benchmarks have their own names in the
    place of ``followir``, e.g. ``instructir/robustness_10``.

    Args:
        tasks: FollowIR: folders, hub ids (``id@revision``) or ``synthetic/NAME``. Others: ``instructir:PATH``,
            ``instructir-instruction-first:PATH``, ``infosearch:PATH``, ``mfollowir-fas:PATH`` (rus, zho),
            ``beir:PATH``, where PATH is a folder or hub id, or ``module.function:PATH`` for one of your own.
        max_tokens: Tokens encoded at a time.
        untrained: Whether ``fit`` also validates the model before its first step.

    Raises:
        InputError: Before training begins: a task that cannot be read, two of one name, or callbacks that look at
            FollowIR's tasks where there is none.
    """

    def __init__(self, tasks: list[str], max_tokens: int = 16384, untrained: bool = True) -> None:
        if not tasks:
            raise InputError(
                "followir.tasks is empty; allowed are one or more tasks: name one (to train without validation, "
                "name one and set trainer.limit_val_batches to 0)"
            )
        if max_tokens < 1:
            raise InputError(f"followir.max_tokens is {max_tokens}; allowed is 1 or more, e.g. 16384: raise it")
        self.paths, self.max_tokens, self.untrained = tasks, max_tokens, untrained
        self.tasks: list[RankingTask] = []
        self.observers: list[ValidationObserver] = []
        self._audited: set[tuple[str, str]] = set()

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.PREDICTING:
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        self.observers = [each for each in callbacks if isinstance(each, ValidationObserver)]
        self.tasks = self.tasks or [named_task(path) for path in self.paths]
        names = [(task.benchmark, task.name) for task in self.tasks]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(
                f"followir.tasks {self.paths}: {len(repeated)} have the name {repeated[0][1]!r}, which metrics "
                "and files carry; allowed are distinct names: rename a folder or leave one out"
            )
        if self.observers and not any(isinstance(task, Task) for task in self.tasks):
            looking = ", ".join(type(each).__name__ for each in self.observers)
            message = (
                f"{looking} of trainer.callbacks would see nothing: followir.tasks {self.paths} has no task of "
                "FollowIR; allowed is one or more: name one, or leave the callbacks out"
            )
            if stage == TrainerFn.FITTING:
                raise InputError(message)
            rank_zero_warn(message)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """The untrained model, as step 0 of the curves."""
        if message := never_validates(trainer):
            _log.warning(message)
        if self.untrained and trainer.global_step == 0 and trainer.enable_validation:
            module.eval()
            logged = self._evaluate(trainer, module)
            module.train()
            for logger in trainer.loggers:
                logger.log_metrics(logged, step=0)
                logger.save()

    def on_validation_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """In the one batch of a validation: callbacks that average weights put them in around it, and save them."""
        if not trainer.sanity_checking:
            logged = self._evaluate(trainer, module)
            headline = [key for key in ("followir/p_mrr", "followir/score_b") if key in logged]
            shown: dict[str, float] = {key: logged.pop(key) for key in headline}
            module.log_dict(shown, prog_bar=True, sync_dist=True, batch_size=1)
            assert isinstance(module, RetrieverModule)
            module.log_dict(logged | {"step": float(module.steps_done)}, sync_dist=True, batch_size=1)

    def on_test_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        module.log_dict(self._evaluate(trainer, module), sync_dist=True, batch_size=1)

    def _evaluate(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Run every task, write, draw, print; the metrics under their logger names, the same on every rank."""
        assert isinstance(module, RetrieverModule)
        distributed.gather_weights(module.retriever)
        logged: dict[str, float] = {}
        for name in dict.fromkeys(task.benchmark for task in self.tasks):
            tasks = [task for task in self.tasks if task.benchmark == name]
            folder = _output_folder(trainer, name)
            results = [self._run(trainer, module, task, folder) for task in tasks]
            means = mean_metrics(tasks[0].headline, results)
            if isinstance(tasks[0], Task):
                logged |= self._observed(trainer, module, folder)
            if trainer.is_global_zero:
                _report(module.steps_done, folder, results, means)
                console(trainer).print(_table(tasks, results, means, folder.name))
            logged |= _logger_names(name, results, means)
        if trainer.state.fn == TrainerFn.FITTING:
            _check_monitors(trainer, logged)
        return logged

    def _run(self, trainer: Trainer, module: RetrieverModule, task: RankingTask, folder: Path) -> Metrics:
        """One task's run, written, and its metrics."""
        with trainer.precision_plugin.forward_context():  # Lightning's own autocast covers steps, not hooks
            run, passage_cut = self._rank(trainer, module, task)
        metrics, query_cut = task.evaluate(run), self._audit(module, task)
        if unknown := [key for key in task.headline if not math.isfinite(float(metrics[key]))]:
            rank_zero_warn(f"{task.name}: {', '.join(unknown)} is no finite number")
        if trainer.is_global_zero:
            write_run(folder / f"{task.name}.trec", run, tag="ifir_lightning")
        return metrics | {"truncated_query_tokens": 100 * query_cut, "truncated_passage_tokens": 100 * passage_cut}

    def _rank(self, trainer: Trainer, module: RetrieverModule, task: RankingTask) -> tuple[Run, float]:
        observers = self.observers if isinstance(task, Task) else []

        def observe(encoded: Encoded) -> None:
            for observer in observers:
                observer.observe(encoded)

        if isinstance(task, Task):
            for observer in observers:
                observer.begin_task(task, module)
        with Progress(console=console(trainer), transient=True, disable=not trainer.is_global_zero) as progress:
            bar = progress.add_task(f"ranking {task.name}", total=len(task.passages) / distributed.world_size())
            advance = partial(progress.advance, bar)
            ranked = run_task(module.retriever, task, self.max_tokens, advance, observe)
        for observer in observers:
            observer.end_task()
        return ranked

    def _observed(self, trainer: Trainer, module: RetrieverModule, folder: Path) -> dict[str, float]:
        with trainer.precision_plugin.forward_context():
            found = [observer.finish(trainer, module, folder) for observer in self.observers]
        return {name: value for figures in found for name, value in figures.items()}

    def _audit(self, module: RetrieverModule, task: RankingTask) -> float:
        """Share of query tokens that the limit cut; the first time, a warning if that costs instructions."""
        cuts = audit_queries(module.retriever.tokenizer, task.queries, task.instructions)
        key = task.benchmark, task.name
        if key not in self._audited and (message := cuts.warning(task.name)):
            rank_zero_warn(message)
        self._audited.add(key)
        return cuts.share


def _check_monitors(trainer: Trainer, logged: dict[str, float]) -> None:
    """See that what a callback monitors of a benchmark is one of its metrics, before Lightning misses it."""
    benchmarks = {name.partition("/")[0] for name in logged}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.partition("/")[0] in benchmarks and monitor not in logged:
            means = ", ".join(name for name in logged if name.count("/") == 1)
            raise InputError(
                f"{type(callback).__name__} of trainer.callbacks monitors {monitor!r}; allowed are {means} and the "
                "same of one task: correct its monitor"
            )


def _output_folder(trainer: Trainer, benchmark: str) -> Path:
    assert trainer.state.fn is not None
    fitting = trainer.state.fn == TrainerFn.FITTING
    name = f"step-{trainer.global_step:08d}" if fitting else trainer.state.fn.value
    folder = Path(trainer.default_root_dir) / benchmark / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _report(step: int, folder: Path, results: list[Metrics], means: dict[str, float]) -> None:
    record = {"step": step, "benchmark": means, "tasks": results}
    durable.write_text(folder / "metrics.json", json.dumps(record, indent=1))
    if folder.parent.name == "followir" and folder.name.startswith("step-"):
        draw_curves(folder.parent, folder.parent.parent / "p_mrr.png")


def _logger_names(benchmark: str, results: list[Metrics], means: dict[str, float]) -> dict[str, float]:
    """Means and metrics of each task; counts, which are integers, stay in ``metrics.json``."""
    named = {f"{benchmark}/{key}": value for key, value in means.items()}
    for metrics in results:
        values = {key: value for key, value in metrics.items() if isinstance(value, float)}
        named |= {f"{benchmark}/{metrics['task']}/{key}": value for key, value in values.items()}
    return named


def _table(tasks: list[RankingTask], results: list[Metrics], means: dict[str, float], title: str) -> Table:
    headline, name = tasks[0].headline, tasks[0].benchmark
    table = Table(title=f"{'FollowIR' if name == 'followir' else name} (x100), {title}")
    table.add_column("task", no_wrap=True)
    for column in (*headline.values(), "queries", "query / passage cut %"):
        table.add_column(column, justify="right")
    for task, metrics in zip(tasks, results, strict=True):
        values = [_shown(key, float(metrics[key])) for key in headline]
        num_queries = metrics.get("num_queries", len(task.queries))
        cut = "/".join(f"{metrics[f'truncated_{text}_tokens']:.1f}" for text in ("query", "passage"))
        table.add_row(escape(str(metrics["task"])), *values, str(num_queries), cut)
    table.add_section()
    table.add_row("mean", *(_shown(key, means[key]) for key in headline), style="bold")
    return table


def _shown(key: str, value: float) -> str:
    """With its sign where a metric has two."""
    return f"{value:+.2f}" if key in ("p_mrr", "wise") else f"{value:.2f}"
