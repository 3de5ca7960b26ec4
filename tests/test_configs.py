"""Every shipped recipe is parsed, instantiated, and compared with its siblings."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.loggers import wandb

from ifir_lightning.cli import RetrieverCLI
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.export import write_export
from ifir_lightning.models.late_texts import PUNCTUATION
from ifir_lightning.models.pooling import CLSPooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim
from ifir_lightning.module import RetrieverModule
from ifir_lightning.retriever import load_retriever
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.plan import trials
from ifir_lightning.studies.recipes import recipe_of
from ifir_lightning.text_format import TextSettings

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
STUDIES = [config for config in CONFIGS if "studies" in config.parts]
CONFIGS = [config for config in CONFIGS if config not in STUDIES]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_first_line_is_the_command(config: Path) -> None:
    first = (ROOT / config).read_text().splitlines()[0]
    assert f"--config {config}" in first
    assert first.startswith("# ")
    assert "ifir_lightning" in first


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_recipe_instantiates(config: Path, modernbert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hub ids are replaced by tiny models of the same kind, the accelerator by the CPU; all else is as shipped."""
    recipe = yaml.safe_load((ROOT / config).read_text())
    replaced = ["--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}"]
    if "checkpoint" in recipe["model"]:
        replaced += [f"--model.checkpoint={published(recipe['model']['checkpoint'], modernbert, tmp_path)}"]
    if "lora" in recipe["model"].get("backbone", {}):
        pytest.importorskip("peft", reason="peft is not installed (extra: lora)")
    if "Wandb" in str(recipe["trainer"].get("logger")) and find_spec("wandb") is None:
        monkeypatch.setattr(wandb, "_WANDB_AVAILABLE", True)  # all that the logger asks until it logs
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["ifir_lightning"])
    cli = RetrieverCLI(
        RetrieverModule,
        PromptrieverData,
        args=["--config", str(config), *replaced],
        run=False,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )
    retriever = cli.model.retriever
    for part in ("pooling", "scorer"):
        if part in recipe["model"]:
            assert type(getattr(retriever, part)).__name__ == recipe["model"][part]["class_path"].split(".")[-1]
    assert retriever.tokenizer.format.max_query_length == recipe["model"]["text"]["max_query_length"]
    assert cli.trainer.default_root_dir == str(tmp_path)
    if "moderncolbert" in str(config):
        assert retriever.tokenizer.format.query_marker == "[Q] "
        assert len(retriever.tokenizer.format.passage_skiplist) == 32
        pooling = load_retriever(str(tmp_path / "published")).pooling
        assert torch.equal(retriever.pooling.layers[0].linear.weight, pooling.layers[0].linear.weight)


def published(name: str, modernbert: Path, folder: Path) -> Path:
    """A tiny model in the layout of a published one."""
    if name.startswith("lightonai/"):
        text = TextSettings(query_marker="[Q] ", passage_marker="[D] ", passage_skiplist=PUNCTUATION)
        model = load_retriever(str(modernbert), TokenProjection(dim=128), MaxSim(), text)
    else:
        model = load_retriever(str(modernbert), CLSPooling(), Cosine())
    write_export(model, folder / "published", card="")
    return folder / "published"


@pytest.mark.parametrize("config", [path for path in CONFIGS if "untrained" not in str(path)], ids=str)
def test_the_last_step_is_validated_and_saved(config: Path) -> None:
    """A run that ends between two validations would leave its final weights unmeasured and unsaved."""
    recipe = yaml.safe_load((ROOT / config).read_text())
    trainer = recipe["trainer"]
    assert recipe["resume"] == "auto"
    assert trainer["max_steps"] % trainer["val_check_interval"] == 0
    savers = [c["init_args"] | {"keep_steps": None} for c in trainer["callbacks"] if "heckpoint" in c["class_path"]]
    assert savers == [{"monitor": "followir/p_mrr", "keep_steps": None}]


def test_the_trunk_is_the_quickstart_until_a_decay_begins() -> None:
    trunk, whole = _recipe("quickstart-trunk.yaml"), _recipe("quickstart.yaml")
    for recipe in (trunk, whole):
        for key in ("max_steps", "callbacks", "default_root_dir"):
            del recipe["trainer"][key]
    assert trunk["model"].pop("schedule") == {"decay": "constant", "warmup_steps": 50}
    assert whole["model"].pop("schedule") == {"decay": "linear", "warmup_steps": 50}
    assert trunk == whole


def test_the_quickstart_heads_differ_in_pooling_and_scorer_only() -> None:
    heads = [_recipe(f"quickstart-{head}.yaml") for head in ("bi-encoder", "late-interaction", "weighted")]
    for recipe in heads:
        del recipe["model"]["pooling"], recipe["model"]["scorer"], recipe["trainer"]["default_root_dir"]
    assert heads[0] == heads[1] == heads[2]


@pytest.mark.parametrize("folder", ["gte-modernbert-base", "gte-moderncolbert"])
def test_the_recipes_of_one_backbone_differ_in_pooling_and_scorer_only(folder: str) -> None:
    trained = [_recipe(path) for path in CONFIGS if folder in str(path) and path.stem not in ("untrained", "lora")]
    assert len(trained) >= 2
    for recipe in trained:
        recipe["model"].pop("pooling", None)  # the checkpoint's own
        del recipe["model"]["scorer"], recipe["trainer"]["default_root_dir"]
    assert all(recipe == trained[0] for recipe in trained)


def test_the_recipe_with_lora_is_the_bi_encoder_with_adapters() -> None:
    plain, lora = (_recipe(f"gte-modernbert-base/{name}.yaml") for name in ("bi-encoder", "lora"))
    assert lora["model"]["backbone"].pop("lora") == {"rank": 32, "alpha": 64, "dropout": 0.0}
    assert lora["model"]["optimizer"].pop("learning_rate") == 5 * plain["model"]["optimizer"].pop("learning_rate")
    for recipe in (plain, lora):
        del recipe["trainer"]["default_root_dir"]
    lora["trainer"]["callbacks"].remove({"class_path": "ifir_lightning.callbacks.gradients.GradientNorm"})
    assert lora == plain


def test_the_recipe_with_wandb_is_the_quickstart_with_other_loggers() -> None:
    plain, wandb = _recipe("quickstart.yaml"), _recipe("quickstart-wandb.yaml")
    folder = wandb["trainer"].pop("default_root_dir")
    loggers = wandb["trainer"].pop("logger")
    assert [each["class_path"].rpartition(".")[2] for each in loggers] == ["MetricsCSV", "WandbLogger"]
    assert loggers[1]["init_args"]["save_dir"] == folder
    wandb["trainer"]["callbacks"].remove({"class_path": "ifir_lightning.callbacks.gradients.GradientNorm"})
    del plain["trainer"]["default_root_dir"]
    assert wandb == plain


@pytest.mark.parametrize("folder", ["gte-modernbert-base", "gte-moderncolbert"])
def test_an_untrained_row_changes_nothing_of_the_checkpoint_but_limits(folder: str) -> None:
    """It runs as the trained rows do."""
    model = _recipe(f"{folder}/untrained.yaml")["model"]
    assert model.keys() == {"checkpoint", "backbone", "loss", "text"}
    assert model["backbone"] == _recipe(f"{folder}/late-interaction.yaml")["model"]["backbone"] == {"compile": True}
    assert model["text"].keys() == {"max_query_length", "max_passage_length"}


def _recipe(path: str | Path) -> dict[str, Any]:
    text = (ROOT / "configs" / path if not str(path).startswith("configs") else ROOT / path).read_text()
    return yaml.safe_load(text)


@pytest.mark.parametrize("config", STUDIES, ids=str)
def test_the_first_trial_of_every_head_of_a_study_instantiates(
    config: Path, modernbert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of every trial the recipe is made; one per head is built."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["ifir_lightning"])
    assert config.read_text().startswith(f"# python -m ifir_lightning study {config}\n")
    study = read_study(config)
    recipes = {trial.name: (trial.head, recipe_of(study, trial, tmp_path / trial.name)) for trial in trials(study)}
    for head in study.heads:
        recipe = next(recipe for own, recipe in recipes.values() if own == head)
        if "checkpoint" in recipe["model"]:
            recipe["model"]["checkpoint"] = str(published(recipe["model"]["checkpoint"], modernbert, tmp_path / head))
        recipe["trainer"] |= {"accelerator": "cpu", "devices": 1}
        file = tmp_path / f"{head}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        cli = RetrieverCLI(
            RetrieverModule,
            PromptrieverData,
            args=["--config", str(file)],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
        assert cli.trainer.max_steps == recipe["trainer"]["max_steps"]
