"""The README.md of an exported model: where it comes from, how it was trained, what it scores, how to load it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ifir_lightning.export import caveats, export_format
from ifir_lightning.models.checkpoints import find_ckpt, is_hub_id, is_run
from ifir_lightning.models.pooling import TokenProjection
from ifir_lightning.models.snapshot import read_history
from ifir_lightning.retriever import Retriever

_LOADING = {
    "pylate": """```python
from pylate import models  # PyLate 1.6
model = models.ColBERT("{name}")
embeddings = model.encode(["a query and its instruction"], is_query=True)
```

```python
from sentence_transformers import MultiVectorEncoder  # sentence-transformers 6
model = MultiVectorEncoder("{name}")
embeddings = model.encode_query(["a query and its instruction"])
```
""",
    "sentence-transformers": """```python
from sentence_transformers import SentenceTransformer  # 5 or 6
model = SentenceTransformer("{name}")
embeddings = model.encode_query(["a query and its instruction"])
```
""",
}
_OWN_LOADING = """```python
from ifir_lightning import load_retriever
retriever = load_retriever("{name}")
scores = retriever.score(retriever.encode_queries(["a query"], ["its instruction"]), ["a passage"])
```
"""


@dataclass(frozen=True)
class History:
    """What is known of how a model came about.

    Attributes:
        source: What it was trained from; "" for random weights.
        steps: Optimizer steps since; None for a model that was not trained here.
        recipe: The run's config.yaml, parsed; {} where it is not there.
        results: ``metrics.json`` of the validation at that step; {} where there was none.
    """

    source: str
    steps: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def trained_on(self) -> str | None:
        """The training table, as the recipe names it."""
        return self.recipe.get("data", {}).get("path")


def read_history_of(checkpoint: str) -> History:
    """The history of anything that ``model.checkpoint`` may name: a run knows its own, all else is its own source."""
    if not is_run(checkpoint):
        return History(checkpoint)
    file = find_ckpt(checkpoint)
    source, steps = read_history(file)
    if file.resolve().parent.name != "checkpoints":
        return History(source, steps)  # what lies around a moved file is not its own
    run = file.resolve().parents[1]
    recipe, metrics = run / "config.yaml", run / "followir" / f"step-{steps:08d}" / "metrics.json"
    return History(
        source,
        steps,
        yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {},
        json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {},
    )


def model_card(retriever: Retriever, history: History, name: str, licence: str) -> str:
    """The card.

    Args:
        retriever: The model.
        history: How it came about.
        name: Folder or hub id to load it by.
        licence: An identifier of the hub, e.g. "apache-2.0".
    """
    layout = export_format(retriever)
    late = isinstance(retriever.pooling, TokenProjection)
    header: dict[str, Any] = {
        "license": licence,
        "library_name": "PyLate" if late else "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["ifir_lightning", "instruction-following-retrieval", "ColBERT" if late else "bi-encoder"],
    }
    header |= {"base_model": history.source.partition("@")[0]} if is_hub_id(history.source) else {}
    header |= {"datasets": [history.trained_on]} if is_hub_id(history.trained_on or "") else {}
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {Path(name).name}\n",
        f"{'Late interaction: one vector per token' if late else 'A bi-encoder: one vector per text'}, for retrieval "
        "that follows instructions. A query is the query, a space, and its instruction.\n",
        _origin(history),
        "## FollowIR\n",
        _table(history),
        "## How to load it\n",
        (_OWN_LOADING + "\n" + _LOADING[layout]).replace("{name}", name),
        "## What other libraries do not take over\n",
        "\n".join(f"- {sentence}" for sentence in caveats(retriever)) or "Nothing: they compute the same scores.",
        "\n## Text format\n",
        _text_format(retriever),
    ]
    if history.recipe:
        recipe = {key: history.recipe[key] for key in ("seed_everything", "model", "data") if key in history.recipe}
        sections += ["## Recipe\n", f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```\n"]
    return "\n".join(sections)


def _origin(history: History) -> str:
    if history.steps is None:
        return f"Converted from `{history.source}`, not trained further.\n"
    source = f"`{history.source}`" if history.source else "random weights"
    data = f"`{history.trained_on}`" if history.trained_on else "data that the checkpoint does not name"
    return f"Trained by ifir_lightning from {source} on {data}, {history.steps} optimizer steps.\n"


def _table(history: History) -> str:
    if not history.results:
        return "Not evaluated: there is no validation at this step beside the checkpoint.\n"
    lines = [
        "All x100; Score B is the headline Score (original instruction, original judgements).\n",
        "| task | p-MRR | Score A | Score B | Score C |",
        "|---|---|---|---|---|",
    ]
    rows = [*history.results["tasks"], {"task": "mean"} | history.results["benchmark"]]
    for row in rows:
        lines.append(
            f"| {row['task']} | {row['p_mrr']:+.2f} | " + " | ".join(f"{row[f'score_{s}']:.2f}" for s in "abc") + " |"
        )
    return "\n".join(lines) + "\n"


def _text_format(retriever: Retriever) -> str:
    settings = vars(retriever.tokenizer.format)
    lines = [
        f"- {name.replace('_', ' ')}: `{value}`" for name, value in settings.items() if value not in ("", (), "none")
    ]
    return "\n".join(lines) + "\n"
