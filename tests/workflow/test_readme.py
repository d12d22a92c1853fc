"""README and its neighbours: each command in them is one, each link leads somewhere, and what they quote is said.

A reader types what stands there. Without a network a command is followed as far as its arguments: `make -n` says what
would run, and the parser of that command takes it or not.
"""

import json
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from emosafe_lib import cli
from emosafe_lib.data import merge
from emosafe_lib.data.sources import fetch
from emosafe_lib.evaluation import compare_studies
from emosafe_lib.study import settings
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.stage import STAGES
from workflow import command, forecast
from workflow.pages.words import anchor

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "TROUBLESHOOTING.md", "CONTRIBUTING.md", "params/README.md", "outputs/README.md")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)|^(?:\.venv[/\\]\w+[/\\])?((?:make|emosafe) [^\n]*)$", re.MULTILINE)
PROSE = "is a course"
WORDS_A_MINUTE, CODE_LINES_A_MINUTE, EXERCISES_MINUTES = 120, 15, 36


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(word):
    """Everything in the pages that a reader may type and that begins with `word`, without its comment."""
    found = [first or second for name in PAGES[:2] + PAGES[3:4] for first, second in CODE.findall(text_of(name))]
    lines = [part.strip() for line in found for part in line.split("#")[0].split("&&")]
    lines = [re.sub(r"^(\.venv\S*[/\\]|\w+=\S* )+", "", line) for line in lines]
    return sorted(
        {line for line in lines if line.split()[:1] == [word] and len(line.split()) > 1 and PROSE not in line}
    )


def anchors(text):
    return {anchor(title.strip()) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere_anchors_included(name):
    for link in [*LINK.findall(text_of(name)), *(address for _, address in PICTURE.findall(text_of(name)))]:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, place = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        assert not place or place in anchors(target.read_text(encoding="utf-8")), link


def test_the_first_screen_has_a_picture_for_whom_it_is_and_the_way_of_the_data():
    top = text_of("README.md").split("## The course")[0]
    assert all(alt for alt, _ in PICTURE.findall(top)) and len(PICTURE.findall(top)) == 1
    assert all(word in top for word in ("Who it is for", "What you need to know", "What it takes", "make study"))
    assert "▶ 01 merge" in top and len(top.split()) < 650


class Parsed(Exception):
    """Raised in place of the work that would follow."""


def stop(*given, **named):
    raise Parsed


@pytest.fixture
def only_arguments(monkeypatch):
    """Commands read their arguments, load their parameter files, and do nothing."""
    for place, name in (
        (command, "run_study"),
        (command, "page_alone"),
        (forecast, "report"),
        (fetch, "fetch"),
        (compare_studies, "compare_studies"),
    ):
        monkeypatch.setattr(place, name, stop)


def follow(arguments):
    """Hand arguments to `emosafe` up to where its work would begin, and load what they name."""
    given = shlex.split(arguments)
    if given[0] in ("classify", "onnx", "train", "params"):
        return
    with suppress(Parsed):
        assert cli.main(given) == 0
    for word, load in (("--study", load_study), ("--models", load_model)):
        for name in given[given.index(word) + 1].split() if word in given else ():
            assert name == "mine" or load(name).name == name


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
@pytest.mark.parametrize("line", commands("make"))
def test_what_make_is_asked_for_is_a_target_and_its_command_takes_the_arguments(line, only_arguments):
    wanted = shlex.split(line.replace("…", "x"))
    done = subprocess.run([*wanted, "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said in re.findall(r"emosafe_lib\.cli (.*)", done.stdout):
        if "--editable" not in said and "reference" not in said:
            follow(said)


@pytest.mark.parametrize("line", commands("emosafe"))
def test_what_emosafe_is_asked_for_is_a_command_and_takes_the_arguments(line, only_arguments):
    name = line.split()[1]
    assert name in cli.COMMANDS
    if name == "run" or len(line.split()) > 2:
        follow(line.removeprefix("emosafe "))


def test_help_lists_what_a_reader_is_told_to_run(capsys):
    told = {line.split()[2] for line in commands("emosafe") if line.split()[1] == "run"}
    assert "plan" in told
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert told <= set(re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE))


def test_there_are_commands_to_follow():
    assert len(commands("make")) >= 12 and len(commands("emosafe")) >= 7


def test_what_stands_below_without_make_are_files_of_the_checkout():
    for name in re.findall(r"-r (?:\.\./)?([\w.-]+)|-f ([\w.-]+)|sync ([\w.-]+)`", text_of("TROUBLESHOOTING.md")):
        assert (ROOT / next(filter(None, name))).is_file()


def test_the_settings_that_are_named_exist():
    known = {path for schema in settings.FILES for path in settings.settings_of(schema)}
    named = re.findall(r"`([a-z_]+\.[a-z_.]+)`", text_of("TROUBLESHOOTING.md"))
    assert len(named) >= 2
    assert {name for name in named if not name.endswith((".md", ".yml", ".lock", ".csv"))} <= known


def test_every_error_that_is_explained_is_one_that_is_said():
    said = "".join(
        path.read_text(encoding="utf-8") for room in ("emosafe_lib", "workflow") for path in (ROOT / room).rglob("*.py")
    )
    said = " ".join((said + text_of("Makefile")).replace('\\"', '"').split())
    rows = re.findall(r"^\| (`.*?) \| .* \| .* \|$", text_of("TROUBLESHOOTING.md").split("| it says")[1], re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(rows) >= 10 and len(quoted) >= len(rows)
    for text in quoted:
        if "did you mean" in text:  # `test_settings` has it to the letter
            continue
        for part in re.split("…|[;:] ", text):
            assert part.strip() in said, (text, part)


def own_data_block():
    section = text_of("params/README.md").split("## Your own data")[1].split("\n## ")[0]
    return re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]


def test_own_data_as_written_is_merged(tmp_path, monkeypatch):
    (tmp_path / "params" / "study").mkdir(parents=True)
    shutil.copytree(ROOT / "params" / "models", tmp_path / "params" / "models")
    (tmp_path / "data").mkdir()
    written = tmp_path / "params" / "study" / "mine.yaml"
    written.write_text(own_data_block())
    levels = ("safe", "borderline", "unsafe")
    rows = [f"message number {n} is about word{n} and thing{n * 7},{levels[n % 3]}" for n in range(60)]
    (tmp_path / "data" / "mine.csv").write_text("\n".join(["text,safety", *rows]))
    monkeypatch.setenv("EMOSAFE_ROOT", str(tmp_path))
    study = load_study("mine")
    merged = merge.merge(study.data).rows
    assert (merged["source"] == "mine").sum() == 60 and len(merged) > 1000
    assert all(load_model(name) for name in study.models)


def test_the_course_names_every_notebook_with_its_hours():
    table = text_of("README.md").split("## The course")[1]
    told = dict(re.findall(r"^\| `(\w+)` \| .*? \| (\S+) \|", table, re.MULTILINE))
    found = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert told.keys() == found.keys() and told.keys() > STAGES.keys()
    for name, path in found.items():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = sum(len("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown")
        lines = sum(len("".join(cell["source"]).splitlines()) for cell in cells if cell["cell_type"] == "code")
        hours = (prose / WORDS_A_MINUTE + lines / CODE_LINES_A_MINUTE + EXERCISES_MINUTES) / 60
        assert abs(float(told[name].replace("½", ".5")) - hours) <= 0.3, (name, hours)
