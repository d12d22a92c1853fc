"""What every committed notebook promises: prose first, no outputs, checked parameters, nothing redefined, no message
on the page.
"""

import ast
import json
import re
from pathlib import Path

import pytest
from displayed_text import displayed

from emosafe_lib.study.stage import STAGES, reads_all_models
from workflow.checks import check_source
from workflow.pages import words

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COURSE = [
    "00_first_look",
    "01_data_merge",
    "02_chatgpt_augmentation",
    "03_prompting_baselines",
    "04_lora_finetuning",
    "05_scaling_analysis",
    "06_on_device",
    "A1_nano_ladder",
]
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def test_the_course_is_complete():
    assert [path.stem for path in NOTEBOOKS] == COURSE
    assert set(STAGES) <= set(COURSE)


@every
def test_no_outputs_are_committed(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@every
def test_nothing_can_hide_a_failure(path):
    check_source(json.loads(path.read_text()), path.name)


@every
def test_84_tables_for_people_are_written_safe_for_a_spreadsheet(path):
    assert not re.search(r"\.to_(csv|excel)\(", "\n".join(cells(path, "code")))


def test_84_the_library_writes_a_csv_file_in_one_place_only():
    modules = (ROOT / "emosafe_lib").rglob("*.py")
    assert [path.name for path in modules if re.search(r"\.to_(csv|excel)\(", path.read_text())] == ["csv_files.py"]


@every
def test_one_parameters_cell_with_names_only(path):
    tagged = [c for c in json.loads(path.read_text())["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    names = {node.targets[0].id for node in ast.parse("".join(tagged[0]["source"])).body}
    if path.stem in STAGES:
        own = {"model": STAGES[path.stem]["model"], "models": reads_all_models(path.stem)}
        assert names == {"study"} | {name for name, given in own.items() if given}


@every
def test_prose_outweighs_code_and_cells_are_short(path):
    code = [source for source in cells(path, "code") if source.strip()]
    assert len(cells(path, "markdown")) >= len(code) * 0.5
    lengths = sorted(len(source.splitlines()) for source in code)
    assert lengths[len(lengths) // 2] <= 10 and lengths[-1] <= 30


@every
def test_it_asks_a_question_and_ends_with_limits_and_exercises(path):
    prose = cells(path, "markdown")
    assert "?" in prose[0] + prose[1]
    closing = " ".join(prose[-4:]).lower()
    assert "exercise" in closing and "not show" in " ".join(prose[-6:]).lower()


UNESCAPED = re.compile(r"\.style\b|\bStyler\b|to_html\(|escape\s*=\s*False|HTML\(")


@every
def test_80_nothing_that_skips_escaping(path):
    for source in cells(path, "code"):
        assert not UNESCAPED.search(source)


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("table.style", True),
        ("table.style.hide()", True),
        ("Styler(table)", True),
        ("display(HTML(text))", True),
        ("table.to_html()", True),
        ("table.to_html(escape = False)", True),
        ("style.apply()", False),
        ("table.head()", False),
    ],
)
def test_80_a_planted_cell_is_caught_and_a_harmless_one_is_not(source, caught):
    assert bool(UNESCAPED.search(source)) == caught


@every
def test_82_no_cell_puts_a_message_on_the_page_unmasked(path):
    code = [source for source in cells(path, "code") if source.strip()]
    assert [code[cell - 1].splitlines()[line - 1] for cell, line in displayed(code)] == []


LOADED = "merged = rows.read_rows(path)\nrow = merged.iloc[0]\n"
LOADED += "augmented = reinterpretation.reinterpret(merged, params, folder)"
BAD = {
    "printed": 'print("text:", row["text"])',
    "printed by a loop": "for r in merged.itertuples():\n    print(r.text)",
    "in an f-string": "print(f\"read {row['text']!r}\")",
    "shortened": 'row["text"][:40].upper()',
    "under another name": 'message, level = row["text"], row["safety"]\nmessage',
    "a column among others": 'merged.loc[:5, ["safety", "text"]]',
    "a table of its own": "pd.DataFrame([(r.text, r.safety) for r in merged.itertuples()])",
    "whole rows": "merged.sample(5)",
    "rows of an augmentation": "accepted, card = augmented.rows, augmented.card\ndisplay(accepted.head())",
    "rows that are not the package's own": 'other = merged[merged["origin"] != "synthetic"]\nother[["text"]]',
}
GOOD = {
    "masked": 'print(rows.shown(row["text"], row["origin"]), row["safety"])',
    "masked in a table": "pd.DataFrame([(rows.shown(r.text, r.origin), r.safety) for r in merged.itertuples()])",
    "its length": 'len(row["text"]), merged["text"].str.len()',
    "other columns": 'merged[["safety", "source"]].head()',
    "the package's own rows": 'own = merged[merged["origin"] == "synthetic"]\nown[["text", "safety"]]',
    "a count that is called rows": 'packed = by_runtime.loc[task, "onnx"]\nprint(packed.rows)',
    "scores": 'scores = backend.explain(question, row["text"])\nscores',
}


@pytest.mark.parametrize("cell", [*BAD, *GOOD])
def test_82_a_planted_cell_is_caught_and_a_masked_one_is_not(cell):
    assert bool(displayed([LOADED, BAD.get(cell) or GOOD[cell]])) == (cell in BAD)


@every
def test_no_typed_results_in_prose(path):
    for source in cells(path, "markdown"):
        assert not re.search(r"(?i)\b(f1|accuracy|recall|auprc|auc)\s*(of|=|is|was|:)\s*0?\.\d", source)


GLOSSARY = words.glossary()
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def test_the_glossary_explains_each_word_once_in_a_few_sentences():
    text = (ROOT / "notebooks" / "GLOSSARY.md").read_text()
    assert len(GLOSSARY) == text.count("\n### ") > 40
    assert all(len(meaning) < 600 for _, _, meaning in GLOSSARY.values())


@every
def test_links_into_the_glossary_lead_to_a_word(path):
    linked = re.findall(r"GLOSSARY\.md#([\w-]+)", path.read_text())
    assert set(linked) <= set(GLOSSARY)


@pytest.mark.parametrize(("word", "notebook"), [entry[:2] for entry in GLOSSARY.values()])
def test_a_word_of_the_glossary_stands_in_the_notebook_that_it_names(word, notebook):
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(f"{notebook}_"))
    read = " ".join([*cells(path, "markdown"), *cells(path, "code")])
    said = word.lower() in " ".join(LINK.sub(r"\1", read).split()).lower()
    assert said or f"GLOSSARY.md#{words.anchor(word)})" in read
