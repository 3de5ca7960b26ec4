"""Records read from files, and the one line in which a file that is not intact is refused."""

from pathlib import Path
from typing import Any

import pytest

from ifir_lightning.data.record_files import read_records
from ifir_lightning.errors import InputError

HEADER = b"query-id\tcorpus-id\tscore\n"
LONG = "d" * 200_000


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("byte order mark.jsonl", b'\xef\xbb\xbf{"a": 1}\n', [{"a": 1}]),
        ("blank lines.jsonl", b'{"a": 1}\r\n\r\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ("line separator.jsonl", '{"a": "b\u2028c"}\n'.encode(), [{"a": "b\u2028c"}]),
        ("escaped pair.jsonl", b'{"a": "\\ud83d\\ude00"}\n', [{"a": "\U0001f600"}]),
        (
            "byte order mark.tsv",
            b"\xef\xbb\xbf" + HEADER + b"q\td\t1\n",
            [{"query-id": "q", "corpus-id": "d", "score": 1}],
        ),
        ("no score.tsv", b"query-id\tcorpus-id\r\nq\td\r\n", [{"query-id": "q", "corpus-id": "d"}]),
        (
            "quotes.tsv",
            HEADER + b'q\t"d\t1\nq\te"\t0\n',
            [{"query-id": "q", "corpus-id": '"d', "score": 1}, {"query-id": "q", "corpus-id": 'e"', "score": 0}],
        ),
        (
            "long.tsv",
            HEADER + b"q\t" + b"d" * 200_000 + b"\t1\n",
            [{"query-id": "q", "corpus-id": "d" * 200_000, "score": 1}],
        ),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, content: bytes, records: list[dict[str, Any]]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_records(tmp_path / name) == records


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.parquet", b"PAR1 no", "Parquet"),
        ("cut.jsonl", b'{"_id": 0}\n{"_id": 1', r"line 2 is not one JSON object in Unicode \(.*\)"),
        ("latin.jsonl", b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("list.jsonl", b"[1]\n", r"line 1 is no JSON object: '\[1\]'"),
        ("text.jsonl", b'"s"\n', "line 1 is no JSON object"),
        ("half.jsonl", b'{"text": "a \\uD800 b"}\n', r"line 1 is not one JSON object in Unicode .*surrogates"),
        ("trec.tsv", b"q 0 d 1\n", r"the first line, \['q 0 d 1'\], is not the header query-id, corpus-id"),
        ("headless.tsv", b"q\t0\td\t1\n", "the first line, .*, is not the header"),
        ("empty.tsv", b"", "is not the header"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = Path(name).suffix
    with pytest.raises(InputError, match=rf"{name}: .*{says}.*; allowed are intact {kind} files: correct it") as caught:
        read_records(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(InputError, match=r"a\.jsonl: .*Is a directory"):
        read_records(tmp_path / "a.jsonl")
