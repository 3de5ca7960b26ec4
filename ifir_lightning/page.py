"""HTML that stands alone: one file, no script, no network, light and dark, for phone and desktop."""

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --shade: #f3f5f7; --alarm: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e7eaee; --soft: #a4adb8; --line: #383f47; --shade: #1e2328; --alarm: #423308; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
p, li { max-width: 48rem; } .note { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--shade); font-weight: 600; } th.n, td.n { text-align: right; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .85rem; }
.summary { padding: .8rem 1rem .8rem 1.8rem; background: var(--shade); border-radius: .5rem; }
.summary li:first-child { font-weight: 650; }
.warning { background: var(--alarm); padding: .5rem 1rem; border-radius: .5rem; overflow-wrap: anywhere; }
td.n small { display: block; color: var(--soft); font-size: .8rem; }
tr.mean td { font-weight: 650; } tr.mean td small { font-weight: 400; }
tr.task td:first-child { padding-left: 1.5rem; color: var(--soft); }
tr.task td:first-child, tr.mean td:first-child { min-width: 7rem; }
td.described { min-width: 15rem; } td.key { font-family: ui-monospace, monospace; font-size: .8rem; }
details { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
.query { border-top: 1px solid var(--line); margin-top: .8rem; padding-top: .5rem; }
.query p { margin: .3rem 0; overflow-wrap: anywhere; } .query td { min-width: 5rem; }
.query td:first-child { min-width: 9rem; max-width: 34rem; }
$style</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, body: str, style: str = "") -> str:
    """A whole page around a body of HTML, with more style where its parts want it."""
    return _PAGE.substitute(title=escape(title), body=body, style=style)


def note(text: str) -> str:
    """A paragraph in the background."""
    return f'<p class="note">{escape(text)}</p>'


def figure(svg: str, caption: str) -> str:
    """A picture and what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, then columns of numbers, set to the right."""
    kinds = [""] * len(texts) + [' class="n"'] * len(numbers)

    def line(tag: str, cells: Sequence[str]) -> str:
        row = "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{row}</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="wide"><table><thead>{line("th", [*texts, *numbers])}</thead><tbody>{body}</tbody></table></div>'
    )
