"""The HTML report: its tables are the JSON, it needs nothing from outside, a real browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from run_folders import head, write_run_folder
from small import write_task

from ifir_lightning.commands.compare import compare
from ifir_lightning.svg import COLOURS

METRICS = ("p_mrr", "score_b", "score_a", "score_c")
NUMBER = re.compile(r"[+-]?\d+\.\d+")


class Tables(HTMLParser):
    """The cells of every table with an id; tags that were opened and not closed; everything that is referred to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.references: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.references += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if tag not in ("meta", "link"):
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(values.get("id", ""), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    tasks = [write_task(folder / name, name, num_queries) for name, num_queries in (("travel", 5), ("food", 8))]
    for seed in (0, 1):
        write_run_folder(folder / f"late-{seed}", tasks, seed, 3, settings=head("TokenProjection", "MaxSim"))
    write_run_folder(folder / "bi <&>", tasks, 2, 1)
    return folder


@pytest.fixture
def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    names = ("late-0", "late-1", "bi <&>")
    compare(*(str(folder / name) for name in names), output=str(folder / "report.html"), json=True)
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def page(report: dict[str, Any], folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def rounded(*values: float) -> list[float]:
    return [float(f"{value:.2f}") for value in values]


def read(cell: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(cell)]


def test_the_table_of_models_is_the_json(report: dict[str, Any], page: str) -> None:
    header, *rows = Tables(page).tables["models"]
    assert header == ["Model, task", "p-MRR", "Score B", "Score A", "Score C", "Initialisation", "Paradigm"]
    expected = [(recipe, task) for recipe in report["recipes"] for task in recipe["results"]]
    assert len(rows) == len(expected) == 6
    for row, (recipe, task) in zip(rows, expected, strict=True):
        assert row[0] == (recipe["name"] if task == "mean" else task)
        for cell, key in zip(row[1:5], METRICS, strict=True):
            numbers = recipe["results"][task][key]
            assert read(cell) == rounded(numbers["value"], numbers["low"], numbers["high"])
        assert row[5:] == ([recipe["initialisation"], recipe["paradigm"]] if task == "mean" else ["", ""])


def test_the_table_of_pairs_is_the_json(report: dict[str, Any], page: str) -> None:
    header, *rows = Tables(page).tables["pairs"]
    assert header == ["First - second, task", "p-MRR", "Score B", "Score A", "Score C"]
    (pair,) = report["pairs"]
    assert len(rows) == len(pair["results"]) == 3
    for row, (task, results) in zip(rows, pair["results"].items(), strict=True):
        assert row[0] == (f"{pair['first']} - {pair['second']}" if task == "mean" else task)
        for cell, key in zip(row[1:], METRICS, strict=True):
            numbers = results[key]
            *shown, p_value = read(cell)
            assert shown == rounded(numbers["difference"], numbers["low"], numbers["high"])
            assert p_value == (0.001 if numbers["p_value"] < 0.001 else float(f"{numbers['p_value']:.3f}"))
            assert ("p < 0.001" in cell) == (numbers["p_value"] < 0.001)


def test_the_tables_of_runs_and_settings_are_the_json(report: dict[str, Any], page: str) -> None:
    tables = Tables(page).tables
    runs = [run for recipe in report["recipes"] for run in recipe["runs"]]
    for row, run in zip(tables["runs"][1:], runs, strict=True):
        assert [float(cell) for cell in row[3:7]] == rounded(*(run[key] for key in METRICS))
        assert (row[1], row[2], row[7]) == (str(run["seed"]), str(run["step"]), run["folder"])
    expected = [[key, *map(str, values)] for key, values in report["settings"].items()]
    assert tables["settings"][1:] == expected


def test_queries_and_passages_are_there(report: dict[str, Any], page: str) -> None:
    cells = [cell for row in Tables(page).tables[""] for cell in row]
    text = re.sub(r"\s+", " ", page)
    for entry in report["pairs"][0]["queries"]["gains"]:
        for key in ("query", "original_instruction", "changed_instruction"):
            assert entry[key] in text
        for name, p_mrr, score in zip(("late", "bi &lt;&amp;&gt;"), entry["p_mrr"], entry["score_b"], strict=True):
            assert f"{name}: p-MRR {p_mrr:+.2f}, Score B {score:.2f}" in text
        for passage in entry["passages"]:
            place = cells.index(f"{passage['passage_id']}: {passage['text']}")
            shown = [[float(number) for number in cell.split(" to ")] for cell in cells[place + 1 : place + 3]]
            assert shown == [[round(rank, 1) for rank in pair] for pair in passage["ranks"]]


def test_one_file_without_network_or_script(page: str) -> None:
    parsed = Tables(page)
    assert parsed.references, "the pictures' markers refer to their own page"
    assert all(reference.startswith("#") for reference in parsed.references)
    assert parsed.tags.count("svg") == 6
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert not re.search(r"url\((?!#)|@import", page)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width' in page
    assert "bi &lt;&amp;&gt;" in page
    assert "bi <&>" not in page


def test_names_that_matplotlib_would_read_are_shown_as_they_are(folder: Path, tmp_path: Path) -> None:
    for name in ("_a$b_{$c", "$"):
        shutil.copytree(folder / "bi <&>", tmp_path / name)
    recipe = tmp_path / "$" / "config.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    compare(*(str(tmp_path / name) for name in ("_a$b_{$c", "$")), output=str(tmp_path / "report.html"), json=True)
    pictures = re.findall(r"<svg.*?</svg>", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    assert len(pictures) > 2
    assert all("_a$b_{$c" in picture for picture in pictures)


def test_one_run_alone_has_a_page(folder: Path, tmp_path: Path) -> None:
    compare(str(folder / "late-0"), output=str(tmp_path / "one.html"), json=True)
    parsed = Tables((tmp_path / "one.html").read_text())
    assert "pairs" not in parsed.tables
    assert len(parsed.tables["models"]) == 4
    assert not list(tmp_path.glob(".*"))


def test_runs_of_one_recipe_may_differ_in_what_changes_no_number(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "late-1", tmp_path / "late-1")
    recipe = tmp_path / "late-1" / "config.yaml"
    recipe.write_text(recipe.read_text() + "verbose: true\n")
    compare(str(folder / "late-0"), str(tmp_path / "late-1"), output=str(tmp_path / "page.html"), json=True)
    assert "None that changes numbers, but the seed." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("page_colour", ["#ffffff", "#14171a"])
def test_lines_stand_out_from_the_page(page_colour: str) -> None:
    """WCAG 2.2, 1.4.11: graphics have a contrast of 3 or more."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in COLOURS:
        low, high = sorted((luminance(colour), luminance(page_colour)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.usefixtures("page")
def test_a_browser_shows_it_light_and_dark(folder: Path, tmp_path: Path, width: int) -> None:
    """The corner has the page's colour, text and curves are painted, and nothing reaches the right margin."""
    assert BROWSER
    for scheme, corner in ((1, [255, 255, 255]), (0, [0x14, 0x17, 0x1A])):
        picture = tmp_path / f"{scheme}.png"
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}"]
        command += [f"--window-size={width},3000", f"--screenshot={picture}", (folder / "report.html").as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pixels = (imread(picture)[..., :3] * 255).round().astype(int)
        assert pixels.shape[1] == width
        assert pixels[0, 0].tolist() == corner
        assert (pixels[:, -4] == corner).all(), "the page is wider than the window"
        for colour in COLOURS[:2]:
            painted = (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
            assert painted.any(), colour
