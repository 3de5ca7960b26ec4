"""A training table of any size in the published layout: one block of rows, written repeatedly with new query ids."""

import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.texts import lognormal

BLOCK = 2000  # distinct rows
PLAIN = [(name, pa.string()) for name in ("docid", "text", "title")]
SCORED = [
    ("docid", pa.string()),
    ("explanation", pa.string()),
    ("followir_score", pa.float64()),
    ("joint_id", pa.string()),
    ("text", pa.string()),
    ("title", pa.string()),
]
SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("positive_passages", pa.list_(pa.struct(SCORED))),
        ("negative_passages", pa.list_(pa.struct(PLAIN))),
        ("only_instruction", pa.string()),
        ("only_query", pa.string()),
        ("has_instruction", pa.bool_()),
        ("new_negatives", pa.list_(pa.struct(SCORED))),
    ]
)


class Writer:
    """Draws words by Zipf's law: a WordPiece tokenizer makes about 1.3 tokens of one, as of English."""

    def __init__(self, words: Sequence[str], seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.words = [*words, *("".join(self.draw.choices(words, k=3)) for _ in range(len(words)))]
        self.weights = list(accumulate(1 / (rank + 10) for rank in range(len(self.words))))

    def text(self, count: int) -> str:
        return " ".join(self.draw.choices(self.words, cum_weights=self.weights, k=count))

    def plain(self) -> dict:
        """A passage of about 60 words, as MS MARCO's."""
        docid = str(self.draw.randrange(8_841_823))
        return {"docid": docid, "text": self.text(lognormal(self.draw, 57, 0.42, 250)), "title": self.text(3)}

    def scored(self) -> dict:
        return self.plain() | {"explanation": self.text(20), "followir_score": 0.5, "joint_id": "0"}

    def row(self, number: int, num_negatives: int) -> dict:
        """Every second row has an instruction of 60 to 100 words and 0 to 3 instruction negatives."""
        query, instruction = self.text(self.draw.randint(6, 10)), ""
        if number % 2:
            instruction = self.text(self.draw.randint(60, 100))
        return {
            "query": f"{query} {instruction}".strip(),
            "positive_passages": [self.scored()],
            "negative_passages": [self.plain() for _ in range(num_negatives)],
            "only_instruction": instruction,
            "only_query": query,
            "has_instruction": bool(instruction),
            "new_negatives": [self.scored() for _ in range(self.draw.randint(0, 3) if instruction else 0)],
        }


def write_table(file: Path, num_rows: int, words: Sequence[str], num_negatives: int = 30) -> None:
    writer = Writer(words)
    rows = [writer.row(number, num_negatives) for number in range(min(BLOCK, num_rows))]
    block = pa.Table.from_pylist(rows, pa.schema(list(SCHEMA)[1:]))
    with pq.ParquetWriter(file, SCHEMA, compression="lz4", use_dictionary=False, write_statistics=False) as parquet:
        for start in range(0, num_rows, BLOCK):
            part = block.slice(0, num_rows - start)
            ids = pa.array([str(number) for number in range(start, start + len(part))])
            parquet.write_table(part.add_column(0, SCHEMA.field(0), ids), row_group_size=1000)
