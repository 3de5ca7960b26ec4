"""The command line: LightningCLI for fit, validate, test and predict, and our own commands beside it."""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ifir_lightning import run_folder
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.callbacks.interruption import Interruption
from ifir_lightning.callbacks.memory import OutOfMemory
from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.callbacks.non_finite import NonFinite
from ifir_lightning.callbacks.prediction import TrecPrediction
from ifir_lightning.callbacks.progress import without_bars
from ifir_lightning.callbacks.run_config import RunConfig
from ifir_lightning.callbacks.watchdog import Watchdog
from ifir_lightning.commands.audit import audit
from ifir_lightning.commands.compare import compare
from ifir_lightning.commands.evaluate import evaluate
from ifir_lightning.commands.explain import explain
from ifir_lightning.commands.export import export
from ifir_lightning.commands.mine import mine
from ifir_lightning.commands.study import study
from ifir_lightning.commands.synthesize import synthesize
from ifir_lightning.commands.teach import teach
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.errors import InputError
from ifir_lightning.losses import Loss
from ifir_lightning.models.pooling import Pooling
from ifir_lightning.models.scoring import Scorer
from ifir_lightning.module import RetrieverModule
from ifir_lightning.options import run
from ifir_lightning.parser_errors import check_recipe, one_line
from ifir_lightning.process import set_up_process
from ifir_lightning.resume import Resume, Start, branch_point, find_checkpoint, find_start, is_branch, training_settings
from ifir_lightning.security import refusal, restrict_imports
from ifir_lightning.trainer_checks import check_trainer

_log = logging.getLogger(__name__)
_REQUIREMENT = re.compile(r"Requirement '([^']+)' not met")
KINDS = {"pooling": Pooling, "scorer": Scorer, "loss": Loss, "losses": Loss, "callbacks": Callback, "logger": Logger}
TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
COMMANDS: dict[str, Callable[..., None]] = {
    "audit": audit,
    "compare": compare,
    "evaluate": evaluate,
    "explain": explain,
    "export": export,
    "mine": mine,
    "study": study,
    "synthesize": synthesize,
    "teach": teach,
}
USAGE = """usage: python -m ifir_lightning COMMAND [--help] ...

  fit         train, with the FollowIR benchmark at every validation
  validate    run the FollowIR benchmark on a checkpoint or an untrained model
  test        the same, as Lightning's test
  predict     rank candidates and write a TREC run
  audit       what query limits take from instructions, and from p-MRR
  evaluate    p-MRR and Scores of a TREC run, whoever made it
  explain     why passages of a query move when its instruction changes, token by token
  compare     runs side by side: intervals, paired tests, curves, one HTML file
  export      write a model for PyLate and sentence-transformers, or onto the hub
  mine        write a training table with hard negatives that a retriever found
  study       many trainings that answer one question, and their report
  synthesize  write the quickstart's instruction world in the published layouts
  teach       write a teacher's scores of a training table, to distil from
"""


class RecipeParser(LightningArgumentParser):
    """Says in one line what is wrong with a recipe."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.exit_on_error:  # else it is one of jsonargparse's parsers within this one
            raise InputError(refusal(message) or one_line(message, "--help", KINDS)) from ex
        super().error(message, ex)

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(cfg_path).is_file():
            check_recipe(Path(cfg_path))
        return super().parse_path(cfg_path, *args, **kwargs)


class RetrieverCLI(LightningCLI):
    """LightningCLI whose run folder is ``trainer.default_root_dir``: logs, checkpoints and pictures lie in it."""

    start: Start | None = None  # what fit continues

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's would also take true and false, which fix nothing."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Of everything random: 0 to 2**32 - 1.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Watchdog, "watchdog")  # the first of ours: it sees what they do
        parser.add_lightning_class_args(FollowIRValidation, "followir")
        parser.add_lightning_class_args(NonFinite, "non_finite")
        parser.add_argument(
            "--resume",
            type=Resume,
            default="auto",
            help="Of fit, in a folder that holds a run: auto continues its newest whole checkpoint, never refuses.",
        )
        for key in ("model.seed", "data.seed", "data.groups.seed"):
            parser.link_arguments("seed_everything", key)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if subcommand == "predict":
            self._subcommand_method_arguments[subcommand] += parser.add_class_arguments(TrecPrediction)
            parser.set_defaults({"return_predictions": False})
        elif subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # FollowIRValidation prints a table of its own
        return parser

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would put what a checkpoint file says of settings over the command line."""

    def before_instantiate_classes(self) -> None:
        """What can be checked before weights are loaded is checked; ``fit`` and ``validate`` write their settings."""
        folder, checkpoint = self._get(self.config, "trainer")["default_root_dir"], self._get(self.config, "ckpt_path")
        if folder is None:
            raise InputError(
                "trainer.default_root_dir is not set; allowed is the folder that shall hold this run: "
                "give --trainer.default_root_dir runs/NAME"
            )
        run_folder.check(folder)
        check_trainer(self._get(self.config, "trainer"), str(self.subcommand))
        if self._get(self.config, "weights_only") is False:
            raise InputError("weights_only is false; allowed is true, since a pickle could run code: leave it out")
        if self.subcommand == "fit":
            config = self.config["fit"]
            dumped = self._parser("fit").dump(config, format="json", skip_none=False, skip_link_targets=False)
            recipe, seen = json.loads(dumped), set(Path(folder).glob("checkpoints/*.ckpt"))
            self.start = find_start(Path(folder), checkpoint, config["resume"], training_settings(recipe))
            config["ckpt_path"] = recipe["ckpt_path"] = branch_point(Path(folder), self.start)  # not of this start
            self.save_config_kwargs = {"start": self.start, "recipe": recipe, "seen": seen}
            return
        self.save_config_callback = None
        if self.subcommand == "validate":
            self.save_config_callback = SaveConfigCallback
            self.save_config_kwargs = {"config_filename": "followir/validate/config.yaml", "overwrite": True}
            with run_folder.writing(Path(folder)):
                Path(folder, "followir", "validate").mkdir(parents=True, exist_ok=True)
        read = "the model before training"
        if checkpoint is not None:
            read = str(find_checkpoint(Path(folder), checkpoint, "best"))
            self.config[str(self.subcommand)]["ckpt_path"] = read
        is_own = checkpoint is not None and not is_branch(Path(folder), read)  # config.yaml names where a branch began
        if not is_own and any(Path(folder).glob("checkpoints/*.ckpt")):
            _log.warning("%s holds a run, but this is %s; its own: --ckpt_path best", folder, read)

    def instantiate_classes(self) -> None:
        """As Lightning does; mistakes of the user, among them a logger that is not installed, are told as such."""
        try:
            super().instantiate_classes()
        except (ModuleNotFoundError, ValueError) as error:  # jsonargparse makes the second of the first, of ours too
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            if (lacking := _REQUIREMENT.search(str(error))) is None:
                raise
            raise InputError(
                f"the recipe names a class that needs {lacking[1]}, which is not installed; allowed is what can run "
                "here: install it, or take the class out of the recipe"
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        folder, plugins = config["default_root_dir"], config["plugins"] or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), ManifestIO()]
        if config["enable_progress_bar"] is False:
            kwargs["callbacks"] = without_bars(config["callbacks"])
        if self.subcommand != "fit":
            kwargs["logger"] = False
        elif config["logger"] in (None, True):
            kwargs["logger"] = MetricsCSV(folder)
            self.save_config_kwargs["loggers"] = [_tensorboard(folder, self.start)]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (RuntimeError, ValueError, MisconfigurationException) as error:  # the first of SLURM's variables
            raise InputError(f"trainer: {error}; allowed is what fit --help lists: correct it") from error
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.write_into(folder)
        return trainer

    def _set_seed(self) -> None:
        if not 0 <= (seed := self._get(self.config, "seed_everything")) < 2**32:
            raise InputError(f"seed_everything is {seed}; allowed are 0 to 2**32 - 1: choose another")
        super()._set_seed()

    def before_fit(self) -> None:
        """Continue, and say so."""
        folder, steps = self.trainer.default_root_dir, self.trainer.max_steps
        if self.start is not None:
            self.config_init["fit"]["ckpt_path"] = str(self.start.checkpoint)
            _log.info("%s: continues after step %d (%s)", folder, self.start.step, self.start.checkpoint.name)
            if 0 < steps <= self.start.step:
                _log.info("%s: all %d steps are done; more with --trainer.max_steps", folder, steps)

    def after_fit(self) -> None:
        """Say where the results are."""
        folder = Path(self.trainer.default_root_dir)
        results = ("p_mrr.png", "metrics.csv", "checkpoints", "followir", "export")
        _log.info("the run is in %s: %s", folder, ", ".join(name for name in results if (folder / name).exists()))

    def predict(self, model: RetrieverModule, datamodule: PromptrieverData, **options: Any) -> None:
        """Add the writer of the run to what Lightning's predict does."""
        settings = {name: options.pop(name) for name in signature(TrecPrediction).parameters}
        self.trainer.callbacks.append(TrecPrediction(**settings))  # type: ignore[attr-defined]
        self.trainer.predict(model, datamodule=datamodule, **options)


def _tensorboard(folder: str, start: Start | None) -> TensorBoardLogger:
    """Shows nothing of an earlier start that lies after the step at which this one begins."""
    purge_step = 0 if start is None else start.step + 1
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, purge_step=purge_step)


def main() -> None:
    """Run the command named on the command line; a mistake of the user ends it with one line and status 2."""
    set_up_process()
    try:
        _run(sys.argv[1] if len(sys.argv) > 1 else "--help")
    except (InputError, MisconfigurationException, OSError) as error:
        message = _mistake(error)
        if message is None or os.environ.get("IFIR_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
        sys.exit(2)


def _run(command: str) -> None:
    if command in TRAINER_COMMANDS:
        restrict_imports()
        interruption = Interruption()
        if command == "fit":
            interruption.listen()
        RetrieverCLI(
            RetrieverModule,
            PromptrieverData,
            parser_class=RecipeParser,
            save_config_callback=RunConfig,
            trainer_defaults={"callbacks": [OutOfMemory(), interruption], "enable_model_summary": False},
            parser_kwargs={"allow_abbrev": False, **{name: {"usage": _usage(name)} for name in TRAINER_COMMANDS}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    elif command in COMMANDS:
        run(command, COMMANDS[command], sys.argv[2:])
    elif command in ("-h", "--help"):
        sys.stdout.write(USAGE)
    else:
        known = ", ".join((*TRAINER_COMMANDS, *COMMANDS))
        raise InputError(f"command {command!r} is unknown; allowed are {known}: see --help")


def _mistake(error: Exception) -> str | None:
    """What the user can do something about; None for faults of ours."""
    if not isinstance(error, OSError):
        return str(error).rpartition("InputError: ")[2]  # from a loader's worker it comes with a traceback
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return (
        f"{error.filename or 'a file'} could not be written ({error.strerror}); allowed is a disk with room: make "
        "some, and start again, which continues a run of fit"
    )


def _usage(command: str) -> str:
    return f"python -m ifir_lightning {command} --config FILE [--KEY VALUE ...] (all keys: {command} --help)"
