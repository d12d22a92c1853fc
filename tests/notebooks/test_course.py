"""The course teaches in the open: each notebook calls what the field calls, in cells that can be taken in, and every
exercise can be solved and is checked.
"""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from course import FIRST_CELL, NOTEBOOKS, SOLUTIONS, called, cells, code_of, imported

from emosafe_lib.finetuning.plan import RECIPE
from emosafe_lib.study.stage import STAGES
from emosafe_lib.teaching.exercises import ROOMS
from workflow.execute import execute_notebook

# What a notebook must do in the open, once: the packages that it imports and the names that it calls.
OPEN = {
    "00": (
        {"sklearn", "torch", "transformers", "seaborn"},
        {"TfidfVectorizer", "LogisticRegression", "from_pretrained", "cross_entropy", "apply_chat_template", "f1_score"}
        | {"log_softmax", "heatmap"},
    ),
    "01": ({"datasets", "seaborn"}, {"Features", "ClassLabel", "map", "filter", "DatasetDict"}),
    "02": ({"openai"}, {"OpenAI", "create"}),
    "03": (
        {"torch", "transformers", "sklearn"},
        {"from_pretrained", "apply_chat_template", "log_softmax", "f1_score"},
    ),
    "04": (
        {"datasets", "peft", "transformers", "torch"},
        {"map", "DataCollatorWithPadding", "LoraConfig", "get_peft_model", "print_trainable_parameters"}
        | {"TrainingArguments", "Trainer", "train", "save_pretrained", "merge_and_unload"},
    ),
    "05": ({"sklearn", "seaborn", "numpy"}, {"f1_score"}),
    "06": ({"torch", "onnxruntime"}, {"device", "export", "InferenceSession"}),
    "A1": ({"torch", "transformers"}, {"LlamaConfig", "backward", "step"}),
}


def number_of(path):
    return path.stem.split("_")[0]


def named(paths):
    return pytest.mark.parametrize("path", list(paths), ids=lambda path: path.stem)


every, solution = named(NOTEBOOKS), named(SOLUTIONS)


@every
def test_what_the_field_uses_is_called_in_the_open(path):
    packages, names = OPEN[number_of(path)]
    assert packages <= imported(code_of(path))
    assert names <= called(code_of(path))


@every
def test_a_cell_can_be_taken_in_at_a_glance(path):
    lengths = sorted(len(source.splitlines()) for source in code_of(path))
    assert lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 25


@named(path for path in NOTEBOOKS if number_of(path) != "00")
def test_a_cell_asserts_that_the_open_way_and_the_library_s_agree(path):
    assert any("assert " in source and "difference" in source for source in code_of(path))


def test_the_open_training_run_is_the_same_one_in_every_study():
    """A study's setting that reached it would make two runs of what its cells compare as one."""
    (path,) = (path for path in NOTEBOOKS if number_of(path) == "04")
    (cell,) = (source for source in code_of(path) if source.count("short = {"))
    given = next(
        ast.literal_eval(node.value)
        for node in ast.parse(cell).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and node.targets[0].id == "short"
    )
    assert {*RECIPE, "repeats"} - {"early_stopping_patience"} <= set(given)  # one pass has nothing to stop early


@every
def test_library_source_is_printed_once_at_most(path):
    assert sum("getsource" in source for source in code_of(path)) <= 1


@every
def test_three_exercises_each_with_a_check_and_a_folded_hint(path):
    asked = re.findall(r'\bcheck\(\s*"(\w+\.\d)"', "\n".join(code_of(path)))
    assert asked == [f"{number_of(path)}.{place}" for place in (1, 2, 3)]
    assert "\n".join(cells(path, "markdown")).count("<details><summary>Hint") >= 3


@named(path for path in NOTEBOOKS if path.stem in STAGES)
def test_a_stage_shows_what_its_parameters_come_to_and_ends_with_its_finish(path):
    code = code_of(path)
    assert re.search(r"stage\.begin\(.*\)\n+run\.parameters\s*$", code[1]) or code[2].strip() == "run.parameters"
    assert "run.finish(" in code[-1] and not code[-1].rstrip().endswith(";")


@every
def test_the_first_cell_is_the_same_in_all(path):
    assert cells(path, "code")[0] == FIRST_CELL


def test_the_first_cell_does_nothing_where_the_library_is(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", "import emosafe_lib\n" + FIRST_CELL + "\nprint(os.getcwd())"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert told.stdout.strip() == str(tmp_path) and not told.stderr and not list(tmp_path.iterdir())


# Python without this environment's packages and without the checkout, as on a machine that has never seen emosafe.
BARE = [sys.executable, "-S", "-c"]


def bare(code, folder, **environment):
    return subprocess.run([*BARE, code], capture_output=True, text=True, cwd=folder, env=environment, timeout=60)


def test_elsewhere_it_asks_for_the_address_in_one_line(tmp_path):
    told = bare(FIRST_CELL, tmp_path, PATH="/usr/bin:/bin")
    assert told.returncode and told.stderr.splitlines()[-1].startswith("ModuleNotFoundError: emosafe_lib is not here: ")
    assert "%env EMOSAFE_REPOSITORY=" in told.stderr.splitlines()[-1]


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_elsewhere_it_clones_installs_and_goes_on(tmp_path):
    """The clone is a small repository of this machine, whose installer leaves a note in place of asking an index."""
    source = tmp_path / "source"
    (source / "emosafe_lib" / "study").mkdir(parents=True)
    (source / "notebooks").mkdir()
    (source / "notebooks" / "GLOSSARY.md").write_text("words")
    (source / "emosafe_lib" / "study" / "hosted.py").write_text("open('installed', 'w').close()")
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *step], check=True)
    (tmp_path / "there").mkdir()
    again = "\nimport emosafe_lib; print(os.path.basename(os.getcwd()), os.path.exists('../installed'))"
    for _ in range(2):  # a kernel that was started anew finds its clone
        told = bare(FIRST_CELL + again, tmp_path / "there", PATH="/usr/bin:/bin", EMOSAFE_REPOSITORY=str(source))
        assert told.stdout.strip() == "notebooks True", told.stderr


def test_every_notebook_has_its_worked_solutions_and_its_checks():
    assert set(ROOMS) == {number_of(path) for path in NOTEBOOKS} == {number_of(path) for path in SOLUTIONS}


@solution
def test_solutions_solve_all_three_exercises_by_assertion(path):
    asserting = [
        source for source in cells(path, "code") if re.search(r"^assert (verdict|check\b)", source, re.MULTILINE)
    ]
    solved = re.findall(r'\bcheck\(\s*"(\w+\.\d)"', "\n".join(asserting))
    assert sorted(set(solved)) == [f"{number_of(path)}.{place}" for place in (1, 2, 3)]


def execute(path, tmp_path, monkeypatch):
    """Run a notebook of no stage through papermill, with empty outputs."""
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(tmp_path / "outputs"))
    execute_notebook(path, tmp_path / path.name, {}, path.stem, minutes=20)
    assert not (tmp_path / "outputs").exists(), "it must neither need nor make outputs"
    return tmp_path / path.name


@pytest.mark.slow
@solution
def test_worked_solutions_pass_their_checks(path, tmp_path, monkeypatch):
    execute(path, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_first_look_runs_with_its_exercises_open(tmp_path, monkeypatch):
    (path,) = (path for path in NOTEBOOKS if number_of(path) == "00")
    said = execute(path, tmp_path, monkeypatch).read_text()
    assert all(f"{number}: not answered yet" in said for number in ("00.1", "00.2", "00.3"))
    assert '"name": "stderr"' not in said
