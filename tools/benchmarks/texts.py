"""Texts with the lengths of the Promptriever data, of random words: one word, one token."""

import json
import math
import random
from pathlib import Path

VOCABULARY = 8192
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def lognormal(draw: random.Random, median: float, sigma: float, longest: int) -> int:
    return max(3, min(longest, round(median * math.exp(sigma * draw.gauss(0, 1)))))


def words(draw: random.Random, num_tokens: int) -> str:
    """A text of so many tokens, the two around it counted."""
    return " ".join(f"w{draw.randrange(len(SPECIAL), VOCABULARY)}" for _ in range(num_tokens - 2))


def make_texts(num_queries: int, group_size: int, seed: int = 0) -> dict[str, list]:
    """Queries: 35% of about 12 tokens, else with an instruction (median 97, at most 304); passages: median 102.

    A spread (sigma) of 0.45 gives the means of the Promptriever mix: about 74 tokens a query, 112 a passage.
    """
    draw = random.Random(seed)
    queries = [
        words(draw, lognormal(draw, 12, 0.4, 40) if draw.random() < 0.35 else lognormal(draw, 97, 0.45, 304))
        for _ in range(num_queries)
    ]
    passages = [[words(draw, lognormal(draw, 102, 0.45, 600)) for _ in range(group_size)] for _ in range(num_queries)]
    return {"queries": queries, "passages": passages}


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(SPECIAL)}
    vocabulary |= {f"w{number}": number for number in range(len(SPECIAL), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_texts(file: Path, texts: dict[str, list]) -> None:
    file.write_text(json.dumps(texts), encoding="utf-8")
