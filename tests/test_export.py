"""Exported folders: whole or not at all, read back exactly, refused where others would compute something else."""

import json
import logging
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ranks import on_ranks
from small import HEADS, Head, make_head, retriever, synthetic_data, trainer, write_task
from transformers import AutoTokenizer

from ifir_lightning import Retriever, load_retriever, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.callbacks.export import ExportBest
from ifir_lightning.callbacks.followir import FollowIRValidation
from ifir_lightning.cli import main
from ifir_lightning.commands import export as command
from ifir_lightning.commands.export import export
from ifir_lightning.errors import InputError
from ifir_lightning.export import caveats, export_format, write_export
from ifir_lightning.models.dense import Dense
from ifir_lightning.models.pooling import CLSPooling, MeanPooling, Pooling, Projected, TokenProjection
from ifir_lightning.models.scoring import Cosine, Dot, MaxSim, Scorer
from ifir_lightning.text_format import TextSettings

ROOT = Path(__file__).parents[1]
TEXTS = (["a quiet hotel", "the garden near the harbour"], ["breakfast and walks", "", "no hotel, no cost!"])


def built(backbone: Path, head: Head, **text: Any) -> Retriever:
    model = load_retriever(str(backbone), *make_head(head), TextSettings(**text))
    if isinstance(model.pooling, TokenProjection) and model.pooling.weight:
        torch.nn.init.normal_(model.pooling.weight.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("head", HEADS)
def test_an_export_is_read_back_exactly(head: Head, modernbert: Path, tmp_path: Path) -> None:
    model = built(modernbert, head, max_query_length=20, max_passage_length=30)
    write_export(model, tmp_path / "out", card="# card")
    read = load_retriever(str(tmp_path / "out"))
    assert read.tokenizer.format == model.tokenizer.format
    assert torch.equal(read.score(*TEXTS), model.score(*TEXTS))
    assert (tmp_path / "out" / "README.md").read_text() == "# card"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_files_of_a_pylate_folder(modernbert: Path, tmp_path: Path) -> None:
    """As PyLate 1.6 writes them, class paths included, with our two files beside."""
    text = {"query_marker": "[Q] ", "passage_marker": "[D] ", "passage_skiplist": (",",), "max_query_length": 48}
    write_export(built(modernbert, "weighted", **text, query_expansion="attended"), tmp_path / "out", card="")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "README.md"),
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("1_Dense/config.json", "1_Dense/model.safetensors", "ifir_lightning.json", "token_weights.safetensors"),
    }
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [(module["path"], module["type"]) for module in modules] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "pylate.models.Dense.Dense"),
    ]
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    expected = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 48,
        "document_length": 512,
        "skiplist_words": [","],
        "do_query_expansion": True,
        "attend_to_expansion_tokens": True,
    }
    assert expected.items() <= settings.items()
    assert json.loads((tmp_path / "out" / "1_Dense" / "config.json").read_text()) == {
        "in_features": 32,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }


@pytest.fixture
def decoder(modernbert: Path, tmp_path: Path) -> Path:
    """With a tokenizer as decoders have: it pads and cuts at the left, or has nothing to pad with."""
    folder = shutil.copytree(modernbert, tmp_path / "decoder")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    more = {"padding_side": "left", "truncation_side": "left", "eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | more))
    return folder


def test_others_pad_and_cut_an_export_as_we_do(decoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = built(decoder, "bi-encoder", max_query_length=5)
    assert f"the tokenizer of {decoder} cuts long texts at the left (truncation_side); here, and" in caplog.text
    write_export(model, tmp_path / "out", card="")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["a quiet hotel near the harbour", ""], padding=True, truncation=True, max_length=5
    )
    ours = model.tokenizer.queries([("a quiet hotel near the harbour", ""), ("", "")]).input_ids_T.tolist()
    assert theirs["attention_mask"] == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert theirs["input_ids"] == [ours[:5], ours[5:] + 3 * ours[-1:]]


def test_a_late_interaction_folder_that_pads_at_the_left_is_said(
    modernbert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PyLate would put the marker between the padding."""
    write_export(built(modernbert, "maxsim"), tmp_path / "out", card="")
    file = tmp_path / "out" / "tokenizer_config.json"
    with caplog.at_level(logging.WARNING):
        load_retriever(str(tmp_path / "out"))
        assert "pads at the left" not in caplog.text
        file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "left"}))
        load_retriever(str(tmp_path / "out"))
    assert f"{tmp_path / 'out'}: its tokenizer pads at the left, where PyLate puts markers" in caplog.text


TOKENS, MEAN = TokenProjection, MeanPooling


class OwnProjection(TokenProjection):
    """Could compute something else."""


REFUSED: dict[str, tuple[Callable[[], tuple[Pooling, Scorer]], TextSettings, str]] = {
    "not normalised": (lambda: (TOKENS(normalize=False), MaxSim()), TextSettings(), "not normalised.*allowed are norm"),
    "prefix for PyLate": (lambda: (TOKENS(), MaxSim()), TextSettings("query: "), "prefixes 'query: ' and ''.*markers"),
    "marker for one vector": (
        lambda: (MEAN(), Cosine()),
        TextSettings(query_marker="[CLS]"),
        "a marker before one vector per text",
    ),
    "a projection of one's own": (lambda: (OwnProjection(), MaxSim()), TextSettings(), "the pooling OwnProjection"),
    "residual": (
        lambda: (Projected(MEAN(), [Dense(32, 8, use_residual=True)]), Cosine()),
        TextSettings(),
        "Dense layer with a residual after pooling",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_others_would_compute_otherwise_is_refused(case: str, modernbert: Path) -> None:
    make, text, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected):
        export_format(load_retriever(str(modernbert), *make(), text))


@pytest.mark.parametrize(
    ("head", "wanted", "allowed"),
    [("maxsim", "sentence-transformers", "pylate"), ("bi-encoder", "pylate", "sentence-transformers")],
)
def test_the_format_of_the_other_kind(head: Head, wanted: Any, allowed: str, modernbert: Path) -> None:
    model = built(modernbert, head)
    assert export_format(model) == export_format(model, allowed) == allowed  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"--format is {wanted}, but the model gives .*; allowed is {allowed}"):
        export_format(model, wanted)


def test_what_is_lost_is_said(modernbert: Path, bert: Path) -> None:
    def lost(head: Head, scorer: Scorer | None = None, **text: Any) -> str:
        model = load_retriever(str(modernbert), make_head(head)[0], scorer or make_head(head)[1], TextSettings(**text))
        return " ".join(caveats(model))

    assert "plain MaxSim" in lost("weighted")
    assert "mean over query tokens" in lost("maxsim")
    assert lost("maxsim", MaxSim("sum")) == ""
    assert "no token" in lost("maxsim", MaxSim("sum"), passage_skiplist=("hotel", "zzz"))
    assert "written as 512 tokens; ifir_lightning cuts queries at 304" in lost("bi-encoder")
    assert lost("bi-encoder", max_query_length=512) == ""
    assert "`encode_query`" in lost("bi-encoder", max_query_length=512, query_prefix="q: ")
    assert "no vector depends on it" in " ".join(caveats(load_retriever(str(bert), TokenProjection(), MaxSim("sum"))))


@pytest.mark.parametrize(("scorer", "name"), [(Cosine(), "cosine"), (Dot(), "dot"), (MaxSim(), "dot")], ids=str)
def test_the_similarity_of_one_vector_per_text(scorer: Scorer, name: str, modernbert: Path, tmp_path: Path) -> None:
    model = load_retriever(str(modernbert), CLSPooling(), scorer)
    write_export(model, tmp_path / "out", card="")
    settings = json.loads((tmp_path / "out" / "config_sentence_transformers.json").read_text())
    assert settings["similarity_fn_name"] == name
    (tmp_path / "out" / "ifir_lightning.json").unlink()
    torch.testing.assert_close(load_retriever(str(tmp_path / "out")).score(*TEXTS), model.score(*TEXTS))


def test_a_folder_that_is_not_empty_needs_overwrite(modernbert: Path, tmp_path: Path) -> None:
    model = built(modernbert, "maxsim")
    (tmp_path / "out").mkdir()
    write_export(model, tmp_path / "out", card="first")
    with pytest.raises(InputError, match=r"--output .*out is not empty; allowed is .*: choose another, or add --over"):
        write_export(model, tmp_path / "out", card="second")
    assert (tmp_path / "out" / "README.md").read_text() == "first"
    (tmp_path / "out" / "old-file").touch()
    write_export(model, tmp_path / "out", card="second", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "second"
    assert not (tmp_path / "out" / "old-file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("runs", "holds more than an exported model, which is never replaced"),
        ("runs/one", "holds more than an exported model"),
        ("model", "holds more than an exported model"),
        ("runs/one/metrics.csv", "is a file"),
        ("here", "is the working directory, or around it"),
        (".", "is the working directory, or around it"),
    ],
)
def test_only_an_exported_model_is_replaced(
    output: str, message: str, modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("runs/one/checkpoints", "model/checkpoints", "here"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("runs/one/metrics.csv", "model/ifir_lightning.json"):
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=message):
        export(str(modernbert), str(tmp_path / output), overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_what_was_there(modernbert: Path, tmp_path: Path) -> None:
    """A limit on the size of files stops the writing of the weights as a full disk does."""
    model = built(modernbert, "maxsim")
    write_export(model, tmp_path / "out", card="first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for name in ("new", "out"):
            with pytest.raises(InputError, match=r"could not be written .*; nothing half-written stays; .*free some"):
                write_export(model, tmp_path / name, card="second", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "README.md").read_text() == "first"
    assert torch.equal(load_retriever(str(tmp_path / "out")).score(*TEXTS), model.score(*TEXTS))


def test_a_rename_that_fails_leaves_what_was_there(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rename = built(modernbert, "maxsim"), Path.rename
    write_export(model, tmp_path / "out", card="first")

    def refuse(path: Path, target: Path) -> Path:
        if "partial" in path.name:
            raise OSError("stale file handle")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="stale file handle"):
        write_export(model, tmp_path / "out", card="second", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_edited_says_what_counts(modernbert: Path, tmp_path: Path) -> None:
    """Not our file beside it."""
    write_export(built(modernbert, "bi-encoder"), tmp_path / "out", card="")
    for file, change in (
        ("sentence_bert_config.json", {"max_seq_length": 33}),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot", "prompts": {"query": "q: "}}),
    ):
        content = json.loads((tmp_path / "out" / file).read_text())
        (tmp_path / "out" / file).write_text(json.dumps(content | change))
    read = load_retriever(str(tmp_path / "out"))
    text = read.tokenizer.format
    assert (text.max_query_length, text.max_passage_length, text.query_prefix) == (33, 33, "q: ")
    assert isinstance(read.scorer, Dot)


@pytest.fixture(scope="module")
def run(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two validations, whose best was exported at the end."""
    folder = tmp_path_factory.mktemp("run")
    task = write_task(folder.with_name("task-of-the-run"), num_queries=2, num_candidates=30)
    fit = trainer(
        folder,
        FollowIRValidation([task]),
        Checkpoints(monitor="followir/score_b"),
        ExportBest("mit"),
        max_steps=2,
        val_check_interval=1,
        enable_checkpointing=True,
        plugins=[ManifestIO()],
    )
    fit.fit(retriever(modernbert, "weighted"), synthetic_data())
    config = {"seed_everything": 0, "model": {"checkpoint": str(modernbert)}, "data": {"path": "owner/table"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_the_best_checkpoint_is_exported_at_the_end_of_fit(run: Path) -> None:
    exported, best = load_retriever(str(run / "export")), load_retriever(str(run))
    assert torch.equal(exported.score(*TEXTS), best.score(*TEXTS))
    assert "license: mit" in (run / "export" / "README.md").read_text()


def test_the_card_of_a_run(run: Path, tmp_path: Path) -> None:
    export(str(run), str(tmp_path / "model"), license="apache-2.0")
    card = (tmp_path / "model" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "apache-2.0"
    assert header["datasets"] == ["owner/table"]
    step = load_steps(run)
    metrics = json.loads((run / "followir" / f"step-{step:08d}" / "metrics.json").read_text())
    (task,) = metrics["tasks"]
    row = f"| {task['task']} | {task['p_mrr']:+.2f} | {task['score_a']:.2f} | {task['score_b']:.2f} |"
    assert row in card
    for part in (
        f"on `owner/table`, {step} optimizer steps",
        "models.ColBERT(",
        "MultiVectorEncoder(",
        "load_retriever(",
    ):
        assert part in card
    assert "the token weights of weighted MaxSim" in card
    assert "seed_everything: 0" in card


def load_steps(run: Path) -> int:
    best = manifests.best(run / "checkpoints")
    assert best is not None
    return torch.load(best, weights_only=True)["global_step"]


@pytest.mark.parametrize("head", HEADS)
def test_the_code_of_a_card_for_this_library_runs(head: Head, modernbert: Path, tmp_path: Path) -> None:
    write_export(built(modernbert, head), tmp_path / "first", card="")
    export(str(tmp_path / "first"), str(tmp_path / "second"))
    card = (tmp_path / "second" / "README.md").read_text()
    assert "Converted from" in card
    assert "Not evaluated" in card
    code = card.split("```python")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["scores"].shape == (1, 1)


def trained_on(folder: Path, backbone: Path) -> None:
    fit = trainer(folder, max_steps=1)
    fit.fit(retriever(backbone, "maxsim"), synthetic_data())
    fit.save_checkpoint(folder / "two.ckpt")


def test_a_checkpoint_of_two_ranks_is_exported(modernbert: Path, tmp_path: Path) -> None:
    on_ranks(2, trained_on, tmp_path / "two", modernbert)
    trained_on(tmp_path / "one", modernbert)
    export(str(tmp_path / "two" / "two.ckpt"), str(tmp_path / "export"))
    one, two = load_retriever(str(tmp_path / "one" / "two.ckpt")), load_retriever(str(tmp_path / "export"))
    torch.testing.assert_close(one.score(*TEXTS), two.score(*TEXTS), atol=1e-5, rtol=0)


class Hub:
    """Remembers what is uploaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.calls: list[Any] = []
        self.refuses = refuses
        monkeypatch.setattr(command, "HfApi", lambda: self)

    def create_repo(self, name: str, exist_ok: bool) -> None:
        if self.refuses:
            raise OSError("401 unauthorized\nlong explanation")
        self.calls.append(name)

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return "https://hub/owner/name"


def test_push_to_hub(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_export(built(modernbert, "maxsim"), tmp_path / "first", card="")
    hub = Hub(monkeypatch)
    arguments = ["export", f"--checkpoint={tmp_path}/first", f"--output={tmp_path}/out", "--push-to-hub=owner/name"]
    monkeypatch.setattr(sys, "argv", ["ifir_lightning", *arguments])
    main()
    assert hub.calls[0] == "owner/name"
    assert hub.calls[1][0] == "owner/name"
    assert {"README.md", "model.safetensors", "modules.json"} <= set(hub.calls[1][1])
    assert 'models.ColBERT("owner/name")' in (tmp_path / "out" / "README.md").read_text()
    Hub(monkeypatch, refuses=True)
    with pytest.raises(InputError, match=r"--push-to-hub a/b: the hub refused \(401 unauthorized\); the folder .* is"):
        export(f"{tmp_path}/first", f"{tmp_path}/out", overwrite=True, push_to_hub="a/b")


def test_the_command_refuses_in_one_line(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the checkpoint is read."""
    (tmp_path / "file").touch()
    for arguments, expected in (
        (["--checkpoint=x/y/z", f"--output={tmp_path}"], "is not empty"),
        (["--checkpoint=x/y/z", f"--output={tmp_path}/new"], "'x/y/z' does not exist"),
        ([f"--checkpoint={modernbert}", f"--output={tmp_path}/new"], "gives no model.pooling"),
    ):
        monkeypatch.setattr(sys, "argv", ["ifir_lightning", "export", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert expected in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_export_best_without_a_checkpoint_says_so(modernbert: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no checkpoint was written, nothing is exported"):
        trainer(tmp_path, ExportBest(), max_steps=1).fit(retriever(modernbert), synthetic_data())
    assert not (tmp_path / "export").exists()


def test_export_best_says_before_training_that_it_cannot(modernbert: Path, tmp_path: Path) -> None:
    module = retriever(modernbert, pooling=TokenProjection(normalize=False), scorer=MaxSim())
    with pytest.warns(UserWarning, match=r"ExportBest: nothing will be exported: .* not normalised"):
        trainer(tmp_path, ExportBest(), max_steps=1, enable_checkpointing=True).fit(module, synthetic_data())
    assert not (tmp_path / "export").exists()


def test_the_end_of_fit_replaces_no_folder_but_an_export(modernbert: Path, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "notes.md").touch()
    with pytest.warns(UserWarning, match="ExportBest: nothing will be exported: .* more than an exported model"):
        trainer(tmp_path, ExportBest(), max_steps=1, enable_checkpointing=True).fit(
            retriever(modernbert), synthetic_data()
        )
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["notes.md"]
