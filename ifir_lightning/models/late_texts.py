"""How texts are written for late interaction, as PyLate, sentence-transformers 6 and Stanford ColBERT say it.

Every function gives fields of ``TextFormat``; ``name`` is the checkpoint, for messages.
"""

import string
from collections.abc import Collection
from typing import Any

from ifir_lightning.models.files import flag

PUNCTUATION = tuple(string.punctuation)


def pylate_text(said: dict[str, Any], name: str) -> dict[str, Any]:
    """PyLate's settings; what is null or missing has PyLate's default."""
    defaults: dict[str, Any] = {
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 32,
        "document_length": 180,
        "skiplist_words": PUNCTUATION,
    }
    full = defaults | {key: said[key] for key in defaults if said.get(key) is not None}
    prompt = (said.get("prompts") or {}).get(said.get("default_prompt_name") or "", "")
    expansion = "attended" if flag(said, "attend_to_expansion_tokens", False, name) else "unattended"
    return {
        "query_prefix": prompt,
        "passage_prefix": prompt,
        "query_marker": full["query_prefix"],
        "passage_marker": full["document_prefix"],
        "max_query_length": full["query_length"],
        "max_passage_length": full["document_length"],
        "passage_skiplist": _words(full["skiplist_words"]),
        "query_expansion": expansion if flag(said, "do_query_expansion", True, name) else "none",
    }


def multi_vector_text(
    said: dict[str, Any], settings: dict[str, Any], mask: dict[str, Any], added: Collection[str], name: str
) -> dict[str, Any]:
    """sentence-transformers 6: markers are prompts that are one ``added`` token, limits stand with the transformer."""
    prompts = said.get("prompts") or {}
    query, passage = prompts.get("query") or "", prompts.get("document") or ""
    expansion = settings.get("query_expansion") or {}
    attend = flag(expansion, "attend", False, name)
    limits = {
        "max_query_length": expansion.get("length") or settings.get("query_length"),
        "max_passage_length": settings.get("document_length"),
    }
    return {
        "query_marker" if query in added else "query_prefix": query,
        "passage_marker" if passage in added else "passage_prefix": passage,
        "passage_skiplist": _words(mask.get("skiplist_words") or ()),
        "query_expansion": ("attended" if attend else "unattended") if expansion else "none",
    } | {key: value for key, value in limits.items() if value}


def stanford_text(said: dict[str, Any], name: str) -> dict[str, Any]:
    """ColBERTv2's ``artifact.metadata``; what is null or missing has ColBERT's default."""
    return {
        "query_marker": said.get("query_token_id") or "[unused0]",
        "passage_marker": said.get("doc_token_id") or "[unused1]",
        "max_query_length": said.get("query_maxlen") or 32,
        "max_passage_length": said.get("doc_maxlen") or 180,
        "passage_skiplist": PUNCTUATION if flag(said, "mask_punctuation", True, name) else (),
        "query_expansion": "attended" if flag(said, "attend_to_mask_tokens", False, name) else "unattended",
    }


def _words(said: Any) -> Any:
    """A list as ``TextFormat`` has it, which refuses all else."""
    return tuple(said) if isinstance(said, list) else said
