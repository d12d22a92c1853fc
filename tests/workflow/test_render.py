"""Pages that open from disk and carry nothing alive or private."""

from html.parser import HTMLParser

import nbformat
import pytest

from emosafe_lib.study.errors import StageError
from emosafe_lib.study.rows import shown
from workflow.pages import rendering

MANIFEST = {"stage": "01_data_merge", "study": "toy", "model": None, "finished": "2026-01-01", "seconds": 1}
MANIFEST |= {"peak_memory_mb": 1}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def notebook(*outputs, prose="# Title", source="x = 1"):
    code = nbformat.v4.new_code_cell(source, execution_count=1, outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), code])


def display(**data):
    return nbformat.v4.new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})


class Sinks(HTMLParser):
    """Collects whatever a browser would run or fetch."""

    def __init__(self):
        super().__init__()
        self.found, self.images = [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("script", "iframe", "object", "embed", "svg", "link", "base", "form"):
            self.found.append(tag)
        self.found += [name for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            value = (attributes.get(name) or "").strip().lower()
            if value.startswith(("javascript:", "data:text", "vbscript:")) or (
                name == "src" and value.startswith("http")
            ):
                self.found.append(value[:20])
        if tag == "img":
            self.images.append(attributes)


def sinks(page):
    parser = Sinks()
    parser.feed(page)
    return parser


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "<svg onload=alert(1)><script>1</script></svg>",
    '<iframe src="https://example.org"></iframe>',
    "<div onmouseover=alert(1)>x</div>",
    '<a href="java\tscript:alert(1)">x</a>',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_79_no_live_sink_survives_and_figures_stay(attack):
    made = notebook(display(text_html=attack), display(image_png=PIXEL), prose=f"# Title\n\n{attack}")
    rendering.clean(made)
    found = sinks(rendering.page(made, MANIFEST))
    assert found.found == []
    assert len(found.images) == 1 and found.images[0]["src"].startswith("data:image/png")


def test_79_script_and_svg_mime_types_are_dropped():
    made = notebook(
        nbformat.v4.new_output(
            "display_data", data={"application/javascript": "alert(1)", "image/svg+xml": "<svg/>", "text/plain": "kept"}
        )
    )
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    assert "alert(1)" not in page and "kept" in page


def test_a_progress_bar_of_a_finished_run_leaves_nothing_on_its_page():
    bar = {"text/plain": "fine-tuning:   0%|          | 0/3", "application/vnd.jupyter.widget-view+json": {}}
    made = notebook(nbformat.v4.new_output("display_data", data=bar))
    rendering.clean(made)
    assert not any(cell.get("outputs") for cell in made["cells"])


LINKED = (
    "# Title\n\nA [score](GLOSSARY.md#log-probability), an [unknown](../GLOSSARY.md#none), [solved](solutions/x.ipynb)."
)


def test_a_word_linked_into_the_glossary_is_explained_at_the_end_of_the_page():
    made = notebook(prose=LINKED)
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    assert page.count('href="#word-log-probability"') == page.count('id="word-log-probability"') == 1
    assert "The logarithm of how likely" in page and "GLOSSARY" not in page and "solutions/" not in page
    assert "GLOSSARY.md#log-probability" in made["cells"][0]["source"], "the notebook beside the page keeps its link"


def test_style_sheets_of_outputs_do_not_turn_into_prose():
    made = notebook(
        display(text_html="<style>.x { color: red }</style><table><tbody><tr><td>1</td></tr></tbody></table>")
    )
    rendering.clean(made)
    assert "color: red" not in rendering.body(made)


def test_tables_and_headings_survive():
    made = notebook(
        display(text_html="<table><thead><tr><th>n</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>")
    )
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    assert "<tbody>" in page and "<h1" in page


PRIVATE = ["sk-" + "a" * 20, "/home/somebody/x", "C:\\Users\\somebody", "a.person@example.org", "hf_" + "A" * 12]


@pytest.mark.parametrize("planted", PRIVATE)
def test_81_something_private_refuses_the_page_without_repeating_it(planted):
    for made in (
        notebook(nbformat.v4.new_output("stream", text=planted)),
        notebook(display(text_html=f"<p>{planted}</p>")),
        notebook(source=f"x = {planted!r}"),
    ):
        with pytest.raises(StageError) as refusal:
            rendering.clean(made)
        assert planted not in str(refusal.value) and "cell 1" in str(refusal.value)


def test_81_metadata_of_the_execution_is_dropped():
    """Wherever a notebook keeps metadata."""
    made = notebook(display(text_html="<p>x</p>"))
    made.metadata["papermill"] = {"input_path": "/somewhere/private"}
    made.metadata["kernelspec"] = {"name": "private", "display_name": "private's kernel", "language": "python"}
    for cell in made.cells:
        cell.metadata["note"] = "private"
        for output in cell.get("outputs", []):
            output["metadata"] = {"note": "private"}
    rendering.clean(made)
    assert "papermill" not in made.metadata and "private" not in nbformat.writes(made)


def test_82_text_of_real_rows_is_masked_and_the_page_carries_a_content_note():
    assert "words" not in shown("my own written example", "synthetic")
    assert shown("some private words here", "human") == "[text of 4 words, not shown]"
    made = notebook()
    rendering.clean(made)
    assert "distress" in rendering.page(made, MANIFEST)


@pytest.mark.parametrize(
    "remote",
    [
        '<img src="https://example.org/a.png">',
        "<style>@import 'x.css'</style>",
        '<script src="//cdn.example/x.js"></script>',
    ],
)
def test_83_a_page_that_would_fetch_something_is_refused(remote):
    with pytest.raises(StageError, match="another host"):
        rendering.shell("t", remote)


def test_83_plain_links_may_leave():
    assert "arxiv.org" in rendering.shell("t", '<a href="https://arxiv.org/abs/2509.04512">paper</a>')


def test_figures_get_an_alternative_text():
    made = notebook(display(image_png=PIXEL), prose="## How long are the texts?")
    rendering.clean(made)
    assert sinks(rendering.page(made, MANIFEST)).images[0]["alt"] == "Figure: How long are the texts?"


def alts(made):
    rendering.clean(made)
    return [image["alt"] for image in sinks(rendering.page(made, MANIFEST)).images]


def test_no_two_figures_have_one_alternative_text():
    assert alts(notebook(display(image_png=PIXEL), display(image_png=PIXEL))) == ["Figure: Title", "Figure: Title (2)"]


def test_a_figures_text_says_what_it_shows_and_what_is_read_from_it():
    shown = display(image_png=PIXEL)
    shown["metadata"] = {"image/png": {"alt": "F1 against rows", "note": "private"}, "other": {"alt": "private"}}
    made = notebook(shown, display(text_markdown="It rises."))
    assert alts(made) == ["Figure: Title. F1 against rows. It rises"] and "private" not in nbformat.writes(made)


def test_81_a_private_alternative_text_refuses_the_page():
    shown = display(image_png=PIXEL)
    shown["metadata"] = {"image/png": {"alt": "by a.person@example.org"}}
    with pytest.raises(StageError, match="an e-mail address"):
        rendering.clean(notebook(shown))


def test_a_figure_opens_large_and_closes_where_it_stood():
    made = notebook(display(image_png=PIXEL))
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    assert all(page.count(part) == 1 for part in ('id="figure-1"', 'id="at-figure-1"', 'href="#at-figure-1"'))


@pytest.mark.parametrize(("more", "shown"), [("", 1), ("\nseed = 0", 2)])
def test_the_parameters_stand_once_unless_the_runner_left_one_as_it_was(more, shown):
    made = notebook()
    cells = [nbformat.v4.new_code_cell('study = "a"' + more), nbformat.v4.new_code_cell('study = "b"')]
    for cell, tag in zip(cells, ("parameters", "injected-parameters"), strict=True):
        cell.metadata["tags"] = [tag]
    made.cells[1:1] = cells
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    assert page.count("study") - rendering.page(notebook(), MANIFEST).count("study") == shown
    assert len(made.cells) == 4, "the notebook beside the page keeps both"


def test_83_a_formula_is_a_picture_with_its_latex_as_text_and_code_keeps_its_dollars():
    made = notebook(
        prose="# Title\n\nA law $c - a\\,N^{-b}$ and `cost = $5 + $6`.\n\n$$\\frac{x}{y}$$", source="x = '$a$'"
    )
    rendering.clean(made)
    page = rendering.page(made, MANIFEST)
    images = sinks(page).images
    assert [image["alt"] for image in images] == ["c - a\\,N^{-b}", "\\frac{x}{y}"]
    assert all(image["src"].startswith("data:image/png") for image in images)
    assert "$5 + $6" in page and "$a$" in page and "$c" not in page


def test_83_a_formula_that_cannot_be_drawn_stands_as_code():
    made = notebook(prose="# Title\n\n$\\nosuchcommand{x}$")
    rendering.clean(made)
    assert "<code>\\nosuchcommand{x}</code>" in rendering.page(made, MANIFEST)
