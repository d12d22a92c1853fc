"""The reference run: nothing private in it, nothing missing from it, and no number in README or prose but its own.

The checks run on a toy reference made here, and on the committed one once there is one.
"""

import html
import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import finished_study
import pandas as pd
import pytest

from emosafe_lib.evaluation import annotators, harmless, identity, paper, readings, use
from emosafe_lib.study import csv_files, paths
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_study
from workflow import reference
from workflow.command import main
from workflow.pages import front_page

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted(path.parent for path in (ROOT / "outputs" / "reference").glob("*/index.html"))
NUMBER = re.compile(r"[-+]?\d+\.\d+")
# Tables hold six digits, sentences three decimals made from all digits: the last one may differ by one.
LAST_DIGIT = 0.00101


@pytest.fixture
def copied(study):
    """The toy reference, made anew."""
    return reference.copy([load_study("toy")])[0]


@pytest.fixture(params=["toy", *(path.name for path in COMMITTED)])
def made(request):
    """The toy reference, and each committed one."""
    return (
        request.getfixturevalue("copied") if request.param == "toy" else ROOT / "outputs" / "reference" / request.param
    )


def committed():
    if not COMMITTED:
        pytest.skip("no reference run is committed yet: make reference")
    return COMMITTED


def test_the_copy_holds_what_a_reader_opens_and_no_rows_and_no_weights(made):
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {"index.html", "results.csv", "claims.json", "data_card.json"} <= names
    assert {
        f"05_scaling_analysis/{name}" for name in ("05_scaling_analysis.ipynb", "headline.csv", "manifest.json")
    } <= names
    assert {Path(name).suffix for name in names} <= {".html", ".ipynb", ".csv", ".json", ".png", ".txt"}
    assert len([name for name in names if name.endswith("manifest.json")]) == len(list(made.rglob("0*.html")))


def test_83_no_page_links_to_what_was_not_copied_and_the_copies_are_light(made):
    beside = [f"../{path.name}/index.html" for path in made.parent.iterdir() if (path / "index.html").is_file()]
    reference.refuse_dead_links(made, beside)
    reference.refuse_weight([made])


def test_81_nothing_in_it_is_private(made):
    reference.refuse_private(made)


def test_nothing_of_it_is_missing_but_what_a_machine_lacks(made):
    for path in made.rglob("manifest.json"):
        reference.refuse_gaps(path.parent.name, json.loads(path.read_text())["not_measured"])
    refused = {"figure": "latency", "check": "a parity", "runtime": "ONNX graphs"}
    for kind, name in (refused | {"precision": "int4", "peer": "llama.cpp"}).items():
        with pytest.raises(StageError, match=f"lacks {name}") if kind in refused else nullcontext():
            reference.refuse_gaps("06_on_device", [{"kind": kind, "name": name, "reason": "ValueError"}])


def test_the_committed_reference_is_light_as_a_whole():
    committed()
    files = [path for path in (ROOT / "outputs" / "reference").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    print(f"{len(files)} files, {total} bytes")
    assert total < reference.MAX_BYTES


def test_82_the_committed_reference_holds_no_text_of_a_real_source(real_data):
    from emosafe_lib.data.sources import registry

    names = load_study("real").data.sources
    texts = [text for name in names if registry.registry()[name].records for text in registry.read(name)["text"]]
    assert len(texts) > 10_000
    for place in committed():
        reference.refuse_texts(place, texts)


PLANTS = {
    "a text of a row": ("05_scaling_analysis/05_scaling_analysis.html", finished_study.LONG_TEXT, "words of a real"),
    "the text in other dress": ("results.csv", finished_study.LONG_TEXT.upper().replace(" ", " , "), "words of a real"),
    "a text in a notebook": ("01_data_merge/01_data_merge.ipynb", finished_study.LONG_TEXT[:60], "words of a real"),
    "a home folder": ("data_card.json", "/home/somebody/data", "a home path"),
    "a folder of this machine": ("results.csv", "/tmp/somewhere/else", "a folder of this machine"),
    "a key": ("claims.json", "sk-" + "a" * 20, "a key"),
    "an address": ("results.csv", "a.person@example.org", "an e-mail address"),
    "a dead link": ("index.html", '<a href="nowhere.html">x</a>', "links to nowhere.html"),
    "a link out of the copy": ("index.html", '<a href="../../x/index.html">x</a>', "which is not copied"),
    "a heavy page": ("index.html", "x" * 3_000_001, "bytes"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_may_not_be_published_stops_the_copy_and_the_earlier_one_stays(study, copied, plant, monkeypatch):
    name, planted, said = PLANTS[plant]
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    kept = (study / name).read_text()
    monkeypatch.setattr(front_page, "write_index", lambda *given, **named: None)
    (study / name).write_text(kept + planted)
    try:
        with pytest.raises(StageError, match=said) as refusal:
            reference.copy([load_study("toy")])
    finally:
        (study / name).write_text(kept)
    assert planted not in str(refusal.value) or plant.startswith("a dead")
    assert before == {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}


def test_where_one_copy_is_refused_the_others_stay_and_their_studies_have_their_own_front_pages_again(study, copied):
    """A copy's front page leads to other copies, which need not stand beside the study."""
    toy, inside = load_study("toy"), copied / "index.html"
    before, last = inside.read_bytes(), inside.stat().st_mtime_ns
    with pytest.raises(StageError, match="outputs/elsewhere: is not there"):
        reference.copy([toy, toy.model_copy(update={"name": "elsewhere"})])
    assert (inside.read_bytes(), inside.stat().st_mtime_ns) == (before, last)
    assert "../elsewhere/" not in (study / "index.html").read_text()
    assert reference.copy([toy, toy]) == [copied], "given by its name and by its path"
    assert inside.read_bytes() == before


def test_a_home_folder_of_a_single_slash_is_not_found_in_every_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    (tmp_path / "page.html").write_text("safe and/or unsafe")
    reference.refuse_private(tmp_path)


def test_the_command_brings_a_study_up_to_date_copies_it_and_writes_readme(study, capfd):
    checkout = paths.project_root()
    (checkout / "README.md").write_text(f"# Toy\n{reference.BEGIN}\n{reference.END}\n")
    assert main(["reference", "--study", "toy", "--cores", "1"]) == 0
    assert capfd.readouterr().out.strip().endswith("outputs/reference/toy")
    assert "| nano-4 |" in (checkout / "README.md").read_text()


def test_together_the_copies_may_not_be_too_heavy(copied, monkeypatch):
    size = sum(path.stat().st_size for path in copied.rglob("*") if path.is_file())
    other = shutil.copytree(copied, copied.with_name("other"))
    try:
        monkeypatch.setattr(reference, "MAX_BYTES", int(1.5 * size))
        with pytest.raises(StageError, match="outputs/reference: would be"):
            reference.copy([load_study("toy")])
    finally:
        shutil.rmtree(other)


def test_words_of_the_package_itself_are_not_taken_for_private_ones(copied):
    notebook = json.loads((ROOT / "notebooks" / "05_scaling_analysis.ipynb").read_text())
    (finished_root := copied.parents[2] / "notebooks" / "prose.ipynb").write_text(json.dumps(notebook))
    prose = "".join(notebook["cells"][0]["source"])
    try:
        reference.refuse_texts(copied, [prose])
    finally:
        finished_root.unlink()


def test_82_words_of_the_offline_writer_are_ours_and_a_language_model_s_are_not(monkeypatch, tmp_path):
    origins = {"origin": ["human", "reinterpretation"], "parent_id": [None, "a"]}
    merged = pd.DataFrame({"id": ["a", "b"], "text": ["theirs", "told anew"], **origins})
    monkeypatch.setattr(reference.rows, "read_rows", lambda *files: merged)
    study = load_study("sample")
    for provider, texts in (("template", ["theirs"]), ("openai", ["theirs", "told anew"])):
        augmentation = study.augmentation.model_copy(update={"provider": provider})
        assert reference.real_texts(tmp_path, study.model_copy(update={"augmentation": augmentation})) == texts


def block_of(readme):
    return readme.split(reference.BEGIN)[1].split(reference.END)[0].strip()


def test_65_readme_is_written_from_the_copy(copied):
    reference.write_readme()
    readme = (copied.parents[2] / "README.md").read_text()
    assert block_of(readme) == reference.readme_block().strip()
    numbers = csv_files.read_csv(copied / "results.csv")
    head = numbers[(numbers["metric"] == "macro_f1") & (numbers["variant"] == "") & (numbers["task"] == "safety")]
    tuned = head[(head["model"] == "nano-4") & (head["setting"] == "fine-tuned")]["value"].iloc[0]
    row = next(line for line in block_of(readme).splitlines() if line.startswith("| nano-4 "))
    assert f"{tuned:.3f}" in row
    assert (copied.parents[2] / re.search(r"\]\((outputs/\S+png)\)", readme).group(1)).is_file()


def test_65_readme_without_its_markers_is_refused(copied, tmp_path):
    (tmp_path / "README.md").write_text("# no markers")
    with pytest.raises(StageError, match="lacks the reference's markers"):
        reference.write_readme(tmp_path / "README.md")


def test_65_every_number_in_the_committed_readme_is_the_artifacts():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert block_of(readme) == reference.readme_block().strip(), "make reference writes it"


def test_65_readme_types_no_result_outside_the_block_and_its_sizes_are_the_models():
    from emosafe_lib.models.capacity import count_parameters
    from emosafe_lib.study.parameters import load_model

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rest = readme.replace(block_of(readme), "")
    assert not re.search(r"(?<![\d.])[01]\.\d{2,}(?![\d.])|\d ?%", rest)
    counted = [count_parameters(load_model(name)) for name in ("nano-1", "nano-4")]
    without, total = ([found[kind] / 1e6 for found in counted] for kind in ("non_embedding", "total"))
    said = "({:.1f} to {:.0f} million parameters without the embeddings, {:.1f} to {:.0f} million with them)"
    assert said.format(*without, *total) in " ".join(rest.split())


def agrees(said: str, computed: str) -> bool:
    """Whether two sentences are the same but for the last digit of their decimals."""
    first, second = (NUMBER.findall(text) for text in (said, computed))
    same = len(first) == len(second) and NUMBER.sub("#", said) == NUMBER.sub("#", computed)
    return same and all(abs(float(a) - float(b)) < LAST_DIGIT for a, b in zip(first, second, strict=True))


def test_a_sentence_agrees_only_with_its_own_numbers():
    assert agrees("It is 0.512 [0.4, 0.6].", "It is 0.513 [0.4, 0.6].")
    assert not agrees("It is 0.512.", "It is 0.522.") and not agrees("It rises in 3.", "It rises in 4.")


def recomputed(place: Path) -> dict[str, str]:
    """Readings of notebook 05 by figure, computed once more from the tables in a copy."""
    folder, numbers = place / "05_scaling_analysis", csv_files.read_csv(place / "results.csv")
    figures = {path.stem: csv_files.read_csv(path) for path in (folder / "figures").glob("*.csv")}
    ranks = pd.read_csv(folder / "ranks.csv").replace("undefined", float("nan"))
    ranks[["low", "high"]] = ranks[["low", "high"]].astype(float)
    sources = set(numbers.loc[numbers["metric"] == "source_macro_f1", "category"])
    found = {
        "score_by_size": readings.score_by_size(ranks),
        "pooled_and_within": readings.pooled_and_within(readings.runs_labelled(numbers), len(sources)),
        "sources_apart": readings.sources_apart(figures["sources_apart"]),
        "score_by_label": readings.score_by_label(figures["score_by_label"]),
    }
    costs = {"inference_flops_per_token": "operations per token", "pretraining_flops": "operations in pre-training"}
    tests = {"size_tests": "size", "setting_tests": "paired", "ablation": "augmentation"}
    optional = {
        name: lambda table, what=what: readings.differences(marked(table), what) for name, what in tests.items()
    }
    optional |= {axis: lambda table, axis=axis: readings.cost(table, axis, costs[axis]) for axis in costs}
    optional |= {"wordings": readings.spreads, "training_rows": readings.budget_curves}
    optional |= {"paper_beside_ours": paper.in_figure}
    optional |= {"use": lambda table: use.abstaining(table[table["panel"] == "risk"])}
    optional |= {"gains_by_label": lambda table: readings.gains_by_label(table.fillna({"category": ""}))}
    optional |= {"harmless_requests": harmless.in_words, "alarms_by_group": alarms_by_group}
    if "one_person" in figures:  # what people agreed on is in no copy, so the sentence's own figures stand for it
        sentence = (folder / "figures" / "one_person.txt").read_text(encoding="utf-8")
        told = re.findall(r"(\w+): alpha (?:at most )?([\d.]+\d)(?:, one person ([\d.]+))?", sentence)
        humans = pd.DataFrame(told, columns=["source", "alpha", "value"]).replace({"value": {"": "nan"}})
        humans = humans.astype({"alpha": float, "value": float})
        optional["one_person"] = lambda table: annotators.in_words(table, humans)
    return found | {name: read(figures[name]) for name, read in optional.items() if name in figures}


def alarms_by_group(table: pd.DataFrame) -> str:
    """The sentence beneath the alarms by group, a part a run."""
    return " ".join(f"*{name}:* {identity.alarms_about(part, 0.95)}" for name, part in table.groupby("run", sort=False))


def marked(table: pd.DataFrame) -> pd.DataFrame:
    """A table of tests with its marks as truth values again."""
    return table.assign(clear=table["clear"].astype(str) == "True")


def test_65_every_sentence_beneath_a_figure_is_what_its_table_says(made):
    said = {path.stem: path.read_text("utf-8").strip() for path in (made / "05_scaling_analysis/figures").glob("*.txt")}
    computed = recomputed(made)
    assert set(said) == set(computed) and len(said) >= 10
    for name, sentence in said.items():
        assert agrees(sentence, computed[name]), (name, sentence, computed[name])


def said(page: str) -> str:
    """A page's source, white space and the spelling of escapes aside."""
    return "".join(html.unescape(page).split())


def test_65_the_front_page_is_what_its_files_say(made):
    text = (made / "index.html").read_text(encoding="utf-8")
    assert said(front_page.results_section(made)) in said(text)
    assert said(front_page.claims_section(made)) in said(text)


def test_65_the_headline_is_what_results_say(made):
    folder = made / "05_scaling_analysis"
    numbers, compared = csv_files.read_csv(made / "results.csv"), csv_files.read_csv(folder / "comparisons.csv")
    compared["p_holm"] = compared["p_holm"].astype(float)
    again = readings.headline_table(numbers, compared).reset_index()
    said = csv_files.read_csv(folder / "headline.csv")
    assert again.shape == said.shape
    for first, second in zip(said.to_numpy().ravel(), again.to_numpy().ravel(), strict=True):
        assert agrees(str(first).removeprefix("'"), str(second)), (first, second)


def test_65_a_changed_number_is_noticed(copied):
    results = copied / "results.csv"
    table = pd.read_csv(results, dtype=str, keep_default_na=False)
    place = (table["metric"] == "macro_f1") & (table["model"] == "nano-4") & (table["setting"] == "fine-tuned")
    table.loc[place & (table["variant"] == ""), "value"] = "0.111"
    before = reference.readme_block()
    table.to_csv(results, index=False)
    assert reference.readme_block() != before
    with pytest.raises(AssertionError):
        test_65_the_headline_is_what_results_say(copied)


def test_the_real_study_belongs_to_it_where_its_data_is_at_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOSAFE_DATA_DIR", str(tmp_path))
    assert reference.has_data("sample") and not reference.has_data("real")
