"""Explanations: contributions equal loops and add up to the scores; the page and the picture; what is refused."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from small import HEADS, Head, retriever, write_task
from test_benchmarks import write_beir

from ifir_lightning.commands import explain as command
from ifir_lightning.commands.explain import explain
from ifir_lightning.data.evalset import load_task
from ifir_lightning.errors import InputError
from ifir_lightning.explanation.explain import explain_passages, span_contributions, token_matches
from ifir_lightning.explanation.page import write_page
from ifir_lightning.explanation.parts import Explanation, Match, Part, aligned
from ifir_lightning.explanation.picture import draw_changes, largest_changes
from ifir_lightning.metrics import rank_change, ranks
from ifir_lightning.models.pooling import MeanPooling
from ifir_lightning.models.scoring import Dot, MaxSim, WeightedMaxSim
from ifir_lightning.options import run
from ifir_lightning.records import Passage
from ifir_lightning.retriever import Retriever, load_retriever
from ifir_lightning.spans import Span
from ifir_lightning.text_format import TextSettings

QUERIES = (
    ("a quiet hotel", "With a garden. No breakfast, please."),
    ("a quiet hotel", "With a garden. A hotel near the harbour."),
)
PASSAGE = Passage("p", "Hotel", "a hotel near the harbour, with breakfast and a garden")
OTHER = Passage("q", "", "walks and breakfast for the quiet")


def ready(backbone: Path, head: Head, **text: Any) -> Retriever:
    settings = TextSettings(**{"max_query_length": 64, "max_passage_length": 64, **text})
    return retriever(backbone, head, text=settings).eval().retriever


def explained(model: Retriever) -> list[Explanation]:
    scores = [model.score(model.encode_queries([q], [i]), [PASSAGE, OTHER])[0].tolist() for q, i in QUERIES]
    by_id = tuple(dict(zip("pq", each, strict=True)) for each in scores)
    return explain_passages(model, QUERIES, [PASSAGE, OTHER], by_id, ["q"])  # type: ignore[arg-type]


@pytest.mark.parametrize("head", HEADS)
def test_contributions_add_up_to_the_scores(modernbert: Path, head: Head) -> None:
    model = ready(modernbert, head)
    for each in explained(model):
        assert sum(part.original or 0.0 for part in each.parts) == pytest.approx(each.scores[0], abs=1e-5)
        assert sum(part.changed or 0.0 for part in each.parts) == pytest.approx(each.scores[1], abs=1e-5)
        assert sum(part.change for part in each.parts) == pytest.approx(each.scores[1] - each.scores[0], abs=1e-5)
        assert sum(p.change for p in largest_changes(each.parts, 3)) == pytest.approx(
            each.scores[1] - each.scores[0], abs=1e-5
        )
        assert each.scores[0] != each.scores[1]


def test_max_sim_of_one_vector_per_text_is_explained_by_spans(modernbert: Path) -> None:
    text = TextSettings(max_query_length=64, max_passage_length=64)
    late, cosine = (explained(load_retriever(str(modernbert), MeanPooling(), each, text)) for each in (MaxSim(), Dot()))
    assert [each.parts for each in late] == [each.parts for each in cosine]
    assert not late[0].passage_tokens


def test_an_explanation_knows_ranks_and_exclusion(modernbert: Path) -> None:
    model = ready(modernbert, "maxsim")
    first, second = explained(model)
    assert (first.excluded, second.excluded) == (False, True)
    for variant in (0, 1):
        order = sorted((first, second), key=lambda each: -each.scores[variant])
        assert [each.ranks[variant] for each in order] == [1, 2]
    changes = [each.scores[1] - each.scores[0] for each in (first, second)]
    assert first.mean_change == second.mean_change == pytest.approx(sum(changes) / 2)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("head", ["maxsim", "weighted"])
def test_matches_equal_a_loop_over_tokens(modernbert: Path, head: Head, reduction: Any) -> None:
    model = ready(modernbert, head)
    model.scorer = MaxSim(reduction) if head == "maxsim" else WeightedMaxSim(reduction)
    sides, words = token_matches(model, QUERIES, PASSAGE)
    passage = model.encode_passages([PASSAGE]).values_ND.double()
    assert words[:4] == ["[CLS]", "hot", "##e", "##l"]
    assert len(words) == len(passage)
    for (text, instruction), matches in zip(QUERIES, sides, strict=True):
        query = model.encode_queries([text], [instruction])
        assert len(matches) == len(query.values_ND)
        for number, match in enumerate(matches):
            similarities = [float(query.values_ND[number].double() @ other) for other in passage]
            assert match.place == max(range(len(words)), key=similarities.__getitem__)
            assert match.similarity == pytest.approx(max(similarities), abs=1e-5)
            weight = 1.0 if query.weights_N is None else float(query.weights_N[number])
            assert match.weight == pytest.approx(weight, abs=1e-5)
            expected = weight * max(similarities) / (len(matches) if reduction == "mean" else 1)
            assert match.contribution == pytest.approx(expected, abs=1e-5)
        score = float(model.score(query, [PASSAGE]))
        assert sum(match.contribution for match in matches) == pytest.approx(score, abs=1e-5)


def test_tokens_keep_their_spans_with_skiplist_and_expansion(modernbert: Path) -> None:
    model = ready(modernbert, "maxsim", passage_skiplist=(",", "a"), query_expansion="attended")
    (original, _), words = token_matches(model, QUERIES, PASSAGE)
    assert "," not in words
    assert "a" not in words
    assert {match.token for match in original if match.span == Span.EXPANSION} == {"[MASK]"}
    assert text_of(original, Span.QUERY) == "aquiethotel"
    assert text_of(original, Span.INSTRUCTION) == "withagarden.nobreakfast,please."
    assert {match.token for match in original if match.span == Span.MARKERS} == {"[CLS]", "[SEP]"}
    assert len(original) == 64


def text_of(matches: list[Match], span: Span) -> str:
    return "".join(match.token.removeprefix("##") for match in matches if match.span == span)


def test_spans_of_a_bi_encoder_equal_re_encoding_without_them(modernbert: Path) -> None:
    model = ready(modernbert, "bi-encoder")

    def score(text: str, instruction: str) -> float:
        return float(model.score(model.encode_queries([text], [instruction]), [PASSAGE]))

    whole = score(*QUERIES[0])
    expected = [
        ("a quiet hotel", Span.QUERY, whole - score("", QUERIES[0][1])),
        ("With a garden.", Span.INSTRUCTION, whole - score("a quiet hotel", "No breakfast, please.")),
        ("No breakfast, please.", Span.INSTRUCTION, whole - score("a quiet hotel", "With a garden.")),
    ]
    *found, rest = span_contributions(model, QUERIES[0], PASSAGE)
    for (label, span, value), (label_2, span_2, value_2) in zip(found, expected, strict=True):
        assert (label, span) == (label_2, span_2)
        assert value == pytest.approx(value_2, abs=1e-5)
    assert rest[:2] == ("everything else", None)
    alone = span_contributions(model, ("a quiet hotel", ""), PASSAGE)
    assert alone == [("everything else", None, pytest.approx(score("a quiet hotel", ""), abs=1e-5))]


def test_what_both_queries_share_stands_side_by_side() -> None:
    original = [("a", Span.QUERY, 1.0), ("old", Span.INSTRUCTION, 2.0), (".", Span.INSTRUCTION, 3.0)]
    changed = [("a", Span.QUERY, 5.0), ("new", Span.INSTRUCTION, 7.0), (".", Span.INSTRUCTION, 9.0)]
    parts = aligned(original, changed)
    assert parts == [
        Part("a", Span.QUERY, 1.0, 5.0),
        Part("old", Span.INSTRUCTION, 2.0, None),
        Part("new", Span.INSTRUCTION, None, 7.0),
        Part(".", Span.INSTRUCTION, 3.0, 9.0),
    ]
    assert [part.change for part in parts] == [4.0, -2.0, 7.0, 6.0]
    assert largest_changes(parts, 2) == [parts[2], parts[3], Part("2 others", None, 3.0, 5.0)]


class Page(HTMLParser):
    """Counts tags and remembers attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.attributes if each == name]


@pytest.mark.parametrize("head", HEADS)
def test_the_page_stands_alone_and_shows_every_token(modernbert: Path, head: Head, tmp_path: Path) -> None:
    found = explained(ready(modernbert, head))
    write_page(tmp_path / "new" / "page.html", "task <1>", "runs/$x", QUERIES, found)
    text = (tmp_path / "new" / "page.html").read_text()
    page = Page(text)
    assert page.tags["section"] == 2
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "<h1>task &lt;1&gt;</h1>" in text
    assert "runs/$x" in text
    for each in found:
        assert f"<b>{each.scores[0]:.4f} &rarr; {each.scores[1]:.4f}</b>" in text
    matches = [match for each in found for side in each.matches for match in side]
    assert page.values("data-match") == [str(match.place) for match in matches]
    assert len(page.values("data-place")) == sum(2 * len(each.passage_tokens) for each in found)
    assert text.count("the changed instruction excludes it") == 1


def test_text_of_passages_is_escaped(modernbert: Path, tmp_path: Path) -> None:
    model = ready(modernbert, "bi-encoder")
    passage = Passage("<p>", "", "a <script>garden</script>")
    scores = ({"<p>": 0.5}, {"<p>": 0.5})
    write_page(tmp_path / "page.html", "t", "c", QUERIES, explain_passages(model, QUERIES, [passage], scores, []))
    text = (tmp_path / "page.html").read_text()
    assert "a &lt;script&gt;garden" in text
    assert text.count("<script>") == 1


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_task(tmp_path / "travel")


def test_the_picture_has_one_scale_and_says_what_it_shows(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    draw_changes(tmp_path / "why.png", "a title", explained(ready(modernbert, "weighted")))
    first, second = drawn[0].axes
    assert first.get_xlim() == second.get_xlim()
    assert all(label.get_visible() for panel in (first, second) for label in panel.get_xticklabels())
    assert "blue raises it, red lowers it" in drawn[0].get_supxlabel()


@pytest.mark.parametrize("head", ["bi-encoder", "weighted"])
def test_the_command_writes_page_and_picture_of_what_moved_most(
    modernbert: Path,
    head: Head,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    model = ready(modernbert, head)
    monkeypatch.setattr(command, "load_retriever", lambda *_, **__: model)
    base = load_task(task).base_ids[0]
    explain("a run", task, base, output=str(tmp_path / "why.html"))
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    printed = capsys.readouterr().out
    loaded = load_task(task)
    queries = [(loaded.queries[base + end], loaded.instructions[base + end]) for end in ("-og", "-changed")]
    places = []
    for query in queries:
        encoded = model.encode_queries([query[0]], [query[1]])
        scores = {id_: float(model.score(encoded, [loaded.passages[id_]])) for id_ in loaded.candidates[base + "-og"]}
        places.append(ranks(scores))
    moves = {id_: abs(rank_change(places[0][id_], places[1][id_])) for id_ in places[0]}
    shown = re.findall(r"^(\w+): rank (\d+) -> (\d+)", printed, flags=re.MULTILINE)
    assert len(shown) == 3
    assert [moves[id_] for id_, _, _ in shown] == sorted(moves.values(), reverse=True)[:3]
    assert all((places[0][id_], places[1][id_]) == (int(a), int(b)) for id_, a, b in shown)


def test_ids_and_paths_are_printed_and_drawn_as_they_are(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "load_retriever", lambda *_, **__: ready(modernbert, "maxsim"))
    folder = tmp_path / "task"
    task = write_task(folder)
    odd = load_task(task).candidates[load_task(task).base_ids[0] + "-og"][0]
    for file in folder.rglob("*.jsonl"):
        file.write_text(file.read_text().replace(odd, "do$c[/a_{$b"))
    output = tmp_path / "[x]" / "why.html"
    output.parent.mkdir()
    explain("a run", task, load_task(task).base_ids[0], ("do$c[/a_{$b",), output=str(output))
    printed = capsys.readouterr().out
    assert "do$c[/a_{$b: rank" in printed
    assert f"wrote {output}" in printed


def test_passages_that_are_named_are_explained(
    modernbert: Path, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    devices: list[str] = []

    def load(*_: Any, device: torch.device, **__: Any) -> Retriever:
        devices.append(str(device))
        return ready(modernbert, "maxsim")

    monkeypatch.setattr(command, "load_retriever", load)
    loaded = load_task(task)
    base, output = loaded.base_ids[1], tmp_path / "why.html"
    wanted = loaded.candidates[base + "-og"][4:6]
    arguments = ["--checkpoint=x", "--task", task, "--query", base, "--passage", *wanted, f"--output={output}"]
    run("explain", explain, [*arguments, "--device=cpu:0"])
    assert devices == ["cpu:0"]
    assert re.findall(r"^(\w+): rank", capsys.readouterr().out, flags=re.MULTILINE) == list(wanted)
    assert [f"<h2>{id_}</h2>" in output.read_text() for id_ in wanted] == [True, True]


def test_bad_input_is_answered_in_one_line_before_a_model_is_loaded(task: str, tmp_path: Path) -> None:
    base = load_task(task).base_ids[0]
    beir = f"beir:{write_beir(tmp_path / 'scifact')}"
    for arguments, says in (
        ({"query": "999"}, rf"query '999' is not in travel; allowed are {base}, .*: choose one"),
        ({"passage": ("zz",)}, rf"passage 'zz' is no candidate of query '{base}'; allowed are .* and 10 more: choose"),
        ({"task": beir}, r"task 'beir:.*' \(beir\) has no changed instructions; allowed are tasks of FollowIR and"),
        ({"output": "why.pdf"}, r"--output why\.pdf: allowed is a file that ends in \.html or \.htm: rename it"),
        ({"device": "frog"}, r"--device frog: torch cannot compute there; allowed are cpu and a GPU that is there"),
        ({"output": f"{__file__}/why.html"}, r"--output .*: .*test_explain\.py is no folder to write in; allowed"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            explain(**{"checkpoint": "missing/run", "task": task, "query": base, **arguments})  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
