"""The cache of a teacher's scores equals scores computed directly, is continued bit for bit, and refuses the rest."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from small import Recorder, retriever, trainer
from test_teacher_scores import rows_of, write
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from ifir_lightning import durable
from ifir_lightning.callbacks.teacher import TeacherFigures
from ifir_lightning.commands.mine import mine
from ifir_lightning.commands.teach import teach
from ifir_lightning.data import teacher_cache
from ifir_lightning.data.datamodule import PromptrieverData
from ifir_lightning.data.formats import open_table
from ifir_lightning.data.sampling import GroupSampler
from ifir_lightning.data.synthetic import build_tokenizer, training_rows
from ifir_lightning.data.teacher_cache import TeacherCache, fingerprint
from ifir_lightning.distillation import KLDivergence, MarginMSE
from ifir_lightning.errors import InputError
from ifir_lightning.export import write_export
from ifir_lightning.losses import InfoNCE, Loss
from ifir_lightning.mining import Choice
from ifir_lightning.models.pairs import PairSettings, cut
from ifir_lightning.models.pooling import MeanPooling, TokenProjection
from ifir_lightning.models.scoring import Cosine, MaxSim
from ifir_lightning.module import RetrieverModule
from ifir_lightning.records import row_passages
from ifir_lightning.retriever import load_retriever
from ifir_lightning.teachers import load_teacher, weights_digest
from ifir_lightning.text import joined
from ifir_lightning.text_format import TextSettings

NUM_ROWS = 12
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPT = "no {query} and {passage} the"
CAUSAL = PairSettings(prompt=PROMPT, true_token="a", false_token="the")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "ROWS_PER_PART", 5)


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write(tmp_path, list(training_rows(NUM_ROWS)))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, modernbert: Path) -> dict[str, str]:
    """A bi-encoder and a late-interaction retriever as folders."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, pooling, scorer in (("bi", MeanPooling(), Cosine()), ("late", TokenProjection(dim=16), MaxSim())):
        write_export(load_retriever(str(modernbert), pooling, scorer), folder / name, card="")
    return {name: str(folder / name) for name in ("bi", "late")}


@pytest.fixture(scope="module")
def pair_tokenizer() -> PreTrainedTokenizerBase:
    """The quickstart's tokenizer, which also knows how BERT lays out a pair."""
    tokenizer = build_tokenizer()
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = [
        "input_ids",
        "token_type_ids",
        "attention_mask",
    ]
    return tokenizer


def cross_encoder(folder: Path, tokenizer: PreTrainedTokenizerBase, num_labels: int, seed: int = 0) -> str:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        **SHAPE,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    return saved(BertForSequenceClassification(config), tokenizer, folder / f"cross-{num_labels}-{seed}")


def causal(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    torch.manual_seed(0)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    config = LlamaConfig(vocab_size=len(tokenizer), **SHAPE, **ids, initializer_range=0.3, max_position_embeddings=512)
    return saved(LlamaForCausalLM(config), tokenizer, folder / "causal")


def saved(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def cached(output: Path | str, path: str) -> list[list[float]]:
    """The scores as training reads them."""
    return TeacherCache(str(output), open_table(path), path).read()["teacher_scores"][:]


def pairs_of(path: str) -> list[list[tuple[str, str]]]:
    return [
        [(joined("", row.query, row.instruction), joined("", p.title, p.text)) for p in row_passages(row)]
        for row in rows_of(path)
    ]


def assert_close(found: list[list[float]], expected: list[list[float]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in expected]
    spread = {round(score, 3) for row in expected for score in row}
    assert len(spread) > 10  # scores that are all alike would prove nothing
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("name", ["bi", "late"])
def test_a_retrievers_scores(name: str, head: dict[str, str], table: str, tmp_path: Path) -> None:
    teach(head[name], table, str(tmp_path / "cache"))
    model = load_retriever(head[name])
    expected = []
    for row in rows_of(table):
        queries = model.encode_queries([row.query], [row.instruction])
        expected.append(model.score(queries, model.encode_passages(row_passages(row)))[0].tolist())
    assert_close(cached(tmp_path / "cache", table), expected)


@pytest.mark.parametrize(("num_labels", "label"), [(1, None), (1, 0), (3, 2), (2, 0)])
def test_a_cross_encoders_scores(
    num_labels: int, label: int | None, table: str, tmp_path: Path, pair_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Pair by pair, without padding: the logit, or the log-odds p / (1 - p) of the label."""
    teacher = cross_encoder(tmp_path, pair_tokenizer, num_labels)
    teach(teacher, table, str(tmp_path / "cache"), "cross-encoder", PairSettings(label=label), max_tokens=600)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    expected = []
    for row in pairs_of(table):
        logits = [model(**pair_tokenizer(*pair, return_tensors="pt")).logits[0].double() for pair in row]
        odds = [each[0] if num_labels == 1 else each.softmax(0)[label].logit() for each in logits]
        expected.append([each.item() for each in odds])
    assert_close(cached(tmp_path / "cache", table), expected)


def test_a_true_false_models_scores(table: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prompt by prompt, without padding and without the token that would end it."""
    teach(causal(tmp_path, tokenizer), table, str(tmp_path / "cache"), "causal", CAUSAL, max_tokens=600)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "causal")
    yes, no = tokenizer.convert_tokens_to_ids(["a", "the"])
    expected = []
    for row in pairs_of(table):
        prompts = [PROMPT.format(query=query, passage=passage) for query, passage in row]
        ids = [tokenizer(prompt, return_tensors="pt")["input_ids"][:, :-1] for prompt in prompts]
        logits = [model(each).logits[0, -1] for each in ids]
        expected.append([(each[yes] - each[no]).item() for each in logits])
    assert_close(cached(tmp_path / "cache", table), expected)


def test_texts_are_cut_to_their_limits(table: str, tmp_path: Path, pair_tokenizer: PreTrainedTokenizerBase) -> None:
    teacher = cross_encoder(tmp_path, pair_tokenizer, 1)
    limits = PairSettings(max_query_length=4, max_passage_length=6)
    teach(teacher, table, str(tmp_path / "cache"), "cross-encoder", limits)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)

    def first(text: str, number: int) -> list[int]:
        return pair_tokenizer(text, add_special_tokens=False)["input_ids"][:number]

    expected = []
    for row in pairs_of(table):
        ids = [
            [
                pair_tokenizer.cls_token_id,
                *first(q, 4),
                pair_tokenizer.sep_token_id,
                *first(p, 6),
                pair_tokenizer.sep_token_id,
            ]
            for q, p in row
        ]
        kinds = [[0] * (2 + len(first(q, 4))) + [1] * (1 + len(first(p, 6))) for q, p in row]
        expected.append(
            [
                model(input_ids=torch.tensor([each]), token_type_ids=torch.tensor([kind])).logits.item()
                for each, kind in zip(ids, kinds, strict=True)
            ]
        )
    assert_close(cached(tmp_path / "cache", table), expected)


def test_cut_keeps_whole_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert cut(tokenizer, ["stay near the sauna all year", "near it"], 3) == ["stay near the", "near it"]


def test_interrupted_and_continued_gives_the_same_bytes(
    head: dict[str, str], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(head["late"], table, str(tmp_path / "whole"))
    asked: list[int] = []
    write_part = TeacherCache.write

    def stop(cache: TeacherCache, numbers: range, *rest: Any) -> None:
        asked.append(numbers.start)
        if len(asked) == 2:
            (cache.folder / "part-00001.parquet.partial").write_bytes(b"half a part")
            durable.partial_of(cache.folder / "part-00001.parquet").write_bytes(b"half a part")
            raise KeyboardInterrupt
        write_part(cache, numbers, *rest)

    monkeypatch.setattr(TeacherCache, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        teach(head["late"], table, str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"lacks 2 of 3 parts, first part-00001.parquet; .* run teach again"):
        cached(tmp_path / "cache", table)
    teach(head["late"], table, str(tmp_path / "cache"))
    assert asked == [0, 5, 5, 10]  # nothing that was written is computed again
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["bi", "late"])
@pytest.mark.parametrize("loss", [KLDivergence(0.1, 0.1), MarginMSE(0.5, 0.5)])
def test_a_student_trains_on_the_cache(name: str, loss: Loss, head: dict[str, str], table: str, tmp_path: Path) -> None:
    """Taught by its own start at its own temperature, it has nothing to learn."""
    teach(head[name], table, str(tmp_path / "cache"))
    data = PromptrieverData(table, 4, GroupSampler(group_size=4), teacher_scores=str(tmp_path / "cache"))
    recorder, student = Recorder(), RetrieverModule(loss, head[name])
    trainer(tmp_path, TeacherFigures(), recorder, max_steps=2).fit(student, data)
    assert recorder.metrics[0]["train/loss"] == pytest.approx(0.0, abs=1e-6)
    assert recorder.metrics[0]["train/teacher/agreement"] == 1.0


def test_the_cache_takes_the_place_of_the_column(head: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path)
    teach(head["bi"], path, str(tmp_path / "cache"))
    assert all(-1 <= score <= 1 for row in cached(tmp_path / "cache", path) for score in row)
    assert not all(-1 <= score <= 1 for row in open_table(path)["teacher_scores"] for score in row)


def test_what_comes_next_can_be_copied(
    head: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(head["bi"], "synthetic:8", str(tmp_path / "its scores"))
    assert f"{tmp_path}/its scores" in shlex.split(capsys.readouterr().out.splitlines()[-1])


def test_a_cache_that_no_loss_wants_is_a_warning(
    head: dict[str, str], modernbert: Path, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teach(head["bi"], table, str(tmp_path / "cache"))
    data = PromptrieverData(table, 4, GroupSampler(group_size=4), teacher_scores=str(tmp_path / "cache"))
    trainer(tmp_path, max_steps=1).fit(retriever(modernbert, loss=InfoNCE()), data)
    assert "its teacher_scores are not used: model.loss does not distil" in caplog.text


def test_another_teacher_or_other_data_are_refused(
    head: dict[str, str], table: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    output = str(tmp_path / "cache")
    teach(head["bi"], table, output)
    with pytest.raises(InputError, match=r"scores of a teacher whose name is .* name another --output"):
        teach(head["late"], table, output)
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", list(training_rows(NUM_ROWS + 1)))
    with pytest.raises(InputError, match=r"scores of data whose table is .* name another --output"):
        teach(head["bi"], other, output)
    with pytest.raises(InputError, match=r"scores of other data than .* write one with the command teach"):
        cached(output, other)


def test_other_settings_and_other_weights_are_another_teacher(
    table: str, tmp_path: Path, pair_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder, output = Path(cross_encoder(tmp_path, pair_tokenizer, 2)), str(tmp_path / "cache")
    teach(str(folder), table, output, "cross-encoder", PairSettings(label=1))
    with pytest.raises(InputError, match="a teacher whose label is 1, now it is 0"):
        teach(str(folder), table, output, "cross-encoder", PairSettings(label=0))
    Path(cross_encoder(tmp_path, pair_tokenizer, 2, seed=1)).rename(tmp_path / "moved")
    for file in (tmp_path / "moved").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="a teacher whose weights is"):
        teach(str(folder), table, output, "cross-encoder", PairSettings(label=1))


SETTINGS_OF_PARTS = [
    ("1_Pooling/config.json", {"pooling_mode": "cls"}, "pooling"),
    ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}, "scorer"),
]


@pytest.mark.parametrize(("file", "changes", "part"), SETTINGS_OF_PARTS)
def test_the_same_weights_with_other_parts_are_another_retriever(
    file: str, changes: dict, part: str, modernbert: Path, table: str, tmp_path: Path
) -> None:
    folder = tmp_path / "bi"
    write_export(load_retriever(str(modernbert), MeanPooling(), Cosine()), folder, card="")
    teach(str(folder), table, str(tmp_path / "cache"))
    mine(str(folder), table, str(tmp_path / "mined"), choice=Choice(2, 12))
    settings = {key: value for key, value in json.loads((folder / file).read_text()).items() if "_mode" not in key}
    (folder / file).write_text(json.dumps(settings | changes))
    with pytest.raises(InputError, match=f"a teacher whose {part} is '(Mean|Cos)[^']*', now it is '(CLS|Dot)"):
        teach(str(folder), table, str(tmp_path / "cache"))
    with pytest.raises(InputError, match=f"was mined with {part} '(Mean|Cos)[^']*', now it is '(CLS|Dot)"):
        mine(str(folder), table, str(tmp_path / "mined"), choice=Choice(2, 12))


@pytest.mark.parametrize("change", ["text", "title", "docid", "instruction", "has_instruction", "order"])
def test_a_changed_table_has_another_fingerprint(change: str, tmp_path: Path) -> None:
    records = list(training_rows(NUM_ROWS))
    before = fingerprint(open_table(write(tmp_path, records)))
    assert fingerprint(open_table(write(tmp_path, records)).select(range(NUM_ROWS)).flatten_indices()) == before
    if change == "order":
        records.reverse()
    elif change == "instruction":
        records[3]["only_instruction"] += "!"
    elif change == "has_instruction":
        records[3]["has_instruction"] = not records[3]["has_instruction"]
    else:
        records[3]["negative_passages"][2][change] += "!"
    assert fingerprint(open_table(write(tmp_path, records))) != before


@pytest.mark.parametrize(
    ("num_labels", "label", "message"),
    [
        (3, None, r"has 3 labels .* pairs.label is None; .* 0 to 2"),
        (3, 3, r"pairs.label is 3; .* 0 to 2"),
        (1, 1, r"has 1 labels .* pairs.label is 1; .* 0 to 0, or none"),
    ],
)
def test_a_teacher_with_the_wrong_number_of_labels(
    num_labels: int, label: int | None, message: str, tmp_path: Path, pair_tokenizer: PreTrainedTokenizerBase
) -> None:
    teacher = cross_encoder(tmp_path, pair_tokenizer, num_labels)
    with pytest.raises(InputError, match=message):
        load_teacher(teacher, "cross-encoder", PairSettings(label=label))


def test_teachers_that_are_none(bert: Path, table: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match=r"lacks 2 weights of a cross-encoder model, e.g. classifier.bias"):
        load_teacher(str(bert), "cross-encoder")
    with pytest.raises(InputError, match=r"'no/such' cannot be read"):
        load_teacher("no/such", "causal")
    with pytest.raises(InputError, match=r"kind 'guess' is unknown; allowed are retriever, cross-encoder, causal"):
        load_teacher(str(bert), "guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"true_token 'harbours?x' is not one token"):
        load_teacher(causal(tmp_path, tokenizer), "causal", PairSettings(true_token="harbourx"))
    with pytest.raises(InputError, match=r"has \{passage\} 0 times; allowed is once"):
        PairSettings(prompt="only {query}")
    with pytest.raises(InputError, match=r"of the 512 positions of teacher .* are free; allowed are limits"):
        load_teacher(cross_encoder(tmp_path, tokenizer, 1), "cross-encoder", PairSettings(max_query_length=600))
    for none in (PairSettings(max_query_length=0), PairSettings(max_passage_length=0)):
        with pytest.raises(InputError, match=r"are (0 and None|None and 0), but .* allowed are limits from 1 whose"):
            load_teacher(cross_encoder(tmp_path, tokenizer, 1), "cross-encoder", none)


def test_a_folder_that_is_no_cache(head: dict[str, str], table: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for use in (lambda: teach(head["bi"], table, str(tmp_path / "notes")), lambda: cached(tmp_path / "notes", table)):
        with pytest.raises(InputError, match="is no cache of teacher scores"):
            use()
    with pytest.raises(InputError, match="is no cache of teacher scores"):
        cached(tmp_path / "nothing", table)


def test_a_cache_in_any_folder_and_with_damaged_parts(head: dict[str, str], table: str, tmp_path: Path) -> None:
    folder = tmp_path / "te[1]*"
    teach(head["bi"], table, str(folder))
    assert len(cached(folder, table)) == NUM_ROWS
    whole = (folder / "part-00001.parquet").read_bytes()
    (folder / "part-00001.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a part cannot be read .* remove those that are damaged and run teach again"):
        cached(folder, table)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="is no cache of teacher scores"):
        cached(folder, table)


def test_scores_that_are_no_numbers_are_not_written(head: dict[str, str], table: str, tmp_path: Path) -> None:
    """Of a model whose weights are numbers, but too large to compute with."""
    model = load_retriever(head["bi"])
    for parameter in model.parameters():
        parameter.data.mul_(1e36)
    write_export(model, tmp_path / "broken", card="")
    with pytest.raises(InputError, match=r"a score of query '.*' is nan; allowed are finite scores"):
        teach(str(tmp_path / "broken"), table, str(tmp_path / "cache"))
    assert set(files(tmp_path / "cache")) == {"manifest.json"}


@pytest.mark.parametrize("kind", ["retriever", "cross-encoder"])
def test_texts_that_limits_cut_are_counted(
    kind: Any,
    head: dict[str, str],
    table: str,
    tmp_path: Path,
    pair_tokenizer: PreTrainedTokenizerBase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In each part; a passage that stands in several rows of a part counts once for a retriever."""
    caplog.set_level("INFO")
    limits, special = (5, 9), 2  # [CLS] and [SEP] count in a retriever's limits
    if kind == "retriever":
        text = TextSettings(max_query_length=limits[0] + special, max_passage_length=limits[1] + special)
        teach(head["bi"], table, str(tmp_path / "cache"), text=text)
    else:
        pairs = PairSettings(max_query_length=limits[0], max_passage_length=limits[1])
        teach(cross_encoder(tmp_path, pair_tokenizer, 1), table, str(tmp_path / "cache"), kind, pairs)
    lengths = [[[len(pair_tokenizer.tokenize(text)) for text in pair] for pair in row] for row in pairs_of(table)]
    queries = sum(row[0][0] > limits[0] for row in lengths)
    passages = 0
    for start in range(0, NUM_ROWS, 5):
        part = [pair for row in pairs_of(table)[start : start + 5] for pair in row]
        texts = [passage for _, passage in part]
        texts = list(set(texts)) if kind == "retriever" else texts
        passages += sum(len(pair_tokenizer.tokenize(text)) > limits[1] for text in texts)
    assert queries > 0
    assert passages > 0
    assert f"12 of 12 rows; limits have cut {queries} queries and {passages} passages" in caplog.text


def test_places_and_devices_that_are_none(head: dict[str, str], table: str, tmp_path: Path) -> None:
    """Before a teacher is loaded."""
    (tmp_path / "file").write_text("")
    for output in ("file", "file/below"):
        with pytest.raises(InputError, match=r"--output .*file.* is no folder to write in"):
            teach("no/such", table, str(tmp_path / output))
    with pytest.raises(InputError, match=r"--device nonsense: torch cannot compute there"):
        teach("no/such", table, str(tmp_path / "cache"), device="nonsense")


def test_settings_of_other_teachers_are_a_warning(
    head: dict[str, str], tmp_path: Path, pair_tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    limits = TextSettings(max_query_length=20)
    load_teacher(head["bi"], text=limits)
    assert "ignores" not in caplog.text
    load_teacher(head["bi"], pairs=PairSettings(label=1))
    assert "pairs: a teacher of kind retriever ignores these settings" in caplog.text
    load_teacher(cross_encoder(tmp_path, pair_tokenizer, 1), "cross-encoder", text=limits)
    assert "text: a teacher of kind cross-encoder ignores these settings" in caplog.text


def test_other_rows_under_a_manifest_are_refused(head: dict[str, str], table: str, tmp_path: Path) -> None:
    """A part of another cache, laid into this one."""
    (tmp_path / "other").mkdir()
    shifted = write(tmp_path / "other", list(training_rows(NUM_ROWS + 5))[5:])
    for name, path in (("cache", table), ("others", shifted)):
        teach(head["bi"], path, str(tmp_path / name))
    (tmp_path / "cache" / "part-00000.parquet").write_bytes((tmp_path / "others" / "part-00000.parquet").read_bytes())
    with pytest.raises(InputError, match="holds other queries than its manifest says"):
        cached(tmp_path / "cache", table)


def test_the_digest_of_weights_looks_at_every_one() -> None:
    layer = torch.nn.Linear(3, 2)
    before = weights_digest(layer)
    assert weights_digest(layer) == before
    with torch.no_grad():
        layer.bias[1] += 1e-3
    assert weights_digest(layer) != before


def test_the_manifest_says_whose_scores_they_are(head: dict[str, str], table: str, tmp_path: Path) -> None:
    teach(head["bi"], table, str(tmp_path / "cache"))
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert (manifest["num_rows"], manifest["rows_per_part"]) == (NUM_ROWS, 5)
    assert manifest["teacher"]["name"] == head["bi"]
