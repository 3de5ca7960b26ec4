"""What ``model.checkpoint`` may be beyond the recorded folders, and what is said of what it may not be."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_tokens
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from small import HEADS, Head, make_head, retriever, synthetic_data, trainer
from torch import nn
from transformers import AutoTokenizer, MPNetConfig, MPNetModel, RobertaConfig, RobertaModel, T5Config, T5Model

from ifir_lightning import Retriever, load_retriever, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.errors import InputError
from ifir_lightning.export import write_export
from ifir_lightning.models import checkpoints
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.models.checkpoints import read_checkpoint
from ifir_lightning.models.dense import Dense
from ifir_lightning.models.files import check_finite
from ifir_lightning.models.pooling import CLSPooling, MeanPooling, Pooling, Projected, TokenProjection
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer, WeightedMaxSim
from ifir_lightning.records import Embeddings, Hidden, Passage
from ifir_lightning.retriever import build_retriever
from ifir_lightning.text_format import TextSettings

TEXTS = (["a quiet hotel", "the garden near the harbour"], ["breakfast and walks", "", "no hotel, no cost!"])


def scores(model: Retriever) -> torch.Tensor:
    return model.score(*TEXTS)


@pytest.fixture
def late(modernbert: Path, tmp_path: Path) -> Path:
    """A PyLate folder."""
    text = TextSettings("", "", "[Q] ", "[D] ", 32, 48, (",", "!"), "none")
    write_export(load_retriever(str(modernbert), TokenProjection(dim=8), MaxSim(), text), tmp_path / "late", card="")
    return tmp_path / "late"


@pytest.fixture
def dense(modernbert: Path, tmp_path: Path) -> Path:
    """A sentence-transformers folder with a Dense layer and limits of 40."""
    pooling = Projected(MeanPooling(), [Dense(32, 12, activation="Tanh")], normalize=True)
    text = TextSettings(max_query_length=40, max_passage_length=40)
    write_export(load_retriever(str(modernbert), pooling, Cosine(), text), tmp_path / "dense", card="")
    (tmp_path / "dense" / "ifir_lightning.json").unlink()
    return tmp_path / "dense"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_read_from_its_folder_and_from_its_file(head: Head, modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert, head)
    fit = trainer(tmp_path / "run", max_steps=2, plugins=[ManifestIO()])
    fit.fit(module, synthetic_data())
    file = tmp_path / "run" / "checkpoints" / "step-00000002.ckpt"
    fit.save_checkpoint(file)
    alone = shutil.copy(file, tmp_path / "moved.ckpt")
    module.retriever.eval()
    for name in (tmp_path / "run", file, alone):
        read = load_retriever(str(name))
        assert read.tokenizer.format == module.retriever.tokenizer.format
        assert torch.equal(scores(read), scores(module.retriever))


def test_of_a_run_the_best_is_taken_then_the_last(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a run folder without a checkpoints/\*.ckpt; allowed is a run that wrote"):
        checkpoints.find_ckpt(str(tmp_path))
    for step, score in ((100, ("followir/p_mrr", 2.5)), (200, ("followir/p_mrr", 1.5)), (300, None)):
        content = {"global_step": step, "epoch": 0, "score": score}
        ManifestIO().save_checkpoint(content, tmp_path / "checkpoints" / f"step-{step:08d}.ckpt")
    assert checkpoints.find_ckpt(str(tmp_path)).name == "step-00000100.ckpt"
    for step in (100, 200):
        manifests.remove(tmp_path / "checkpoints" / f"step-{step:08d}.ckpt")
    assert checkpoints.find_ckpt(str(tmp_path)).name == "step-00000300.ckpt"


def test_a_run_starts_from_a_run_with_another_head(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert, "maxsim")
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, synthetic_data())
    fit.save_checkpoint(tmp_path / "run.ckpt")
    bi_encoder = load_retriever(str(tmp_path / "run.ckpt"), MeanPooling(), Cosine())
    tokens = random_tokens([5, 3])
    module.eval()
    ours = bi_encoder.encode(tokens).values_ND
    assert torch.equal(ours, MeanPooling()(module.retriever.backbone(tokens)).values_ND)
    weighted = load_retriever(str(tmp_path / "run.ckpt"), TokenProjection(token_weights=True), WeightedMaxSim("mean"))
    torch.testing.assert_close(scores(weighted), scores(load_retriever(str(tmp_path / "run.ckpt"))))


def test_a_checkpoint_without_a_retriever_or_with_half_of_one(modernbert: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "global_step": 0}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt' holds no retriever; allowed are checkpoints that fit wrote"):
        load_retriever(str(tmp_path / "other.ckpt"))
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(retriever(modernbert), synthetic_data())
    fit.save_checkpoint(tmp_path / "run.ckpt")
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "half.ckpt")
    with pytest.raises(InputError, match=r"half.ckpt' does not hold the weights that it describes \(.*Missing key"):
        load_retriever(str(tmp_path / "half.ckpt"))
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "run.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut.ckpt' has no readable .*cut.ckpt"):
        load_retriever(str(tmp_path / "cut.ckpt"))


class Malicious:
    """Runs code when it is unpickled without care."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.witness),))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "1_Dense/pytorch_model.bin", "run.ckpt"])
def test_a_pickle_runs_no_code(late: Path, file: str, tmp_path: Path) -> None:
    (late / file).with_name("model.safetensors").unlink(missing_ok=True)
    with (late / file).open("wb") as stream:
        pickle.dump(Malicious(tmp_path / "witness"), stream, protocol=2)
    with pytest.raises(InputError, match=r"could run code"):
        load_retriever(str(late / file) if file.endswith("ckpt") else str(late))
    assert not (tmp_path / "witness").exists()
    with (late / file).open("rb") as stream:
        pickle.load(stream)
    assert (tmp_path / "witness").exists(), "the pickle does no harm even without care"


def test_a_dense_layer_from_a_pickle_equals_that_from_safetensors(late: Path) -> None:
    expected = scores(load_retriever(str(late)))
    file = late / "1_Dense" / "model.safetensors"
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    assert torch.equal(scores(load_retriever(str(late))), expected)


class Doubled(MeanPooling):
    """A pooling of a stranger."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, hidden: Hidden) -> Embeddings:
        pooled = super().forward(hidden)
        return Embeddings(pooled.lengths_B, self.factor * pooled.values_ND)


class Forgetful(MeanPooling):
    """A pooling that does not keep its argument."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()


def save_run(module: Any, file: Path) -> str:
    fit = trainer(file.parent, max_steps=1)
    fit.fit(module, synthetic_data())
    fit.save_checkpoint(file)
    return str(file)


def test_a_strangers_pooling_is_stored_and_runs_only_when_trusted(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert, pooling=Doubled(3.0))
    name = save_run(module, tmp_path / "run.ckpt")
    with pytest.raises(InputError, match=r"names the class test_checkpoints.Doubled, .*trust_remote_code to true"):
        load_retriever(name)
    read = load_retriever(name, trust_remote_code=True)
    assert isinstance(read.pooling, Doubled)
    assert read.pooling.factor == 3.0


def test_a_pooling_that_forgets_its_arguments_is_refused_before_training(modernbert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Forgetful cannot be stored .*: set self.factor"):
        save_run(retriever(modernbert, pooling=Forgetful()), tmp_path / "run.ckpt")


def test_no_class_but_a_part_is_made(modernbert: Path, tmp_path: Path) -> None:
    name = save_run(retriever(modernbert), tmp_path / "run.ckpt")
    content = torch.load(name, weights_only=True)
    content["retriever"]["pooling"] = {"class_path": "ifir_lightning.trec.read_run", "init_args": {}}
    torch.save(content, name)
    with pytest.raises(InputError, match=r"ifir_lightning.trec.read_run with {}, which cannot be made"):
        load_retriever(name, trust_remote_code=True)


def test_every_difference_is_logged_in_one_line(late: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        text = TextSettings(max_query_length=64, max_passage_length=48, query_prefix="q: ", passage_skiplist=())
        load_retriever(str(late), scorer=MaxSim("mean"), text=text)
    lines = [record.getMessage().removeprefix(f"{late}: ") for record in caplog.records]
    assert lines == [
        "scorer MaxSim(reduction=sum) in the checkpoint, MaxSim(reduction=mean) in the recipe",
        "query prefix '' in the checkpoint, 'q: ' in the recipe",
        "query limit 32 in the checkpoint, 64 in the recipe",
        "passage skiplist of 2 words in the checkpoint, of 0 words in the recipe",
    ]


def test_what_the_recipe_repeats_is_no_difference(late: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        read = load_retriever(
            str(late), TokenProjection(dim=8), MaxSim(), TextSettings(max_query_length=32, query_marker="[Q] ")
        )
    assert caplog.records == []
    assert torch.equal(scores(read), scores(load_retriever(str(late))))


def test_a_new_projection_is_seeded_and_said(dense: Path, late: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = []
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        for noise in (0, 1):
            torch.manual_seed(noise)
            made.append(load_retriever(str(dense), TokenProjection(dim=16), MaxSim()))
        assert torch.equal(scores(made[0]), scores(made[1]))
        assert f"{dense}: new weights of the pooling (seed 0): layers.0.linear.weight [16, 32]\n" in caplog.text
        caplog.clear()
        load_retriever(str(late), TokenProjection(token_weights=True), WeightedMaxSim())
        assert f"{late}: new weights of the pooling (seed 0): weight.weight [1, 32], weight.bias [1]\n" in caplog.text
        load_retriever(str(late), TokenProjection(dim=4), MaxSim())
        assert f"{late}: new weights of the pooling (seed 0): layers.0.linear.weight [4, 32]\n" in caplog.text


class Scaled(Dot):
    """A scorer with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(()))

    def forward(self, queries: Embeddings, passages: Embeddings) -> torch.Tensor:
        return self.factor * super().forward(queries, passages)


def test_a_new_scorer_is_seeded_too(modernbert: Path) -> None:
    first, second = (load_retriever(str(modernbert), MeanPooling(), Scaled()).scorer for _ in range(2))
    assert first.factor == second.factor


def late_parts(**settings: Any) -> tuple[Pooling, Scorer]:
    return TokenProjection(layers=[Dense(32, 8, bias=False)], **settings), MaxSim()


def dense_parts(normalize: bool = True) -> tuple[Pooling, Scorer]:
    return Projected(MeanPooling(), [Dense(32, 12, activation="Tanh")], normalize), Scaled()


@pytest.mark.parametrize(
    ("parts", "changed"), [(late_parts, {"normalize": False}), (dense_parts, {"normalize": False})]
)
def test_parts_that_are_repeated_keep_their_weights_and_others_are_seeded_and_said(
    parts: Callable[..., tuple[Pooling, Scorer]],
    changed: dict,
    modernbert: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def weights(of: Retriever) -> list[torch.Tensor]:
        return [*of.pooling.state_dict().values(), *of.scorer.state_dict().values()]

    pooling, scorer = parts()
    name = save_run(retriever(modernbert, pooling=pooling, scorer=scorer), tmp_path / "run.ckpt")
    expected = weights(load_retriever(name, trust_remote_code=True))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        assert all(map(torch.equal, expected, weights(load_retriever(name, *parts(), trust_remote_code=True))))
        assert caplog.records == []
        first, second = (load_retriever(name, *parts(**changed), trust_remote_code=True) for _ in range(2))
    assert "(seed 0): layers.0.linear.weight [" in caplog.text
    assert not torch.equal(expected[0], weights(first)[0])
    assert all(map(torch.equal, weights(first), weights(second)))


def test_query_expansion_belongs_to_late_interaction(
    late: Path, modernbert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (late / "ifir_lightning.json").unlink()
    edit(late / "config_sentence_transformers.json", do_query_expansion=True)
    assert load_retriever(str(late)).tokenizer.format.query_expansion == "unattended"
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        assert load_retriever(str(late), MeanPooling(), Cosine()).tokenizer.format.query_expansion == "none"
    assert "its query expansion is not used, since only late interaction counts" in caplog.text
    with pytest.raises(InputError, match=r"query_expansion is attended, but model.pooling MeanPooling gives one vect"):
        load_retriever(str(modernbert), MeanPooling(), Cosine(), TextSettings(query_expansion="attended"))


@pytest.mark.parametrize("model_type", ["modernbert", "new-type"])
def test_code_in_a_folder_does_not_run(modernbert: Path, tmp_path: Path, model_type: str) -> None:
    """Neither where transformers knows the model type nor where only the code would."""
    folder, witness = shutil.copytree(modernbert, tmp_path / "model"), tmp_path / "witness"
    code = f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nfrom transformers import ModernBertConfig as Own\n"
    (folder / "own.py").write_text(code)
    edit(folder / "config.json", model_type=model_type, auto_map={"AutoConfig": "own.Own"})
    if model_type == "new-type":
        with pytest.raises(InputError, match=r"cannot be read"):
            load_retriever(str(folder), MeanPooling(), Cosine())
    else:
        load_retriever(str(folder), MeanPooling(), Cosine())
    assert not witness.exists()


OWN_CODE = BackboneSettings(trust_remote_code=True)


@pytest.fixture
def coded(bert: Path, tmp_path: Path) -> Path:
    """A BERT with a configuration and a model of its own."""
    folder = shutil.copytree(bert, tmp_path / "coded")
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    code = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    edit(folder / "config.json", model_type="own", auto_map=code)
    return folder


def test_a_run_of_an_encoder_with_code_of_its_own_carries_the_code(coded: Path, tmp_path: Path) -> None:
    """Its folder may be gone; and the code runs only where it is trusted."""
    module = retriever(coded, backbone=OWN_CODE)
    name = save_run(module, tmp_path / "run.ckpt")
    shutil.rmtree(coded)
    with pytest.raises(InputError, match=r"run.ckpt' has an encoder with code of its own; .*trust_remote_code"):
        load_retriever(name)
    read = load_retriever(name, trust_remote_code=True)
    assert type(read.backbone.model).__name__ == "OwnModel"
    assert torch.equal(scores(read), scores(module.retriever.eval()))
    assert read.snapshot()["code"] == module.retriever.snapshot()["code"]
    write_export(read, tmp_path / "out", card="")
    assert torch.equal(scores(load_retriever(str(tmp_path / "out"), trust_remote_code=True)), scores(read))


def test_code_that_nobody_trusts_is_said(coded: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(it has code of its own, .*trust_remote_code is true"):
        load_retriever(str(coded), MeanPooling(), Cosine())


def test_a_run_of_a_tokenizer_with_code_of_its_own_can_be_loaded_and_exported(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "coded")
    code = "from transformers import PreTrainedTokenizerFast\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "own.py").write_text(code)
    own = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
    edit(folder / "tokenizer_config.json", **own)
    module = retriever(folder, backbone=OWN_CODE)
    name = save_run(module, tmp_path / "run.ckpt")
    write_export(module.retriever, tmp_path / "out", card="")
    shutil.rmtree(folder)
    for written in (name, str(tmp_path / "out")):
        read = load_retriever(written, trust_remote_code=True)
        assert type(read.backbone.tokenizer).__name__ == "OwnTokenizer"
        assert torch.equal(scores(read), scores(module.retriever.eval()))


def test_a_modernbert_with_code_of_its_own_runs_that_code(modernbert: Path, tmp_path: Path) -> None:
    """And not the packed forward pass, which is that of transformers' ModernBERT."""
    folder = shutil.copytree(modernbert, tmp_path / "coded")
    (folder / "own.py").write_text(
        "from transformers import ModernBertModel\n"
        "class OwnModel(ModernBertModel):\n"
        "    def forward(self, *args, **settings):\n"
        "        output = super().forward(*args, **settings)\n"
        "        output.last_hidden_state = 3 * output.last_hidden_state\n"
        "        return output\n"
    )
    edit(folder / "config.json", auto_map={"AutoModel": "own.OwnModel"})
    plain, own = (
        load_retriever(str(each), MeanPooling(), Dot(), trust_remote_code=True) for each in (modernbert, folder)
    )
    read = load_retriever(save_run(retriever(folder, backbone=OWN_CODE), tmp_path / "run.ckpt"), trust_remote_code=True)
    assert (plain.backbone.packed, own.backbone.packed, read.backbone.packed) == (True, False, False)
    torch.testing.assert_close(scores(own), 9 * scores(plain))


def test_an_adapter_beside_the_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    """transformers would apply it and freeze all else."""
    folder = shutil.copytree(bert, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter' holds an adapter of peft .*: merge it with merge_and_unload"):
        load_retriever(str(folder), MeanPooling(), Cosine())


def test_further_chat_templates_stop_no_run(modernbert: Path, tmp_path: Path) -> None:
    model = load_retriever(str(modernbert), MeanPooling(), Cosine())
    model.backbone.tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ messages }}"}
    files = model.snapshot()["tokenizer"]
    assert set(files) == {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}  # type: ignore[call-overload]


def test_a_new_projection_does_not_depend_on_the_layout_of_the_checkpoint(modernbert: Path, tmp_path: Path) -> None:
    """Reading one layout draws random numbers, reading another does not."""
    name = save_run(retriever(modernbert), tmp_path / "run.ckpt")
    (first, second) = (load_retriever(each, TokenProjection(dim=8), MaxSim()) for each in (str(modernbert), name))
    assert torch.equal(first.pooling.layers[0].linear.weight, second.pooling.layers[0].linear.weight)


def test_token_weights_of_a_checkpoint_are_taken_over(modernbert: Path, tmp_path: Path) -> None:
    name = save_run(retriever(modernbert, "weighted"), tmp_path / "run.ckpt")
    expected = scores(load_retriever(name))
    pooling = TokenProjection(token_weights=True)
    assert torch.equal(scores(load_retriever(name, pooling, WeightedMaxSim("mean"))), expected)
    assert not torch.equal(scores(load_retriever(name, TokenProjection(), MaxSim("mean"))), expected)


def test_a_marker_that_the_tokenizer_lacks_becomes_a_token(modernbert: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = load_retriever(str(modernbert), TokenProjection(), MaxSim())
    with caplog.at_level(logging.INFO, logger="ifir_lightning.retriever"):
        text = TextSettings(query_marker="[Q] ", passage_marker="[D] ")
        marked = load_retriever(str(modernbert), TokenProjection(), MaxSim(), text)
    assert "token '[Q] ' is new, with a random embedding (seed 0)" in caplog.text
    size = len(plain.backbone.tokenizer)
    assert marked.backbone.model.get_input_embeddings().num_embeddings == size + 2
    (first,) = plain.tokenizer.queries([("a hotel", "")]).split(1)
    (second,) = marked.tokenizer.queries([("a hotel", "")]).split(1)
    assert second.input_ids_T.tolist() == [first.input_ids_T[0], size, *first.input_ids_T[1:].tolist()]
    with pytest.raises(InputError, match=r"query_marker is '\[Q\] ', which is no token"):
        type(plain.tokenizer)(plain.backbone.tokenizer, marked.tokenizer.format)


def test_what_a_checkpoint_lacks_is_asked_for(modernbert: Path, dense: Path) -> None:
    with pytest.raises(InputError, match=r"gives no model.pooling \(it is a plain encoder\) .*: set model.pooling"):
        load_retriever(str(modernbert))
    with pytest.raises(InputError, match=r"gives no model.scorer \(it is a plain encoder\) .*: set model.scorer"):
        load_retriever(str(modernbert), MeanPooling())
    edit(dense / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    with pytest.raises(InputError, match=r"gives no model.pooling \(its pooling is mean\+max\)"):
        load_retriever(str(dense))
    edit(dense / "config_sentence_transformers.json", similarity_fn_name="euclidean")
    with pytest.raises(InputError, match=r"gives no model.scorer"):
        load_retriever(str(dense), CLSPooling())
    assert isinstance(load_retriever(str(dense), CLSPooling(), Cosine()).pooling, CLSPooling)


def test_a_prompt_that_pooling_leaves_out_is_not_pretended(dense: Path) -> None:
    edit(dense / "1_Pooling" / "config.json", include_prompt=False)
    load_retriever(str(dense))
    edit(dense / "config_sentence_transformers.json", prompts={"query": "q: "})
    with pytest.raises(InputError, match=r"its pooling leaves out the prompt \(include_prompt\)"):
        load_retriever(str(dense))


def test_the_limit_of_a_checkpoint_that_names_none(dense: Path) -> None:
    (dense / "sentence_bert_config.json").unlink()
    edit(dense / "tokenizer_config.json", model_max_length=77)
    assert load_retriever(str(dense)).tokenizer.format.max_query_length == 77
    edit(dense / "tokenizer_config.json", model_max_length=10**30)
    assert load_retriever(str(dense)).tokenizer.format.max_passage_length == 512


def test_a_limit_beyond_the_positions_is_lowered_to_them(dense: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(dense / "sentence_bert_config.json", max_seq_length=514)
    with caplog.at_level(logging.WARNING):
        text = load_retriever(str(dense)).tokenizer.format
    assert (text.max_query_length, text.max_passage_length) == (512, 512)
    assert "dense: its encoder has 512 positions, which are the limit in tokens in place of the 514" in caplog.text


def test_a_limit_of_colbert_beyond_the_positions_is_lowered_to_them(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "colbert")
    weights = load_file(folder / "model.safetensors") | {"linear.weight": torch.ones(8, 32)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 20, "doc_maxlen": 514}))
    text = load_retriever(str(folder)).tokenizer.format
    assert (text.max_query_length, text.max_passage_length) == (20, 512)


def test_the_limit_of_a_roberta_that_names_none(modernbert: Path, tmp_path: Path) -> None:
    """It counts positions from padding_idx + 1, so that it has fewer than its configuration says."""
    tokenizer, size = AutoTokenizer.from_pretrained(modernbert), {"hidden_size": 16, "intermediate_size": 16}
    size |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 34}
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **size)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    text = TextSettings(max_query_length=20, max_passage_length=20)
    write_export(load_retriever(str(tmp_path / "plain"), MeanPooling(), Cosine(), text), tmp_path / "out", card="")
    for file in ("sentence_bert_config.json", "ifir_lightning.json"):
        (tmp_path / "out" / file).unlink()
    assert load_retriever(str(tmp_path / "out")).tokenizer.format.max_query_length == 32


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def fill(path: Path, value: float) -> None:
    save_file({name: torch.full_like(weights, value) for name, weights in load_file(path).items()}, path)


def drop_row(path: Path) -> None:
    save_file({name: value[:-1].contiguous() for name, value in load_file(path).items()}, path)


FAULTS: dict[str, tuple[Any, str]] = {
    "cut weights": (lambda f: cut(f / "model.safetensors"), r"cannot be read"),
    "cut projection": (lambda f: cut(f / "1_Dense/model.safetensors"), r"no readable 1_Dense/model.safetensors"),
    "no projection weights": (lambda f: (f / "1_Dense/model.safetensors").unlink(), r"no readable 1_Dense/pytorch_mo"),
    "width": (lambda f: drop_row(f / "1_Dense/model.safetensors"), r"holds .*\(7, 32\).*describes .*\(8, 32\)"),
    "settings": (lambda f: (f / "1_Dense/config.json").write_text("{"), r"no readable 1_Dense/config.json"),
    "a setting": (lambda f: (f / "1_Dense/config.json").write_text("{}"), r"config.json \(it has no in_features\)"),
    "activation": (
        lambda f: edit(f / "1_Dense/config.json", activation_function="os.system"),
        r"activation os.system; allowed are Identity, Tanh",
    ),
    "widths": (lambda f: edit(f / "1_Dense/config.json", out_features="wide"), r"Dense layer from 32 to 'wide' \("),
    "scorer": (
        lambda f: edit(f / "ifir_lightning.json", scorer={}),
        r"says what cannot be understood \(KeyError: 'class_path'\)",
    ),
    "limit": (
        lambda f: edit(f / "config_sentence_transformers.json", query_length={}),
        r"model.text.max_query_length is {}",
    ),
    "no number": (lambda f: fill(f / "1_Dense/model.safetensors", float("nan")), r"weights that are no numbers \(1_De"),
    "no number in the encoder": (lambda f: fill(f / "model.safetensors", float("nan")), r"are no numbers \(embeddings"),
    "no activation": (
        lambda f: edit(f / "1_Dense/config.json", activation_function=None),
        r"activation None; allowed are Identity, Tanh",
    ),
    "bias": (lambda f: edit(f / "1_Dense/config.json", bias="no"), r"has bias 'no'; allowed are true and false"),
    "residual": (lambda f: edit(f / "1_Dense/config.json", use_residual="no"), r"has use_residual 'no'; allowed are t"),
    "expansion": (
        lambda f: edit(f / "config_sentence_transformers.json", do_query_expansion="false"),
        r"has do_query_expansion 'false'; allowed are true and false",
    ),
    "attended expansion": (
        lambda f: edit(f / "config_sentence_transformers.json", attend_to_expansion_tokens=3),
        r"has attend_to_expansion_tokens 3; allowed are true and false",
    ),
    "prompts": (
        lambda f: edit(f / "config_sentence_transformers.json", prompts=["q"]),
        r"says what cannot be understood \(AttributeError",
    ),
    "modules": (lambda f: (f / "modules.json").write_text("[]"), r"has the modules none; allowed is one Transformer"),
    "order": (
        lambda f: (f / "modules.json").write_text(
            json.dumps([{"type": f"pylate.{kind}", "path": ""} for kind in ("Transformer", "Dense", "Pooling")])
        ),
        r"has the modules Transformer, Dense, Pooling; allowed is one Transformer, then Pooling, any Dense and Norm",
    ),
    "module": (
        lambda f: (f / "modules.json").write_text('[{"type": "custom_st.Transformer", "path": ""}]'),
        r"has a module custom_st.Transformer; allowed are Transformer, Pooling",
    ),
    "token weights": (
        lambda f: edit(f / "ifir_lightning.json", token_weights=True),
        r"no readable late/token_weights.safetensors",
    ),
    "nothing": (
        lambda f: [path.unlink() for path in f.glob("*.json")],
        r"holds neither modules.json nor config.json; allowed are folders of transformers",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder(fault: str, late: Path) -> None:
    damage, expected = FAULTS[fault]
    damage(late)
    with pytest.raises(InputError, match=expected) as error:
        load_retriever(str(late))
    assert len(str(error.value).splitlines()) == 1
    assert "late" in str(error.value) or fault == "limit"  # which a recipe could set, and is named by its key


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"skiplist_words": [1, 2]}, r"passage_skiplist is \(1, 2\); allowed is a list of words"),
        ({"skiplist_words": "abc"}, r"passage_skiplist is 'abc'; allowed is a list of words"),
        ({"query_prefix": 5}, r"query_marker is 5; allowed is text"),
        ({"prompts": {"x": 5}, "default_prompt_name": "x"}, r"query_prefix is 5; allowed is text"),
    ],
)
def test_a_setting_of_another_type_that_a_recipe_could_set(settings: dict, expected: str, late: Path) -> None:
    edit(late / "config_sentence_transformers.json", **settings)
    with pytest.raises(InputError, match=rf"model\.text\.{expected}: correct it"):
        load_retriever(str(late))


def test_a_dense_layer_that_names_no_activation_has_that_of_sentence_transformers(dense: Path) -> None:
    """Tanh, which the folder names, is what sentence-transformers 6 takes where it is not named; 5 and PyLate fail."""
    named, config = scores(load_retriever(str(dense))), dense / "2_Dense" / "config.json"
    settings = json.loads(config.read_text())
    assert settings.pop("activation_function") == "torch.nn.modules.activation.Tanh"
    config.write_text(json.dumps(settings))
    assert torch.equal(scores(load_retriever(str(dense))), named)


def test_a_projection_for_another_backbone(late: Path) -> None:
    edit(late / "1_Dense" / "config.json", in_features=48)
    save_file({"linear.weight": torch.zeros(8, 48)}, late / "1_Dense" / "model.safetensors")
    with pytest.raises(InputError, match=r"layer 1 of model.pooling takes vectors of 48, but the backbone gives 32"):
        read_checkpoint(str(late))


def test_a_pylate_folder_without_a_projection(late: Path) -> None:
    modules = json.loads((late / "modules.json").read_text())
    (late / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(InputError, match=r"has no Dense layer, which late interaction needs"):
        read_checkpoint(str(late))


def test_lower_case_that_the_tokenizer_does_not_see_to(dense: Path, bert: Path) -> None:
    edit(dense / "sentence_bert_config.json", do_lower_case=True)
    tokenizer = json.loads((dense / "tokenizer.json").read_text())
    assert load_retriever(str(dense)).tokenizer.format.max_query_length == 40  # the quickstart's lowers all itself
    (dense / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))
    with pytest.raises(InputError, match=r"lowers the case of texts before tokenising .*: add a Lowercase normalizer"):
        load_retriever(str(dense))


def test_a_hub_id_is_fetched_at_its_revision(late: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, revision, any("bin" in each for each in allow_patterns), "*.py" in allow_patterns))
        return str(late)

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    expected = scores(load_retriever(str(late)))
    assert torch.equal(scores(load_retriever("owner/name@v1")), expected)
    assert torch.equal(scores(load_retriever("name", trust_remote_code=True)), expected)
    assert asked == [("owner/name", "v1", False, False), ("name", None, False, True)]


@pytest.mark.parametrize("place", ["1_Dense", "0_Transformer"])
def test_pickled_weights_are_fetched_only_where_there_are_no_others(
    place: str, late: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transformer may lie in a folder of its own, as before version 2."""
    asked = []
    modules = json.loads((late / "modules.json").read_text())
    (late / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, modules[1]]))
    (late / "0_Transformer").mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (late / file).rename(late / "0_Transformer" / file)
    (late / place / "model.safetensors").unlink()
    monkeypatch.setattr(checkpoints, "_download", lambda *arguments: asked.append(arguments[2]) or late)
    with pytest.raises(InputError, match="owner/name"):
        load_retriever("owner/name")
    assert asked[1] == [f"{place}/pytorch_model*.bin"]


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: Any, **options: Any) -> str:
        raise LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    with pytest.raises(InputError, match=r"'owner/name@v1' is no folder and the hub did not give it \(no network\)"):
        load_retriever("owner/name@v1")


@pytest.mark.parametrize("name", ["no/such/folder", "missing.ckpt", "model.safetensors", "../elsewhere"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=r"does not exist; allowed are a folder, a hub id owner/name\[@revision\]"):
        load_retriever(name)


@pytest.mark.parametrize("head", HEADS)
def test_parts_are_described_and_made_again(head: Head, modernbert: Path) -> None:
    from ifir_lightning.models.description import describe, rebuild

    pooling, scorer = make_head(head)
    pooling.build(32)
    for part in (pooling, scorer):
        made = rebuild(json.loads(json.dumps(describe(part))), type(part))
        if isinstance(made, Pooling):
            made.build(32)
        assert describe(made) == describe(part)
        assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in part.state_dict().items()}


def test_an_encoder_without_sdpa_equals_transformers(modernbert: Path, tmp_path: Path) -> None:
    """MPNet has one kernel of its own; transformers refuses to run it with another."""
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    config = MPNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = MPNetModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = load_retriever(str(tmp_path), MeanPooling(), Cosine())
    (ours,) = read.encode_queries(["a quiet hotel"]).values_ND
    with torch.no_grad():
        expected = model(**tokenizer("a quiet hotel", return_tensors="pt", return_token_type_ids=False))
    torch.testing.assert_close(ours, expected.last_hidden_state[0].mean(0), atol=1e-6, rtol=1e-5)


def test_an_encoder_decoder_is_refused(modernbert: Path, tmp_path: Path) -> None:
    T5Model(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(modernbert).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"t5 is an encoder-decoder; allowed are encoders and decoders"):
        load_retriever(str(tmp_path), MeanPooling(), Cosine())


def test_weights_whose_sum_overflows_are_numbers() -> None:
    check_finite(torch.full((4,), 3e38), "a weight", "a checkpoint")


def test_instructions_are_a_list(modernbert: Path) -> None:
    model = load_retriever(str(modernbert), MeanPooling(), Cosine())
    for queries, instructions in (("ab", None), (["a", "b"], "xy"), ([], None), ([None, "a"], None), ([3], None)):
        with pytest.raises(InputError, match=r"^(queries|instructions): .*: pass a list of strings$"):
            model.encode_queries(queries, instructions)
    with pytest.raises(InputError, match=r"1 queries and 2 instructions; .*: pass lists of equal length$"):
        model.encode_queries(["a"], ["x", "y"])
    for passages in ("ab", [], ["a", {"text": "b"}], Passage("1", "", "a"), None):
        with pytest.raises(InputError, match=r"^passages: .*: pass a list of strings$"):
            model.encode_passages(passages)


def test_texts_in_an_array_are_a_list(modernbert: Path) -> None:
    model = load_retriever(str(modernbert), MeanPooling(), Cosine())
    listed, array = (model.score(texts, texts) for texts in (["a", "b"], np.array(["a", "b"])))
    assert torch.equal(listed, array)


def test_another_tokenizer_is_said(modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AutoTokenizer.from_pretrained(modernbert).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        build_retriever(str(modernbert), BackboneSettings(), MeanPooling(), Cosine())
        assert "tokenizer" not in caplog.text
        build_retriever(str(modernbert), BackboneSettings(tokenizer=str(tmp_path)), MeanPooling(), Cosine())
    assert f"{modernbert}: the tokenizer is {str(tmp_path)!r}, not its own" in caplog.text


def test_a_tokenizer_of_a_revision(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, asked = AutoTokenizer.from_pretrained(modernbert), []

    def from_pretrained(source: str, revision: str, **_: Any) -> Any:
        asked.append((source, revision))
        return own

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    config = {"model_type": "modernbert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for tokenizer in ("owner/name@abc", "owner/name", str(modernbert)):
        build_retriever(None, BackboneSettings(config=config, tokenizer=tokenizer), MeanPooling(), Cosine())
    assert asked == [("owner/name", "abc"), ("owner/name", "main"), (str(modernbert), "main")]


def test_new_layers_take_no_random_numbers_of_gpus(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.manual_seed(3)
    build_retriever(str(modernbert), BackboneSettings(), TokenProjection(), MaxSim())
    assert seeds == [3]


def test_a_tokenizer_with_more_tokens_than_embeddings(modernbert: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    tokenizer.add_tokens(["one-more"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"tokenizer .* has \d+ tokens, the checkpoint .* embeds \d+; allowed is its"):
        build_retriever(str(modernbert), BackboneSettings(tokenizer=str(tmp_path)), MeanPooling(), Cosine())
