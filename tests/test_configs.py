"""Every shipped recipe is parsed, instantiated, and compared with its siblings."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ifir_lightning.cli import RetrieverCLI
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.models.pooling import TokenProjection
from ifir_lightning.module import RetrieverModule

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_first_line_is_the_command(config: Path) -> None:
    first = (ROOT / config).read_text().splitlines()[0]
    assert f"--config {config}" in first
    assert first.startswith("# ")
    assert "ifir_lightning" in first


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_recipe_instantiates(
    config: Path, modernbert: Path, pylate_projection: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hub ids are replaced by a tiny checkpoint, the accelerator by the CPU; everything else is as shipped."""
    recipe = yaml.safe_load((ROOT / config).read_text())
    replaced = ["--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path}"]
    if "checkpoint" in recipe["model"]["backbone"]:
        replaced += [f"--model.backbone.checkpoint={modernbert}", "--model.backbone.revision=null"]
    if "checkpoint" in recipe["model"]["pooling"].get("init_args", {}):
        replaced += [f"--model.pooling.init_args.checkpoint={pylate_projection}"]
    replaced += ["--model.text.passage_skiplist=[]"] if "passage_skiplist" in recipe["model"]["text"] else []
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
    assert type(cli.model.pooling).__name__ == recipe["model"]["pooling"]["class_path"].split(".")[-1]
    assert cli.model.tokenizer.format.max_query_length == recipe["model"]["text"]["max_query_length"]
    assert cli.trainer.default_root_dir == str(tmp_path)


@pytest.mark.parametrize("config", [path for path in CONFIGS if "untrained" not in str(path)], ids=str)
def test_the_last_step_is_validated_and_saved(config: Path) -> None:
    """A run that ends between two validations would leave its final weights unmeasured and unsaved."""
    trainer = yaml.safe_load((ROOT / config).read_text())["trainer"]
    assert trainer["max_steps"] % trainer["val_check_interval"] == 0
    savers = [c["init_args"] for c in trainer["callbacks"] if c["class_path"].endswith("ModelCheckpoint")]
    assert [saver.get("monitor") for saver in savers] == ["followir/p_mrr", None]
    assert savers[1]["filename"] == "last"


def test_the_quickstart_heads_differ_in_pooling_and_scorer_only() -> None:
    heads = [_recipe(f"quickstart-{head}.yaml") for head in ("bi-encoder", "late-interaction", "weighted")]
    for recipe in heads:
        del recipe["model"]["pooling"], recipe["model"]["scorer"], recipe["trainer"]["default_root_dir"]
    assert heads[0] == heads[1] == heads[2]


@pytest.mark.parametrize("folder", ["gte-modernbert-base", "gte-moderncolbert"])
def test_the_recipes_of_one_backbone_differ_in_pooling_and_scorer_only(folder: str) -> None:
    trained = [_recipe(path) for path in CONFIGS if folder in str(path) and "untrained" not in str(path)]
    assert len(trained) >= 2
    for recipe in trained:
        del recipe["model"]["pooling"], recipe["model"]["scorer"], recipe["trainer"]["default_root_dir"]
    assert all(recipe == trained[0] for recipe in trained)


def test_an_untrained_row_changes_nothing_of_the_checkpoint(modernbert: Path) -> None:
    """The published model: no new layers at random, sum MaxSim for the ColBERT, CLS and cosine for the bi-encoder."""
    bi_encoder, colbert = _recipe("gte-modernbert-base/untrained.yaml"), _recipe("gte-moderncolbert/untrained.yaml")
    assert bi_encoder["model"]["pooling"]["class_path"].endswith("CLSPooling")
    assert bi_encoder["model"]["scorer"]["class_path"].endswith("Cosine")
    assert colbert["model"]["pooling"]["init_args"]["checkpoint"] == colbert["model"]["backbone"]["checkpoint"]
    assert colbert["model"]["scorer"]["init_args"]["reduction"] == "sum"
    assert len(colbert["model"]["text"]["passage_skiplist"]) == 32


@pytest.fixture
def pylate_projection(tmp_path: Path) -> Path:
    """The projection of a PyLate folder, for the hidden size of the tiny checkpoint."""
    import json

    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "pylate"
    (folder / "1_Dense").mkdir(parents=True)
    settings = {"in_features": 32, "out_features": 128, "bias": False, "use_residual": False}
    settings["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "1_Dense" / "config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps([{"idx": 1, "type": "pylate.models.Dense.Dense"}]))
    save_file({"linear.weight": torch.randn(128, 32)}, str(folder / "1_Dense" / "model.safetensors"))
    return folder


def _recipe(path: str | Path) -> dict[str, Any]:
    text = (ROOT / "configs" / path if not str(path).startswith("configs") else ROOT / path).read_text()
    return yaml.safe_load(text)


def test_the_projection_class_of_every_late_interaction_recipe_is_ours() -> None:
    classes = {_recipe(path)["model"]["pooling"]["class_path"] for path in CONFIGS}
    assert f"{TokenProjection.__module__}.{TokenProjection.__name__}" in classes
