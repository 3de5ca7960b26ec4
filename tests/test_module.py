"""RetrieverModule: what fits together, that it learns, what it logs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from small import HEADS, TINY, Head, Recorder, make_head, retriever, synthetic_data, trainer
from transformers import AutoTokenizer

from ifir_lightning.callbacks.metrics_csv import MetricsCSV
from ifir_lightning.errors import InputError
from ifir_lightning.losses import InfoNCE
from ifir_lightning.models.backbone import BackboneSettings
from ifir_lightning.models.pooling import CLSPooling, LastTokenPooling, MeanPooling, Pooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer, WeightedMaxSim
from ifir_lightning.models.transformer import build_transformer
from ifir_lightning.module import RetrieverModule
from ifir_lightning.optimization import AdamW, Schedule
from ifir_lightning.text_format import TextFormat, TextSettings


def build(backbone: Path, pooling: Pooling, scorer: Scorer, text: TextSettings | None = None) -> RetrieverModule:
    return RetrieverModule(InfoNCE(), str(backbone), pooling=pooling, scorer=scorer, text=text or TextSettings())


@pytest.mark.parametrize(
    ("pooling", "scorer", "words"),
    [
        (TokenProjection(), Cosine(), ("Cosine", "TokenProjection", "MeanPooling", "MaxSim")),
        (TokenProjection(), Dot(), ("Dot", "TokenProjection", "MeanPooling", "MaxSim")),
        (TokenProjection(), WeightedMaxSim(), ("WeightedMaxSim needs", "TokenProjection gives none", "token_weights")),
        (MeanPooling(), WeightedMaxSim(), ("WeightedMaxSim needs", "MeanPooling gives none", "token_weights")),
        (TokenProjection(token_weights=True), MaxSim(), ("MaxSim does not use", "TokenProjection learns", "scorer")),
    ],
)
def test_pooling_and_scorer_that_do_not_fit(
    modernbert: Path, pooling: Pooling, scorer: Scorer, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as error:
        build(modernbert, pooling, scorer)
    assert_one_line(error.value, words)


@pytest.mark.parametrize("pooling", [MeanPooling(), CLSPooling(), LastTokenPooling()])
@pytest.mark.parametrize("scorer", [Cosine(), Dot(), MaxSim()])
def test_one_vector_per_text_fits_every_scorer_without_weights(
    modernbert: Path, pooling: Pooling, scorer: Scorer
) -> None:
    build(modernbert, pooling, scorer)


@pytest.mark.parametrize("name", ["max_query_length", "max_passage_length"])
def test_a_limit_beyond_the_positions(modernbert: Path, name: str) -> None:
    build(modernbert, MeanPooling(), Cosine(), TextSettings(**{name: 512}))  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        build(modernbert, MeanPooling(), Cosine(), TextSettings(**{name: 513}))  # type: ignore[arg-type]
    assert_one_line(error.value, (f"model.text.{name} is 513", "512 positions", f"lower model.text.{name}"))


def test_heads_of_one_seed_start_from_the_same_backbone(modernbert: Path) -> None:
    """Whether the head was made before the backbone, as the command line may do, or after it."""
    weights = []
    backbone = BackboneSettings(config=TINY, tokenizer=str(modernbert))
    text = TextSettings(max_query_length=64, max_passage_length=64)
    for head in HEADS:
        pooling, scorer = make_head(head)
        module = RetrieverModule(InfoNCE(), None, backbone, pooling, scorer, text, seed=5)
        weights.append(module.retriever.backbone.state_dict())
    torch.manual_seed(5)
    built = build_transformer(TINY, AutoTokenizer.from_pretrained(modernbert))
    weights.append({f"model.{name}": weight for name, weight in built.state_dict().items()})
    for name, weight in weights[0].items():
        assert all(torch.equal(other[name], weight) for other in weights[1:]), name


@pytest.mark.parametrize("head", HEADS)
def test_a_handful_of_rows_is_learnt_by_heart(modernbert: Path, tmp_path: Path, head: Head) -> None:
    module, recorder = retriever(modernbert, head, config=TINY), Recorder()
    trainer(tmp_path, recorder, max_steps=60).fit(module, synthetic_data(num_rows=6, batch=6, group_size=4))
    first, last = recorder.metrics[0], recorder.metrics[-1]
    assert last["train/loss"] < first["train/loss"] / 5
    assert last["train/accuracy"] == last["train/accuracy_instruction_negatives"] == 1.0


def test_what_is_logged(modernbert: Path, tmp_path: Path) -> None:
    module, recorder, logger = retriever(modernbert), Recorder(), MetricsCSV(str(tmp_path))
    trainer(tmp_path, recorder, max_steps=5, logger=logger).fit(module, synthetic_data())
    names = {f"train/{name}" for name in ("loss", "accuracy", "accuracy_instruction_negatives", "truncated_queries")}
    for metrics in recorder.metrics:
        assert names <= set(metrics)
        assert all(0 <= metrics[name] <= 1 for name in names - {"train/loss"})
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert names <= set(header.split(","))
    steps, epochs = zip(*(row.split(",")[:2] for row in rows), strict=True)
    assert steps == ("1", "2", "3", "4", "5")  # optimizer steps done
    assert epochs == ("0.0", "0.0", "0.0", "0.0", "1.0")


def test_share_of_truncated_queries(modernbert: Path, tmp_path: Path) -> None:
    shares = []
    for limit in (4, 64):
        text, recorder = TextSettings(max_query_length=limit, max_passage_length=64), Recorder()
        trainer(tmp_path, recorder, max_steps=1).fit(retriever(modernbert, text=text), synthetic_data())
        shares.append(recorder.metrics[0]["train/truncated_queries"])
    assert shares == [1.0, 0.0]


def test_without_instruction_negatives_their_accuracy_is_nan(modernbert: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    data = synthetic_data(num_rows=40, rows="without_instruction")
    trainer(tmp_path, recorder, max_steps=1).fit(retriever(modernbert), data)
    assert "train/accuracy" in recorder.metrics[0]
    assert math.isnan(recorder.metrics[0]["train/accuracy_instruction_negatives"])


class Watch(Callback):
    """Remembers the type of each loss, and in which mode the layers were at each step."""

    def __init__(self) -> None:
        self.dtypes: list[torch.dtype] = []
        self.modes: list[tuple[str, bool]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.dtypes.append(outputs["loss"].dtype)
        self._look("train", module)

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self._look("validation", module)

    def _look(self, moment: str, module: RetrieverModule) -> None:
        self.modes += [(moment, layer.training) for layer in module.modules()]


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_gives_a_float32_loss_and_float32_weights(modernbert: Path, tmp_path: Path, head: Head) -> None:
    module, watch, recorder = retriever(modernbert, head), Watch(), Recorder()
    trainer(tmp_path, watch, recorder, max_steps=2, precision="bf16-mixed").fit(module, synthetic_data())
    exact = Recorder()
    trainer(tmp_path, exact, max_steps=2).fit(retriever(modernbert, head), synthetic_data())
    assert set(watch.dtypes) == {torch.float32}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    difference = recorder.metrics[0]["train/loss"] - exact.metrics[0]["train/loss"]
    assert 0 < abs(difference) < 0.1  # it did compute in bfloat16, and about the same


@pytest.mark.parametrize("checkpoint", ["modernbert", "bert"])
def test_trained_weights_train_with_their_dropout(
    checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """transformers loads in eval mode, and Lightning trains in the mode that it finds."""
    watch = Watch()
    module = retriever(request.getfixturevalue(checkpoint))
    trainer(tmp_path, watch, max_steps=2, val_check_interval=1).fit(module, synthetic_data())
    assert set(watch.modes) == {("train", True), ("validation", False)}


def test_new_layers_may_learn_at_a_rate_of_their_own(modernbert: Path, tmp_path: Path) -> None:
    optimizer = AdamW(learning_rate=1e-4, new_layers_learning_rate=1e-2)
    module = retriever(modernbert, "weighted", optimizer=optimizer, schedule=Schedule(decay="constant"))
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, synthetic_data())
    rates = {id(p): group["lr"] for group in fit.optimizers[0].param_groups for p in group["params"]}
    assert {rates[id(p)] for p in module.retriever.backbone.parameters()} == {1e-4}
    assert {rates[id(p)] for p in module.retriever.pooling.parameters()} == {1e-2}
    assert len(rates) == len(list(module.parameters()))


def test_dropout_is_seeded_by_seed_rank_epoch_and_batch(modernbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: int = 0, rank: int = 0, epoch: int = 0, batch: int = 0) -> float:
        module = retriever(modernbert, seed=seed)
        monkeypatch.setattr("ifir_lightning.distributed.rank", lambda: rank)
        monkeypatch.setattr(RetrieverModule, "current_epoch", epoch)
        module.on_train_batch_start(None, batch)  # type: ignore[arg-type]
        return torch.rand(()).item()

    places = [drawn(), drawn(seed=1), drawn(rank=1), drawn(epoch=1), drawn(batch=1), drawn(rank=11), drawn(batch=11)]
    assert len(set(places)) == len(places)
    assert drawn(seed=1) == places[1]


def assert_one_line(error: InputError, words: tuple[str, ...]) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("backbone", ["modernbert", "bert"])
@pytest.mark.parametrize("expansion", ["attended", "unattended"])
def test_queries_with_expansion_are_learnt(
    expansion: Any, backbone: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Queries and passages are encoded together, only queries are filled."""
    text = TextSettings(max_query_length=64, max_passage_length=64, query_expansion=expansion)
    module, recorder = retriever(request.getfixturevalue(backbone), "maxsim", text=text), Recorder()
    trainer(tmp_path, recorder, max_steps=12).fit(module, synthetic_data())
    losses = [metrics["train/loss"] for metrics in recorder.metrics]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("is_frozen", [True, False])
def test_how_many_parameters_learn_is_said(
    is_frozen: bool, modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = retriever(modernbert, "weighted")
    module.retriever.backbone.model.embeddings.requires_grad_(not is_frozen)
    with caplog.at_level("INFO", "ifir_lightning.module"):
        trainer(tmp_path, max_steps=1).fit(module, synthetic_data())
    config, said = module.retriever.backbone.model.config, next(m for m in caplog.messages if "parameters: " in m)
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    frozen = (config.vocab_size + 1) * width  # tokens, and their norm
    backbone = frozen + layers * (
        4 * width**2 + 3 * width * inner + 2 * width
    )  # the first layer lacks a norm, the end has it
    assert f"parameters: backbone {backbone:,}, pooling " in said
    (model,) = (message for message in caplog.messages if message.startswith("model: "))
    assert model.startswith("model: TokenProjection(dim=")
    assert ", WeightedMaxSim(reduction=" in model
    assert ", query limit 64, passage limit 64" in model
    assert str(TextFormat(query_marker="[Q] ", passage_skiplist=("a", "b"), max_query_length=9)) == (
        "query limit 9, passage limit 512, query marker '[Q] ', passage skiplist of 2 words"
    )
    pooling = sum(parameter.numel() for parameter in module.retriever.pooling.parameters())
    trained = f"{backbone - frozen + pooling:,}" if is_frozen else "all"
    assert said.endswith(f", pooling {pooling:,}; {trained} trained")
