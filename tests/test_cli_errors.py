"""Bad input ends with one line that names the value, what is allowed and the remedy, and status 2."""

import errno
import logging
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from small import QUICK
from terminal import Terminal

from ifir_lightning.cli import COMMANDS, main
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE
from ifir_lightning.parser_errors import one_line

BAD_FIT = {
    "missing data": (["--data.path=no/such/folder.parquet"], ["no/such/folder.parquet", "allowed"]),
    "group size": (["--data.groups.group_size=100", "--data.rows=with_instruction"], ["group_size 100", "choose 1 to"]),
    "batch size": (["--data.global_batch_size=65"], ["65", "1 to 64", "lower"]),
    "query limit": (["--model.text.max_query_length=2"], ["max_query_length", "2", "3 or more"]),
    "passage limit": (["--model.text.max_passage_length=1000"], ["max_passage_length", "1000", "up to 512"]),
    "flash attention on CPU": (["--model.backbone.attention=flash_attention_2"], ["flash_attention_2", "cpu", "sdpa"]),
    "pooling and scorer": (["--model.scorer=Cosine"], ["Cosine", "TokenProjection", "MeanPooling"]),
    "token weights": (["--model.scorer=MaxSim"], ["MaxSim", "token weights", "token_weights"]),
    "temperature": (["--model.loss.init_args.temperature=0"], ["temperature", "0.0", "more than 0"]),
    "task": (["--followir.tasks=[no/task/here]"], ["no/task/here"]),
    "no task": (["--followir.tasks=[]"], ["followir.tasks", "one or more"]),
    "warm-up": (["--model.schedule.warmup_steps=9"], ["warmup_steps", "9", "0 to 4"]),
    "checkpoint": (["--model.backbone.config=null", "--model.checkpoint=no/folder"], ["no/folder", "allowed"]),
    "model setting": (["--model.backbone.config.hiden_size=3"], ["hiden_size", "model.backbone.config"]),
    "learning rate": (["--model.optimizer.learning_rate=-1"], ["learning_rate", "-1", "0 or more"]),
    "workers": (["--data.num_workers=-1"], ["num_workers", "-1", "0 or more"]),
    "ckpt_path": (["--ckpt_path=no/such.ckpt"], ["no/such.ckpt", "no such file", "--ckpt_path"]),
    "precision": (["--trainer.precision=bf16-true"], ["bf16-true", "bf16-mixed"]),
    "accelerator": (["--trainer.accelerator=cuda"], ["CUDAAccelerator"]),
    "projection": (["--model.pooling.init_args.dim=0"], ["dim is 0", "1 or more"]),
    "run folder": (["--trainer.default_root_dir=null"], ["default_root_dir", "runs/NAME"]),
    "no folder": (["--trainer.default_root_dir=s3://b/run"], ["s3://b/run is a URL", "a folder of this machine"]),
    "read-only folder": (["--trainer.default_root_dir=/proc/run"], ["/proc/run cannot be written", "another"]),
    "a dry run": (["--trainer.fast_dev_run=true"], ["fast_dev_run is True", "--trainer.max_steps 1", "runs/try"]),
    "strategy": (["--trainer.strategy=fdsp2"], ["trainer.strategy is 'fdsp2'", "auto, ddp and fsdp2"]),
    "abbreviation": (["--trainer.max_step=3"], ["--trainer.max_step", "--help"]),
    "accumulation": (["--trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches is 0", "1 or more"]),
    "negative clipping": (["--trainer.gradient_clip_val=-1"], ["gradient_clip_val is -1", "0 or more", "null"]),
    "no step": (["--trainer.max_steps=0"], ["max_steps is 0", "1 or more", "validate"]),
    "less than no end": (["--trainer.max_steps=-5"], ["max_steps is -5", "1 or more, and -1"]),
    "no epoch": (["--trainer.max_epochs=0"], ["max_epochs is 0", "1 or more"]),
    "no batch": (
        ["--trainer.limit_train_batches=0"],
        ["limit_train_batches is 0, so fit would do nothing", "leave it out"],
    ),
    "no interval": (
        ["--trainer.val_check_interval=0"],
        ["val_check_interval is 0", "1 or more", "limit_val_batches 0"],
    ),
    "part of a step": (
        ["--trainer.val_check_interval=2.5"],
        ["val_check_interval is 2.5", "training batches, or a time"],
    ),
    "less than no interval": (
        ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=-5"],
        ["val_check_interval is -5", "a share of an epoch"],
    ),
    "no share of an epoch": (
        ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=0.0"],
        ["val_check_interval is 0.0", "a share of an epoch"],
    ),
    "no device": (["--trainer.devices=0"], ["trainer: ", "devices='0'"]),
    "betas": (["--model.optimizer.betas=[1.0,0.999]"], ["betas is (1.0, 0.999)", "0 to below 1"]),
    "seed": (["--seed_everything=-1"], ["seed_everything is -1", "0 to 2**32 - 1"]),
    "nodes": (["--trainer.num_nodes=0"], ["trainer: ", "num_nodes", "positive integer"]),
    "another accelerator": (["--trainer.accelerator=x"], ["trainer: ", "accelerator='x'"]),
    "half a validation": (["--trainer.limit_val_batches=0.5"], ["limit_val_batches is 0.5", "one batch", "to 1"]),
    "overfitting": (["--trainer.overfit_batches=0.5"], ["overfit_batches is 0.5", "whole number", "set it to 1"]),
    "interval": (
        ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=17"],
        ["val_check_interval is 17", "1 to 16", "check_val_every_n_epoch null"],
    ),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_fit(case: str, terminal: Terminal, tmp_path: Path) -> None:
    arguments, expected = BAD_FIT[case]
    line = terminal.refuses("fit", *QUICK, f"--trainer.default_root_dir={tmp_path}/run", *arguments)
    assert all(word in line for word in expected), line
    assert not [path for path in tmp_path.glob("run/*") if path.name != ".lock"], "training time was spent"


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@pytest.mark.parametrize(("devices", "nodes"), [("1", "1"), ("auto", "2"), ("-1", "2"), ("2", "1"), ("0,", "2")])
def test_other_processes_than_torchrun_has_started(
    command: str, strategy: str, devices: str, nodes: str, terminal: Terminal, tmp_path: Path
) -> None:
    """Each rank would else train alone, or end with a traceback. ``auto`` is one process on a CPU."""
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        terminal.monkeypatch.setenv(name, value)
    settings = {"devices": devices, "num_nodes": nodes, "strategy": strategy, "default_root_dir": f"{tmp_path}/run"}
    line = terminal.refuses(command, *QUICK, *(f"--trainer.{key}={value}" for key, value in settings.items()))
    asked = (
        f"trainer.devices is {devices} and trainer.num_nodes {nodes}, but torchrun has started 4 processes, 2 on this"
    )
    assert asked in line
    assert line.endswith("allowed are as many: give --trainer.devices 2 --trainer.num_nodes 2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "limit"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_a_recipe_that_leaves_evaluation_out(command: str, limit: str, terminal: Terminal, tmp_path: Path) -> None:
    """As one that trained without validation."""
    task = ("--task=synthetic/food", f"--output={tmp_path}/run.trec") if command == "predict" else ()
    folder = f"--trainer.default_root_dir={tmp_path}/run"
    line = terminal.refuses(command, *QUICK, folder, *task, f"--trainer.limit_{limit}_batches=0")
    assert f"limit_{limit}_batches is 0, so {command} would do nothing; allowed is 1: give --trainer.limit" in line


def test_a_run_folder_that_cannot_be_written(terminal: Terminal, tmp_path: Path) -> None:
    """Wherever that is found: as validate makes its folder, or as fit opens a run."""
    line = terminal.refuses("validate", *QUICK, "--trainer.default_root_dir=/proc/run")
    assert "default_root_dir /proc/run cannot be written (" in line
    (tmp_path / "config.yaml").mkdir()
    line = terminal.refuses("fit", *QUICK, "--model.schedule.warmup_steps=0", f"--trainer.default_root_dir={tmp_path}")
    assert f"cannot be written (Is a directory: {tmp_path}/config.yaml); allowed is a folder of yours" in line


COMMAND = ["mine", "--checkpoint=c", "--data=synthetic:10", "--output=o"]
BAD_OPTIONS = {
    "another type": ([*COMMAND, "--max_tokens=x"], ["max_tokens is x", "an integer", "mine --help"]),
    "another type, nested": ([*COMMAND, "--choice.rank_from=x"], ["choice.rank_from is x", "an integer"]),
    "a choice": (
        ["teach", "--teacher=t", *COMMAND[2:], "--kind=x"],
        ["kind is x; allowed is retriever, cross-encoder or causal", "teach --help"],
    ),
    "unknown": ([*COMMAND, "--nope=1"], ["unrecognized", "--nope"]),
    "missing": (["compare"], ["required: runs", "compare --help"]),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_of_our_own_commands(case: str, terminal: Terminal) -> None:
    arguments, expected = BAD_OPTIONS[case]
    line = terminal.refuses(*arguments)
    assert all(word in line for word in expected), line


@pytest.mark.parametrize("arguments", [[], ["--task=synthetic/food", "--queries=q.jsonl"], ["--queries=q.jsonl"]])
def test_predict_needs_a_task_or_queries_and_passages(arguments: list[str], terminal: Terminal) -> None:
    line = terminal.refuses("predict", *QUICK, *arguments)
    assert "--task" in line
    assert "--queries" in line


def test_predict_checks_its_files(terminal: Terminal, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q1"}')
    line = terminal.refuses("predict", *QUICK, f"--queries={queries}", f"--passages={queries}")
    assert "queries.jsonl: object 1 lacks _id or text" in line


def test_a_bad_run_file(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "bad.trec"
    file.write_text("301-og Q0 d1 1 0.5 x\n301-og Q0 d1 2 0.4 x\n")
    line = terminal.refuses("evaluate", "--task=synthetic/food", f"--run={file}")
    assert "bad.trec:2" in line
    assert "d1" in line


def test_an_unknown_command_lists_the_known_ones(terminal: Terminal) -> None:
    line = terminal.refuses("train")
    assert all(word in line for word in ("'train'", "fit", "validate", "evaluate"))


def test_a_traceback_is_shown_when_asked_for(terminal: Terminal) -> None:
    terminal.monkeypatch.setattr(sys, "argv", ["ifir_lightning", "train"])
    terminal.monkeypatch.setenv("IFIR_TRACEBACK", "1")
    with pytest.raises(InputError):
        main()


@pytest.mark.parametrize(("number", "is_full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_full_disk_is_one_line(number: int, is_full: bool, terminal: Terminal) -> None:
    def fails() -> None:
        raise OSError(number, os.strerror(number), "run.trec")

    terminal.monkeypatch.setitem(COMMANDS, "evaluate", fails)
    if is_full:
        line = terminal.refuses("evaluate")
        assert f"run.trec could not be written ({os.strerror(number)}); allowed is a disk with room" in line
    else:
        with pytest.raises(OSError, match=r"run\.trec"):
            terminal.refuses("evaluate")


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_whose_package_is_not_installed(terminal) -> None:
    line = terminal.refuses("fit", "--config=configs/quickstart-wandb.yaml")
    assert all(word in line for word in ("wandb", "not installed", "install it, or take the class out"))


def test_what_a_callback_refuses_is_said_in_its_own_line(terminal: Terminal) -> None:
    """jsonargparse wraps it into an error of its own."""
    callbacks = "ifir_lightning.callbacks.checkpoints.Checkpoints"
    line = terminal.refuses("fit", *QUICK, f"--trainer.callbacks+={callbacks}", "--trainer.callbacks.keep_last=0")
    assert line == "error: Checkpoints: keep_last is 0; allowed is 1 or more: raise it"


def test_a_callbacks_argument_of_another_type_is_named(terminal: Terminal) -> None:
    callbacks = "ifir_lightning.callbacks.checkpoints.Checkpoints"
    line = terminal.refuses("fit", *QUICK, f"--trainer.callbacks+={callbacks}", "--trainer.callbacks.keep_last=x")
    assert line.startswith("error: trainer.callbacks.init_args.keep_last is x; allowed is an integer")


MISSPELT = {
    "a class": (
        "--model.scorer=MaxSimm",
        "model.scorer is MaxSimm, which is no Scorer; allowed is Cosine, Dot, MaxSim, ",
    ),
    "its module": (
        "--model.scorer=ifir_lightning.models.scorin.MaxSim",
        "model.scorer is ifir_lightning.models.scorin",
    ),
    "another kind of class": ("--model.loss=MeanPooling", "model.loss is MeanPooling, which is no Loss; allowed is "),
    "a class of another's": (
        "--model.loss=torch.optim.AdamW",
        "model.loss is torch.optim.AdamW, which is no Loss; all",
    ),
    "no class": ("--model.loss=null", "model.loss is None, which is no Loss; allowed is InfoNCE, "),
    "one of a list": ("--trainer.callbacks+=RichProgresBar", "allowed is RichProgressBar"),
    "one within a class": (
        "--model.loss={class_path: WeightedSum, init_args: {losses: [InfoNCE, Foo], weights: [1, 2]}}",
        "model.loss.init_args.losses is Foo, which is no Loss; allowed is InfoNCE, ",
    ),
    "a class's setting": (
        "--model.loss.init_args.temp=1",
        "model.loss: InfoNCE has no setting temp; allowed are temper",
    ),
    "of one with keywords": (
        "--trainer.logger={class_path: TensorBoardLogger, init_args: {save_dir: x, nope: 3}}",
        "trainer.logger: TensorBoardLogger has no setting nope; allowed are save_dir, name, version, log_graph, "
        "default_hp_metric, prefix, sub_dir: correct it",
    ),
    "of no class": (
        "--trainer.profiler.x=3",
        "trainer.profiler.x is 3, but trainer.profiler is not set; allowed is a Pro",
    ),
    "its value": (
        "--model.scorer.init_args.reduction=x",
        "model.scorer.init_args.reduction is x; allowed is sum or mean",
    ),
    "a choice": (
        "--model.backbone.attention=fast",
        "model.backbone.attention is fast; allowed is auto, flash_attention_2",
    ),
    "one of several types": ("--trainer.precision=fp16", "trainer.precision is fp16; allowed is 64, 32, 16, "),
    "one of a mapping": ("--data.groups={group_size: x}", "data.groups.group_size is x; allowed is an integer"),
    "a mapping": ("--model.backbone.config=x", "model.backbone.config is x; allowed is a mapping or null"),
    "settings": (
        "--model.optimizer=Adam",
        "model.optimizer is Adam; allowed are the settings that --help lists: give --",
    ),
    "settings or null": ("--model.backbone.lora=true", "model.backbone.lora is true; allowed are its settings"),
    "a seed": ("--seed_everything=true", "seed_everything is True; allowed is an integer"),
}


class NotAllowed(InfoNCE):
    """Of a package that recipes may not name."""


@pytest.mark.parametrize("case", MISSPELT)
def test_what_is_misspelt_is_named_with_what_is_allowed(case: str, terminal: Terminal) -> None:
    argument, expected = MISSPELT[case]
    line = terminal.refuses("fit", *QUICK, argument)
    assert expected in line, line
    assert "class '" not in line, "a type of Python's"
    assert not re.search(r"allowed is .*\b(Loss|Scorer|NotAllowed)\b", line), "no class that could be chosen"


def test_a_message_of_no_known_form_is_kept() -> None:
    assert one_line("no such thing", "fit --help", {}) == "no such thing; allowed is what fit --help lists: correct it"


BAD_RECIPES = {
    "another type": (
        "",
        ["--data.global_batch_size=x"],
        ["data.global_batch_size is x; allowed is an integer", "--help"],
    ),
    "unknown": ("", ["--model.nope=3"], ["unrecognized", "--model.nope=3", "--help"]),
    "YAML": ("model: [1, 2\n", ["--config={file}"], ["bad.yaml is no YAML in UTF-8", "line 1, column 8"]),
    "nothing": ("", ["--config={file}"], ["bad.yaml is empty; allowed are settings by their keys"]),
    "no keys": ("- a\n", ["--config={file}"], ["bad.yaml names no keys; allowed are settings by their keys"]),
    "a folder": ("", ["--config=configs"], ["--config: ", "configs", "allowed is a recipe, a YAML file"]),
    "encoding": (
        b"\xff\xfe\x00",
        ["--config={file}"],
        ["bad.yaml is no YAML in UTF-8", "as in the recipes of configs/"],
    ),
    "no file": ("", ["--config={file}/sub"], ["bad.yaml/sub", "a YAML file as those in configs/: check the path"]),
    "run folder": ("", ["--trainer.default_root_dir={file}"], ["default_root_dir", "bad.yaml is a file", "a folder"]),
    "run in a file": ("", ["--trainer.default_root_dir={file}/sub"], ["bad.yaml/sub: ", "bad.yaml is a file"]),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_recipe(case: str, terminal: Terminal, tmp_path: Path) -> None:
    content, arguments, expected = BAD_RECIPES[case]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = terminal.refuses("fit", *QUICK, *(argument.format(file=file) for argument in arguments))
    assert all(word in line for word in expected), line


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_warnings_come_from_the_first_rank(
    rank: str, times: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    terminal.runs("--help")
    logging.getLogger("ifir_lightning.data.formats").warning("what all ranks see")
    assert terminal.capsys.readouterr().err.count("what all ranks see") == times
