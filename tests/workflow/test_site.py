"""The rendered study: opens from disk with the network off, fetches nothing, and serves eyes, keys and a phone.

Every page is parsed; some are opened in headless Chromium where it is installed. The same checks run on the committed
reference once there is one.
"""

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import toy
from filelock import FileLock

from emosafe_lib import cli
from emosafe_lib.evaluation.claims import STATEMENTS
from emosafe_lib.study import files
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.stage import begin
from workflow import command, reference
from workflow.pages import answers, front_page, rendering, states, way
from workflow.receipts import PROOF

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
in_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")
COMMITTED = sorted((ROOT / "outputs" / "reference").glob("*/**/*.html"))
PHONE = 375
# The page's own policy, but for the probe that has to run in it: what else it would load, the browser reports.
WATCHED = rendering.POLICY + "; script-src 'unsafe-inline'"
PROBE = """<script>
addEventListener("load", () => {
  const all = [...document.querySelectorAll("*")], page = document.documentElement;
  const stops = [...document.querySelectorAll("a[href], summary, [tabindex]")];
  const slides = e => e.scrollWidth > e.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(e).overflowX);
  parent.postMessage(JSON.stringify({
    width: innerWidth, needed: page.scrollWidth, broken: [...document.images].filter(i => !i.naturalWidth).length,
    unreachable: stops.filter(e => e.tabIndex < 0).length, first: stops[0].textContent,
    stuck: all.filter(e => slides(e) && e.tagName != "PRE" && e.tabIndex < 0).length}), "*");
});
</script>"""
# A window of Chromium is at least 500 pixels wide, a frame in it may be a phone.
FRAME = """<title>nothing</title><script>onmessage = event => { document.title = event.data };</script>
<iframe src="page.html" width="%d" height="800"></iframe>"""


@pytest.fixture
def pages(study):
    """Every page of the toy study, then every page of the committed reference."""
    return [study / "index.html", *sorted(study.rglob("0*.html")), *COMMITTED]


class Page(HTMLParser):
    """What a page promises a reader, as far as its source tells."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.images, self.ids, self.wrong, self.links = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(found)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        if tag in ("script", "iframe", "object", "embed", "link", "form", "video", "audio"):
            self.wrong.append(tag)
        remote = [name for name in ("src", "srcset", "data", "poster", "background") if not local(found.get(name))]
        self.wrong += remote + [name for name in found if name.startswith("on")]
        self.wrong += ["style"] if "url(" in (found.get("style") or "") else []


def local(address):
    return not address or address.startswith("data:image/png;base64,")


def test_83_no_page_refers_to_anything_outside_itself(pages):
    assert len(pages) >= 15
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert Page(text).wrong == [], path.name
        style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
        assert "url(" not in style and "@import" not in style
        assert rendering.POLICY in text, "the browser is told to load nothing either"


def test_pages_are_small(pages):
    sizes = {path.name: path.stat().st_size for path in pages}
    print(f"{len(pages)} pages, {sum(sizes.values())} bytes, largest {max(sizes.values())}")
    assert max(sizes.values()) < reference.MAX_PAGE_BYTES


def test_pages_serve_a_screen_reader(pages):
    for path in pages:
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert '<html lang="en">' in text and 'name="viewport"' in text and "<title>" in text
        assert page.headings[0] == 1 and page.headings.count(1) == 1, path.name
        assert all(later <= earlier + 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
        assert all(image.get("alt", "").strip() for image in page.images), path.name
        assert len(page.ids) == len(set(page.ids)), path.name
        assert set(page.links) >= {"#content"}
        assert text.count("<table") == text.count('tabindex="0"><table'), "every table scrolls by itself, by keyboard"


def test_every_figure_has_its_numbers_and_its_reading(study):
    figures = sorted((study / "05_scaling_analysis" / "figures").glob("*.png"))
    assert {"score_by_size", "score_by_label", "training_rows", "pooled_and_within"} <= {path.stem for path in figures}
    page = (study / "05_scaling_analysis" / "05_scaling_analysis.html").read_text(encoding="utf-8")
    for path in figures:
        assert path.with_suffix(".csv").stat().st_size > 0, path.stem
        reading = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert reading.endswith(".") and reading.count(". ") == 0, "one sentence"
        plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
        assert re.sub(r"\s+", " ", reading) in plain.replace("&#39;", "'").replace("&amp;", "&"), path.stem


def test_one_source_is_not_called_sources(tmp_path):
    (tmp_path / "data_card.json").write_text(json.dumps({"rows": 7, "rows_human": 7, "sources": {"only": {}}}))
    assert "7 rows (7 human) of 1 source<" in front_page.identity_section(tmp_path, [])


def test_what_caps_gave_one_model_is_not_shown_as_every_models_setting():
    def stage(model, **finetuning):
        return "04", model, "done", {"parameters": {"finetuning": finetuning, "model": {"name": model}}}

    stages = [stage("one", ablation=True), stage("two", ablation=True), stage("three", ablation=False)]
    stages += [("01", None, "done", {"parameters": {"data": {"salt": "a"}}}), ("05", None, "missing", {})]
    assert front_page.recorded_parameters(stages) == {
        "finetuning": {"one, two": {"ablation": True}, "three": {"ablation": False}},
        "data": {"salt": "a"},
    }


def test_the_results_name_the_models_whose_settings_are_not_those_of_most(tmp_path):
    settings = {"one": (3.0, None), "two": (3.0, None), "three": (1.0, 200), "left out": (9.0, 1)}
    for model, (epochs, rows) in settings.items():
        finetuning = {"epochs": epochs, "train_rows": rows, "ablation": model == "two"}
        (tmp_path / model / "04").mkdir(parents=True)
        (tmp_path / model / "04" / "manifest.json").write_text(json.dumps({"parameters": {"finetuning": finetuning}}))
    apart = front_page.settings_apart(tmp_path, ["one", "two", "three"])
    assert apart == ["three (finetuning.epochs 1.0, finetuning.train_rows 200)"]


HOSTILE = "<img src=x onerror=alert(1)> \"quoted\" & 'so'"


def test_79_text_of_any_file_stays_text_on_the_front_page(tmp_path):
    facts = dict.fromkeys(("claim", "because", "ladder", "test"), HOSTILE) | {"verdict": "cannot tell"}
    (tmp_path / "claims.json").write_text(json.dumps({f"{name}@{HOSTILE}": facts for name in STATEMENTS}))
    (tmp_path / "data_card.json").write_text(json.dumps({"sha256": HOSTILE, "safety": {}}))
    study = load_study("sample").model_copy(update={"name": HOSTILE, "title": HOSTILE})
    manifest = {
        "seconds": 1,
        "peak_memory_mb": 1,
        "finished": HOSTILE,
        "versions": {HOSTILE: HOSTILE, "machine": HOSTILE},
    }
    stages = [(HOSTILE, HOSTILE, "failed", manifest | {"parameters": {HOSTILE: HOSTILE}})]
    made = front_page.opening(study, tmp_path, stages) + front_page.claims_section(tmp_path)
    made += front_page.stages_section(tmp_path, stages) + front_page.identity_section(tmp_path, stages)
    assert "<img" not in made and html.unescape(made).count("<img src=x") >= 4 * len(STATEMENTS) + 9
    assert Page(rendering.shell(HOSTILE, made, [(HOSTILE, HOSTILE)])).wrong == []


def test_79_templates_escape_by_themselves():
    """Nothing of a page is declared safe in a template but the policy, a constant of ours."""
    sources = {path.name: path.read_text() for path in rendering.FOLDER.glob("*.html")}
    assert len(sources) >= 8 and not any("autoescape" in text for text in sources.values())
    assert [(name, text.count("| safe")) for name, text in sources.items() if "safe }" in text] == [("page.html", 1)]


def test_the_front_page_says_what_was_run(study):
    text = (study / "index.html").read_text(encoding="utf-8")
    manifest = json.loads((study / "05_scaling_analysis" / "manifest.json").read_text())
    card = json.loads((study / "data_card.json").read_text())
    assert "14 of 14" in text and 'class="warning"' not in text
    assert manifest["not_measured"] == [] and "Not measured or drawn" not in text
    assert card["sha256"] in text and manifest["versions"]["torch"] in text and manifest["versions"]["machine"] in text
    assert f"{manifest['versions']['cpus']} CPUs" in text and manifest["finished"][:10] in text
    assert '"resamples": 200' in html.unescape(text) and '"resamples"' not in text
    assert f"of {len(card['sources'])} sources<" in text
    assert text.index("Larger models are stronger") < text.index("A small on-device model")
    assert "within sources" in text and "above the source" in text
    assert "on other data" in text and "MentalRoBERTa" in text


def test_the_front_page_names_what_a_stage_had_to_do_without(tmp_path):
    gap = {"kind": "figure", "name": "latency", "reason": "ValueError"}
    stages = [("06_on_device", None, "done", {"peak_memory_mb": 1, "seconds": 2, "not_measured": [gap]})]
    text = front_page.stages_section(tmp_path, stages)
    assert "Not measured or drawn here: 1" in text and "06_on_device, latency: ValueError" in text


def dead_links(paths):
    """(page, link) of links that lead nowhere, places within pages included."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in paths}
    for path, page in pages.items():
        for link in page.links:
            file, _, place = html.unescape(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            lost = not target.is_file() or (place and place not in pages[target].ids)
            if lost and not re.match(r"[a-z]+:", link):
                yield path.name, link


def test_every_link_of_every_page_leads_somewhere_anchors_included(study):
    pages = [path for path in study.rglob("*.html") if not path.name.startswith(".")]
    assert len(pages) >= 16 and len(Page((study / "index.html").read_text()).links) >= 30
    assert list(dead_links(pages)) == []


def test_the_front_page_answers_on_its_first_screen(study):
    text = (study / "index.html").read_text(encoding="utf-8")
    first = text[: text.index('id="results"')]
    said = re.search(r">(\d) of 5 (?:is|are) supported, (\d) contradicted, (\d) cannot be told", first)
    claims = json.loads((study / "claims.json").read_text())
    assert sum(map(int, said.groups())) == 5 and "Human-authored messages" in first and "400</b> rows of data" in first
    for name, claim in claims.items():
        assert claim["claim"] in html.unescape(first), name
    assert len(re.findall(r"[+-]\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", first)) >= 4
    places = [text.index(f'id="{name}"') for name in ("answer", "results", "notebooks", "claims", "identity")]
    assert places == sorted(places)
    assert all(word in first for word in ("arxiv.org/abs/2509.04512", 'href="readme.html"'))


def test_the_effect_of_a_claim_is_the_number_that_decides():
    gap = {"value": -0.2, "low": None, "high": None}
    claim = {"numbers": {"metric": "f1", "level": [], "smallest": "s", "categories": {"a_b": {"m": gap}}}}
    assert answers.effect_of("tuned_small_is_level", claim) == (
        "-0.200",
        "level in 0 of 1 categories; widest gap in F1, s minus m in a b",
    )
    undefined = {"value": None, "low": None, "high": None}
    known = gap | {"low": -0.3, "high": 0.1}
    claim["numbers"]["categories"] = {"x": {"m": undefined}, "a_b": {"m": known}, "y": {"m": undefined}}
    assert answers.effect_of("tuned_small_is_level", claim)[0] == "-0.200 [-0.300, 0.100]"
    assert answers.effect_of("larger_is_stronger@nano", {"because": "2 sizes have runs"}) == ("", "2 sizes have runs")
    sizes = {"gigabytes": {"float32": 4.99, "int4": 1.05}, "below": ["int4"], "model": "m", "limit": 2.0}
    assert answers.effect_of("fits_two_gigabytes", {"numbers": sizes})[0] == "int4 1.05 GB"


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({}, ""),
        ({"rows_human": 5}, "Human-authored messages"),
        ({"rows_synthetic": 5}, "Synthetic sample, written for this package"),
        ({"rows_human": 5000, "rows_synthetic": 7}, "Human-authored messages (5,000; 7 more are synthetic)"),
    ],
)
def test_the_front_page_says_who_wrote_the_messages(card, said):
    assert front_page.origin_line(card) == said


def test_a_front_page_stands_beside_another_and_leads_to_it(study):
    beside = study.parent / "mine"
    beside.mkdir()
    (beside / "index.html").write_text("")
    try:
        assert 'href="../mine/index.html"' in front_page.page(load_study("toy"))
        assert "../mine" not in front_page.page(load_study("toy"), others=[])
    finally:
        (beside / "index.html").unlink()
        beside.rmdir()


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The outputs of a toy study of which nothing has run."""
    toy.checkout(tmp_path / "checkout")
    monkeypatch.setenv("EMOSAFE_ROOT", str(tmp_path / "checkout"))
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "outputs" / "toy" / "logs").mkdir(parents=True)
    return tmp_path / "outputs" / "toy"


def test_a_page_is_written_whatever_happened_and_says_what_is_missing(begun):
    begin("01_data_merge", "toy").finish()
    failed = toy.notebook("02_chatgpt_augmentation", "x")
    failed.cells[1].execution_count = 1
    error = nbformat.v4.new_output(
        "error", ename="ParameterError", evalue="a.yaml: 'x' is wrong; mend it", traceback=[]
    )
    failed.cells[2].outputs = [error]
    nbformat.write(failed, begun / "logs" / "02_chatgpt_augmentation.ipynb")
    text = front_page.write_index(load_study("toy")).read_text()
    assert "0 of 8</b> stages done" in text and "8 of 8 stages.</b>" in text
    assert "01_data_merge (run by hand): in JupyterLab" in text
    assert "02_chatgpt_augmentation (failed): cell 2 failed: ParameterError: a.yaml: " in html.unescape(text)
    assert "04_lora_finetuning nano-2, 05_scaling_analysis, 06_on_device (not run)" in text
    pages = list(begun.rglob("*.html"))
    assert len(pages) == 9 and list(dead_links(pages)) == []
    stub = (begun / "nano-2" / "04_lora_finetuning" / "04_lora_finetuning.html").read_text()
    assert "make stage STAGE=04_lora_finetuning STUDY=toy MODELS=nano-2" in stub


def test_a_stage_that_failed_and_was_then_run_by_hand_is_no_failure_any_more(begun):
    nbformat.write(toy.notebook("01_data_merge", "x"), begun / "logs" / "01_data_merge.ipynb")
    study = load_study("toy")
    assert states.state(study, "01_data_merge", None)[0] == "failed"
    begin("01_data_merge", "toy").finish()
    assert states.state(study, "01_data_merge", None)[0] == "run by hand"
    os.utime(begun / "logs" / "01_data_merge.ipynb")
    assert states.state(study, "01_data_merge", None)[0] == "failed", "it failed once more"


@pytest.mark.parametrize("left", ["", "{", "{}"])
def test_a_notebook_that_was_cut_short_is_a_failed_stage(begun, left):
    (begun / "logs" / "06_on_device.ipynb").write_text(left)
    (begun / "data_card.json").write_text("{")
    assert "06_on_device (failed): it was stopped" in front_page.write_index(load_study("toy")).read_text()


def test_a_stage_that_was_refused_before_it_began_was_not_run_by_hand(begun):
    """The engine has removed its receipt by then; the copy beside it stays."""
    begin("01_data_merge", "toy").finish()
    folder = begun / "01_data_merge"
    files.write_json(folder / PROOF, {"manifest": files.file_sha256(folder / "manifest.json")})
    assert states.state(load_study("toy"), "01_data_merge", None)[0] == "stale"


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("/home/somebody/x: no such file; name another", "…/x: no such file; name another"),
        (
            "m: revision main is not below /scratch/who/hub/snapshots; go",
            "m: revision main is not below …/snapshots; go",
        ),
        ("C:\\Users\\who\\a.dll: bad; see https://a.b/c/d", "…/a.dll: bad; see https://a.b/c/d"),
        ("ask somebody@example.org; or not", "see logs/06_on_device.ipynb"),
    ],
)
def test_why_a_stage_failed_never_shows_a_folder_of_this_machine(begun, shown, told):
    failed = toy.notebook("06_on_device", "x")
    failed.cells[1].outputs = [nbformat.v4.new_output("error", ename="ParameterError", evalue=shown, traceback=[])]
    nbformat.write(failed, begun / "logs" / "06_on_device.ipynb")
    reason = states.reason(load_study("toy"), "06_on_device", None, "failed")
    assert reason == told or reason.endswith(f": {told}")


def test_a_gap_never_shows_a_folder_of_this_machine(begun):
    gap = {"kind": "precision", "name": "int8", "reason": "OSError: /home/who/lib/x.so: cannot open"}
    facts = {"seconds": 1.0, "peak_memory_mb": 1, "not_measured": [gap]}
    text = front_page.stages_section(begun, [("06_on_device", None, "done", facts)])
    assert "OSError: …/x.so: cannot open" in text and "who" not in text


def test_a_study_that_stops_leaves_its_front_page(begun, monkeypatch, capsys):
    monkeypatch.setattr(command, "run_study", lambda *given: 1)
    assert command.main(["study", "--study", "toy"]) == 1
    assert (begun / "index.html").is_file() and "shows what there is" in capsys.readouterr().out


def test_a_page_by_hand_is_refused_for_a_model_that_is_none_and_while_a_run_is_at_work(begun, capsys):
    for name, why in (("nano-9", "no such file"), ("../escape", "is not a name")):
        assert cli.main(["run", "index", "--study", "toy", "--models", name]) == 1
        assert why in capsys.readouterr().err
    assert sorted(begun.parent.iterdir()) == [begun]
    with FileLock(begun / ".lock"):
        assert cli.main(["run", "index", "--study", "toy"]) == 1
    assert "toy: another run is at work here; " in capsys.readouterr().err and not (begun / "index.html").exists()
    assert cli.main(["run", "index", "--study", "toy"]) == 0
    assert capsys.readouterr().out.strip() == str(begun / "index.html")


@pytest.mark.parametrize("claims", [{"unknown": {}}, {"larger_is_stronger": 1}, {"larger_is_stronger": {"claim": "x"}}])
def test_claims_of_another_version_are_an_error_in_a_line(begun, claims, capsys):
    files.write_json(begun / "claims.json", claims)
    assert cli.main(["run", "index", "--study", "toy"]) == 1
    said = capsys.readouterr().err
    assert said == "error: claims.json: is of another version of emosafe; run notebook 05 again\n"


def test_a_page_leads_to_those_before_and_after_it():
    assert way.neighbours("01_data_merge", None) == {
        "next": ("../02_chatgpt_augmentation/02_chatgpt_augmentation.html", "02 ChatGPT augmentation")
    }
    found = way.neighbours("03_prompting_baselines", "nano-1")
    assert found["previous"][0] == "../../02_chatgpt_augmentation/02_chatgpt_augmentation.html"
    assert found["next"] == ("../../nano-1/04_lora_finetuning/04_lora_finetuning.html", "04 LoRA finetuning, nano-1")
    assert way.neighbours("05_scaling_analysis", None)["previous"][0] == "../index.html#04_lora_finetuning"


def test_85_a_stale_stage_gets_a_banner_and_its_page_stays(study):
    changed = load_study("toy")
    changed = changed.model_copy(update={"analysis": changed.analysis.model_copy(update={"margin": 0.1})})
    text = front_page.write_index(changed).read_text()
    assert 'class="warning"' in text and "05_scaling_analysis, 06_on_device (stale)" in text
    assert 'href="05_scaling_analysis/05_scaling_analysis.html"' in text
    assert 'class="warning"' not in front_page.write_index(load_study("toy")).read_text()


def test_85_a_failed_stage_gets_a_banner_and_its_earlier_page_stays(study):
    receipt, left = study / "06_on_device" / "receipt.json", study / "logs" / "06_on_device.ipynb"
    kept = receipt.read_text()
    receipt.unlink()
    left.write_text("{}")
    try:
        text = front_page.write_index(load_study("toy")).read_text()
        assert "06_on_device (failed)" in text and 'href="06_on_device/06_on_device.html"' in text
        with pytest.raises(StageError, match="06_on_device: is failed"):
            reference.copy([load_study("toy")])
    finally:
        receipt.write_text(kept)
        left.unlink()
        front_page.write_index(load_study("toy"))


def browse(text, folder, width):
    """Open a page in Chromium with the network off, in a frame; what the probe saw, and the lines on the console."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{WATCHED}">'
    watched = (
        text.replace(rendering.POLICY, WATCHED)
        if rendering.POLICY in text
        else text.replace("<body>", policy + "<body>")
    )
    (folder / "page.html").write_text(watched.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % width, encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1200,900"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=300, check=False
    )
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, f"the probe said nothing (exit {done.returncode})"
    return json.loads(title.group(1)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def some_of(pages):
    """The front page, notebook 05 and one small page of the toy study; every committed page."""
    return [*(pages[i] for i in (0, 1)), *(p for p in pages[2:] if p.stem.startswith("05") or p in COMMITTED)]


@in_chromium
def test_in_a_browser_nothing_is_fetched_nothing_complains_and_a_phone_needs_no_sideways_scrolling(pages, tmp_path):
    looked = some_of(pages)
    complaints = 0
    for path in looked:
        seen, console = browse(path.read_text(encoding="utf-8"), tmp_path, PHONE)
        complaints += len(console)
        assert console == [], path.name
        assert seen["width"] == PHONE and seen["needed"] <= PHONE, (path.name, seen)
        assert seen["broken"] == seen["unreachable"] == seen["stuck"] == 0, (path.name, seen)
        assert seen["first"] == "Skip to the content"
    print(f"{len(looked)} pages opened in Chromium, {complaints} lines on the console")


@in_chromium
def test_the_browser_check_notices_what_it_looks_for(tmp_path):
    bad = (
        '<html><body><a href="#x">Skip</a><p style="width:900px">wide</p><img src="https://example.org/a.png">'
        '<div style="overflow-x:auto"><p style="width:2000px">x</p></div></body></html>'
    )
    seen, console = browse(bad, tmp_path, PHONE)
    assert len(console) == 1 and "example.org" in console[0]
    assert seen["needed"] > PHONE and seen["broken"] == 1 and seen["first"] == "Skip"
    assert browse(bad.replace("<img", "<b").replace("900px", "100px"), tmp_path, PHONE)[1] == []
