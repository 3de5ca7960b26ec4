"""Tiny random checkpoints, built and written by the peers themselves (PyLate 1.6, sentence-transformers 5.3)."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pylate import models as pylate
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from texts import CORPUS
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from torch import nn
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedTokenizerFast

WIDTH = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
SMALL = {"hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2, "max_position_embeddings": 160}


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, [UNK] for what the vocabulary lacks."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    seen = [text for text in CORPUS if "☃" not in text]
    tokenizer.train_from_iterator(seen, WordPieceTrainer(vocab_size=200, special_tokens=[*SPECIAL, *PUNCTUATION]))
    return _wrapped(tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    """ModernBERT's: bytes, so that nothing is unknown."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet))
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=160, **names)


def bert() -> tuple[nn.Module, PreTrainedTokenizerFast]:
    tokenizer = wordpiece()
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.3, **SMALL)
    return BertModel(config, add_pooling_layer=False), tokenizer


def modernbert() -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """Windows of 8 tokens to each side, so that texts reach beyond them."""
    tokenizer = byte_level()
    ids = {"pad": tokenizer.pad_token_id, "cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id}
    special = {f"{name}_token_id": number for name, number in ids.items()} | {
        "bos_token_id": None,
        "eos_token_id": None,
    }
    window = {"local_attention": 16, "global_attn_every_n_layers": 2}
    config = ModernBertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.3, **window, **special, **SMALL
    )
    return ModernBertModel(config), tokenizer


def plain(folder: Path, family: Callable[[], tuple[nn.Module, PreTrainedTokenizerFast]]) -> Path:
    """A transformers folder."""
    model, tokenizer = family()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def colbert(folder: Path, family: Any, layers: list[pylate.Dense] | None = None, **settings: Any) -> None:
    """A PyLate folder."""
    base = plain(folder.with_name("base"), family)
    layers = layers or [pylate.Dense(WIDTH, 8, bias=False)]
    options = {"query_length": 16, "document_length": 40} | settings
    pylate.ColBERT(modules=[Transformer(str(base)), *layers], device="cpu", **options).save(str(folder))
    shutil.rmtree(base)


def stanford(folder: Path, pickled: bool = False, **settings: Any) -> None:
    """ColBERTv2's layout: one file with the encoder under ``bert.`` and ``linear.weight``."""
    plain(folder, bert)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    weights = {f"bert.{name}": value for name, value in model.state_dict().items()}
    weights["linear.weight"] = torch.randn(8, WIDTH) / 4
    (folder / "model.safetensors").unlink()
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 16, "doc_maxlen": 40}
    (folder / "artifact.metadata").write_text(json.dumps(metadata | {"similarity": "cosine"} | settings))


def dense(folder: Path, family: Any, mode: str, *modules: nn.Module, limit: int = 40, **settings: Any) -> None:
    """A sentence-transformers folder."""
    base = plain(folder.with_name("base"), family)
    first = [Transformer(str(base), max_seq_length=limit), Pooling(WIDTH, pooling_mode=mode)]
    SentenceTransformer(modules=[*first, *modules], device="cpu", **settings).save(str(folder))
    shutil.rmtree(base)


def _two() -> list[pylate.Dense]:
    return [pylate.Dense(WIDTH, 12, activation_function=nn.Tanh()), pylate.Dense(12, 8, bias=False)]


PROMPTS = {"query": "question: ", "document": "text: "}
CASES: dict[str, Callable[[Path], None]] = {
    "pylate-default": lambda folder: colbert(folder, bert),
    "pylate-attended": lambda folder: colbert(folder, bert, attend_to_expansion_tokens=True),
    "pylate-no-expansion": lambda folder: colbert(folder, bert, do_query_expansion=False),
    "pylate-no-marker": lambda folder: colbert(folder, bert, query_prefix="", document_prefix=""),
    "pylate-own-marker": lambda folder: colbert(folder, bert, query_prefix="<query>", document_prefix="<text>"),
    "pylate-no-skiplist": lambda folder: colbert(folder, bert, skiplist_words=[], do_query_expansion=False),
    "pylate-unknown-skipped": lambda folder: colbert(folder, bert, skiplist_words=["zebra", "."]),
    "pylate-bias": lambda folder: colbert(folder, bert, [pylate.Dense(WIDTH, 8, bias=True)]),
    "pylate-two-layers": lambda folder: colbert(folder, bert, _two(), do_query_expansion=False),
    "pylate-residual": lambda folder: colbert(folder, bert, [pylate.Dense(WIDTH, 8, use_residual=True)]),
    "pylate-residual-square": lambda folder: colbert(folder, bert, [pylate.Dense(WIDTH, WIDTH, use_residual=True)]),
    "pylate-long": lambda folder: colbert(
        folder, bert, query_length=150, document_length=160, do_query_expansion=False
    ),
    "pylate-modernbert": lambda folder: colbert(folder, modernbert),
    "pylate-modernbert-attended": lambda folder: colbert(folder, modernbert, attend_to_expansion_tokens=True),
    "pylate-modernbert-gte": lambda folder: colbert(folder, modernbert, do_query_expansion=False, query_length=48),
    "pylate-modernbert-beyond-window": lambda folder: colbert(folder, modernbert, query_length=64, document_length=100),
    "pylate-modernbert-no-marker": lambda folder: colbert(
        folder, modernbert, query_prefix="", document_prefix="", skiplist_words=[]
    ),
    "stanford": lambda folder: stanford(folder),
    "stanford-attended": lambda folder: stanford(folder, attend_to_mask_tokens=True),
    "stanford-pickle": lambda folder: stanford(folder, pickled=True),
    "dense-mean": lambda folder: dense(folder, bert, "mean"),
    "dense-cls": lambda folder: dense(folder, bert, "cls"),
    "dense-lasttoken": lambda folder: dense(folder, bert, "lasttoken"),
    "dense-normalize": lambda folder: dense(folder, bert, "mean", Normalize(), similarity_fn_name="dot"),
    "dense-dot": lambda folder: dense(folder, bert, "cls", similarity_fn_name="dot"),
    "dense-tanh": lambda folder: dense(folder, bert, "mean", Dense(WIDTH, 8)),
    "dense-two-layers": lambda folder: dense(
        folder, bert, "cls", Dense(WIDTH, 12), Dense(12, 8, bias=False, activation_function=nn.Identity()), Normalize()
    ),
    "dense-prompts": lambda folder: dense(folder, bert, "mean", prompts=PROMPTS),
    "dense-other-prompts": lambda folder: dense(
        folder, bert, "mean", prompts={"all": "any: ", "passage": "text: "}, default_prompt_name="all"
    ),
    "dense-short": lambda folder: dense(folder, bert, "mean", limit=8),
    "dense-modernbert-cls": lambda folder: dense(folder, modernbert, "cls", limit=160),
    "dense-modernbert-mean": lambda folder: dense(folder, modernbert, "mean", prompts=PROMPTS),
}


def build(output: Path) -> None:
    """Write every case into a folder of its name; its weights are those of its number."""
    for number, (name, write) in enumerate(CASES.items()):
        torch.manual_seed(number)
        write(output / name)
        (output / name / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
