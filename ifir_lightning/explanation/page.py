"""The explanation as ONE HTML file: no network, light and dark, for phone and desktop; tokens answer to pointing."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ifir_lightning import durable
from ifir_lightning.explanation.parts import Explanation, Match, Part
from ifir_lightning.explanation.picture import largest_changes
from ifir_lightning.page import note, page
from ifir_lightning.spans import SPAN_NAMES, Span

VARIANTS = ("Original instruction", "Changed instruction")
BY_TOKEN = (
    "Query tokens: what each adds to the score with the passage token that it matches best; the instruction is "
    "underlined. Passage: what its tokens collect."
)
BY_SPAN = "How far the score falls when a part of the query is left out and the others are encoded anew."


def write_page(
    output: Path, title: str, checkpoint: str, queries: Sequence[tuple[str, str]], explanations: Sequence[Explanation]
) -> None:
    """Write the page, whole or not at all."""
    how = BY_TOKEN if explanations[0].passage_tokens else BY_SPAN
    parts = [f"<h1>{escape(title)}</h1>", note(f"{checkpoint}. {how} Blue raises the score, orange lowers it.")]
    parts += [_asked(queries), *(_passage(number, each) for number, each in enumerate(explanations))]
    parts += [f"<script>\n{_read('script.js')}</script>"]
    durable.write_text(output, page(title, "\n".join(parts), _read("style.css")))


def _read(name: str) -> str:
    """A file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _asked(queries: Sequence[tuple[str, str]]) -> str:
    rows = [f"<dt>Query</dt><dd>{escape(queries[0][0])}</dd>"]
    rows += [f"<dt>{name}</dt><dd>{escape(query[1])}</dd>" for name, query in zip(VARIANTS, queries, strict=True)]
    return f"<dl>{''.join(rows)}</dl>"


def _passage(number: int, explanation: Explanation) -> str:
    before, after = explanation.scores
    heading = (
        f"<h2>{escape(explanation.passage.id)}</h2>"
        f"<p>rank <b>{explanation.ranks[0]} &rarr; {explanation.ranks[1]}</b>, "
        f"score <b>{before:.4f} &rarr; {after:.4f}</b> ({_signed(after - before)};"
        f" the mean candidate {_signed(explanation.mean_change)})"
        f"{'; the changed instruction excludes it' if explanation.excluded else ''}</p>"
    )
    if explanation.passage_tokens:
        sides = "".join(_side(name, i, explanation) for i, name in enumerate(VARIANTS))
        shown = f'<div class="sides">{sides}</div>'
    else:
        text = " ".join(part for part in (explanation.passage.title, explanation.passage.text) if part)
        shown = f'<p class="text">{escape(text)}</p>'
    tables = f'<div class="sides">{_spans(explanation.parts)}{_changes(explanation.parts)}</div>'
    return f'<section id="passage-{number}">{heading}{shown}{tables}</section>'


def _side(name: str, variant: int, explanation: Explanation) -> str:
    """A query's tokens over the passage's; each query token knows the passage token that it matches."""
    matches = explanation.matches[variant]
    largest = max(abs(match.contribution) for side in explanation.matches for match in side) or 1.0
    query = " ".join(_query_token(match, explanation.passage_tokens[match.place], largest) for match in matches)
    drawn = [0.0] * len(explanation.passage_tokens)
    for match in matches:
        drawn[match.place] += match.contribution
    most = max(map(abs, drawn)) or 1.0
    passage = " ".join(
        f'<span data-place="{place}" style="--c:{value / most:.3f}">{escape(token)}</span>'
        for place, (token, value) in enumerate(zip(explanation.passage_tokens, drawn, strict=True))
    )
    return (
        f'<div class="side"><h3>{name}</h3><p class="tokens query">{query}</p>'
        f'<output>Point at a token, or tap it.</output><p class="tokens passage">{passage}</p></div>'
    )


def _query_token(match: Match, matched: str, largest: float) -> str:
    weight = "" if match.weight == 1 else f", weight {match.weight:+.2f}"
    said = (
        f"“{match.token}” ({SPAN_NAMES[match.span]}) matches “{matched}”: similarity {match.similarity:.3f}{weight}, "
        f"contributes {_signed(match.contribution)}"
    )
    return (
        f'<span tabindex="0" class="{SPAN_NAMES[match.span]}" data-match="{match.place}" data-said="{escape(said)}" '
        f'style="--c:{match.contribution / largest:.3f}">{escape(match.token)}</span>'
    )


def _spans(parts: Sequence[Part]) -> str:
    """Sums by span."""
    rows = []
    for span in (*Span, None):
        if own := [part for part in parts if part.span == span]:
            name = "the rest" if span is None else SPAN_NAMES[span]
            sums = [sum(part.original or 0.0 for part in own), sum(part.changed or 0.0 for part in own)]
            rows.append((name, Part(name, span, sums[0], sums[1])))
    total = Part("", None, sum(part.original or 0.0 for part in parts), sum(part.changed or 0.0 for part in parts))
    return _table("Where the score comes from", [*rows, ("score", total)])


def _changes(parts: Sequence[Part]) -> str:
    return _table("What changes it most", [(part.label, part) for part in largest_changes(parts)])


def _table(title: str, rows: Sequence[tuple[str, Part]]) -> str:
    largest = max(abs(part.change) for _, part in rows) or 1.0
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{_value(part.original)}</td><td>{_value(part.changed)}</td>"
        f'<td style="--c:{part.change / largest:.3f}"><i>{_signed(part.change)}</i></td></tr>'
        for name, part in rows
    )
    head = "<tr><th></th><th>original</th><th>changed</th><th>change</th></tr>"
    return f'<div class="side"><h3>{title}</h3><table>{head}{body}</table></div>'


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"
