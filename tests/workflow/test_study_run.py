"""Whole studies through Snakemake on toy notebooks: order, reruns, failures, locks, no text on a page."""

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import toy

from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_study
from workflow import command, reference
from workflow.pages import states

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which a study, given by its path, ran to its front page: checkout, parameters, outputs, and the run."""
    place = tmp_path_factory.mktemp("ran")
    toy.checkout(place / "checkout")
    (place / "mine.yaml").write_text(toy.STUDY.replace("name: toy", "name: mine"))
    with pytest.MonkeyPatch.context() as patch:
        here = pointed(patch, place)
        here.run = study("--models", "nano-1 minilm", name=here.study, until="")
    assert here.run.returncode == 0, here.run.stdout
    return here


@pytest.fixture
def finished(ran, tmp_path, monkeypatch):
    """A copy of that folder, to which a test may do what it likes; a study that has moved is finished all the same."""
    return pointed(monkeypatch, shutil.copytree(ran.place, tmp_path / "moved"))


def pointed(patch, place):
    """Let library and runner use the checkout and the outputs below a folder; its parts by their names."""
    toy.point_to(patch, place)
    return SimpleNamespace(
        place=place, checkout=place / "checkout", study=place / "mine.yaml", base=place / "outputs" / "mine"
    )


def study(*arguments, wait=True, name="toy", until="05_scaling_analysis"):
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "study", "--study", str(name), "--until", until]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": os.environ.copy()}
    if not wait:
        return subprocess.Popen([*command, *arguments], **options)
    return subprocess.run([*command, *arguments], **options, timeout=300)


def in_order(run):
    return [line.removesuffix(": started").strip() for line in run.stdout.splitlines() if "started" in line]


def started(run):
    return sorted(in_order(run))


def test_a_study_by_its_path_runs_in_order_analyses_the_models_that_the_run_names_and_ends_with_its_index(ran):
    assert "steps (100%) done" in ran.run.stdout
    order, pairs = in_order(ran.run), ("03_prompting_baselines", "04_lora_finetuning")
    assert order[:2] == ["01_data_merge", "02_chatgpt_augmentation"]
    assert sorted(order[2:6]) == sorted(f"{stage} {name}" for stage in pairs for name in ("nano-1", "minilm"))
    assert order[6:] == ["05_scaling_analysis", "06_on_device"]
    for stage in order[6:]:
        manifest = json.loads((ran.base / stage / "manifest.json").read_text())
        assert manifest["parameters"]["models"] == ["nano-1", "minilm"]
    assert (ran.base / "index.html").is_file()


def test_what_has_finished_runs_no_more_and_a_front_page_that_is_gone_is_written(finished):
    loaded, models = load_study(finished.study), ["nano-1", "minilm"]
    pairs = states.expected_stages(loaded, models)
    assert {states.state(loaded, stage, model, models)[0] for stage, model in pairs} == {"done"} and len(pairs) == 8
    assert started(study("--models", "nano-1 minilm", name=finished.study, until="")) == []
    front = finished.base / "index.html"
    front.unlink()
    assert started(study("--models", "nano-1 minilm", name=finished.study, until="")) == [] and front.is_file()
    assert command.main(["index", "--study", str(finished.study), "--models", "nano-1"]) == 0
    assert "(stale)" in front.read_text()
    assert started(study("--models", "nano-1 minilm", name=finished.study, until="")) == []
    assert "(stale)" not in front.read_text(), "a page for some models stayed"
    fewer = study("--models", "nano-1", name=finished.study, until="")
    assert started(fewer) == ["05_scaling_analysis", "06_on_device"]


def test_76_a_change_reruns_only_what_depends_on_it(finished):
    finished.study.write_text(finished.study.read_text() + "finetuning: {epochs: 2}\n")
    changed = study("--models", "nano-1", name=finished.study)
    assert started(changed) == ["04_lora_finetuning nano-1", "05_scaling_analysis"]
    toy.write(finished.checkout, "02_chatgpt_augmentation", 'run.out("more.txt").write_text("new")')
    upstream = study("--models", "nano-1", name=finished.study)
    assert len(started(upstream)) == 4 and "01_data_merge" not in started(upstream)


def test_72_a_killed_kernel_fails_the_study_names_the_stage_and_the_next_run_goes_on(finished):
    analysis = finished.base / "05_scaling_analysis" / "manifest.json"
    before = analysis.read_text()
    toy.write(finished.checkout, "04_lora_finetuning", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    failed = study("--models", "nano-1", name=finished.study)
    assert failed.returncode != 0 and started(failed) == ["04_lora_finetuning nano-1"]
    assert "error: 04_lora_finetuning nano-1" in failed.stdout
    assert analysis.read_text() == before
    assert "04_lora_finetuning nano-1 (failed)" in (finished.base / "index.html").read_text()
    assert (finished.base / "nano-1" / "03_prompting_baselines" / "receipt.json").is_file()
    toy.write(finished.checkout, "04_lora_finetuning", toy.BODY["04_lora_finetuning"])
    repaired = study("--models", "nano-1", name=finished.study)
    assert repaired.returncode == 0
    assert started(repaired) == ["04_lora_finetuning nano-1", "05_scaling_analysis"]


def test_a_front_page_that_cannot_be_made_leaves_the_last_one(finished):
    front = finished.base / "index.html"
    before = front.read_bytes()
    toy.write(finished.checkout, "06_on_device", "(run.base / 'claims.json').write_text('{\"unknown\": 1}')")
    assert study("--models", "nano-1 minilm", name=finished.study, until="").returncode != 0
    assert front.read_bytes() == before


def test_a_study_with_a_served_model_finishes_without_fine_tuning_it(finished):
    facts = {"name": "served", "family": "llama", "weights": "hub", "path": "m", "backend": "openai"}
    (finished.checkout / "params" / "models" / "served.yaml").write_text(json.dumps(facts))
    run = study("--models", "served", name=finished.study)
    assert run.returncode == 0, run.stdout
    assert started(run) == ["03_prompting_baselines served", "05_scaling_analysis"]
    assert started(study("--models", "served", name=finished.study)) == []


def test_the_largest_model_starts_first_and_trains_before_it_is_asked(finished):
    """Started last, its stages would keep one core busy and leave the others idle."""
    shutil.rmtree(finished.base / "minilm")
    run = study("--models", "minilm nano-2 nano-4", "--cores", "1", name=finished.study)
    stages = ("04_lora_finetuning", "03_prompting_baselines")
    assert in_order(run)[:-1] == [f"{stage} {name}" for name in ("minilm", "nano-4", "nano-2") for stage in stages]


def test_a_study_and_a_model_whose_names_yaml_takes_for_numbers_run_under_them(checkout, outputs):
    params = checkout / "params"
    (params / "study" / "007.yaml").write_text(toy.STUDY.replace("name: toy", "name: 007"))
    model = (params / "models" / "nano-1.yaml").read_text().replace("name: nano-1", "name: 1e3")
    (params / "models" / "1e3.yaml").write_text(model)
    run = study("--models", "1e3", name="007", until="03_prompting_baselines")
    assert run.returncode == 0, run.stdout
    manifest = json.loads((outputs / "007" / "1e3" / "03_prompting_baselines" / "manifest.json").read_text())
    assert (manifest["study"], manifest["model"], manifest["parameters"]["model"]["name"]) == ("007", "1e3", "1e3")


def test_two_runners_of_one_study_do_not_meet(checkout, outputs):
    go, only = checkout / "go", "01_data_merge"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.1)\n"
    toy.write(checkout, only, waits + toy.BODY[only])
    first = study("--models", "nano-1", wait=False, until=only)
    deadline = time.monotonic() + 20
    while not (outputs / "toy" / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    second = study("--models", "nano-1", until=only)
    go.touch()
    assert second.returncode == 1 and "another run is at work here" in second.stdout
    first.communicate(timeout=120)
    assert first.returncode == 0


def test_folders_with_spaces_and_a_study_by_its_relative_path(tmp_path, monkeypatch):
    place = tmp_path / "my work"
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(place / "toy")))
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(place / "outputs"))
    (place / "mine.yaml").write_text(toy.STUDY.replace("name: toy", "name: mine"))
    (place / "venv").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(place / "venv" / "bin" / "python"))
    monkeypatch.chdir(place)
    run = study(name="mine.yaml", until="02_chatgpt_augmentation")
    assert run.returncode == 0, run.stdout
    assert (place / "outputs" / "mine" / "02_chatgpt_augmentation" / "receipt.json").is_file()


def test_an_unknown_model_stops_before_anything_runs(checkout, outputs):
    refused = study("--models", "nano-9")
    assert refused.returncode == 1 and "nano-9.yaml: no such file" in refused.stdout
    assert not (outputs / "toy" / "01_data_merge").exists()


def test_a_model_by_its_path_is_refused_since_outputs_are_named_by_models(checkout, outputs):
    refused = study("--models", str(checkout / "params" / "models" / "nano-1.yaml"))
    assert refused.returncode == 1 and "put it into params/models" in refused.stdout


def test_82_nothing_that_a_reader_of_a_finished_study_opens_holds_words_of_a_row(finished_root, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOSAFE_ROOT", str(finished_root / "checkout"))
    base = finished_root / "outputs" / "toy"
    texts = reference.real_texts(base, load_study("toy"))
    assert len(texts) == 400 and all(map(reference.shingles, texts))
    opened = [path for path in base.rglob("*") if path.suffix in {".html", ".ipynb", ".csv", ".json", ".txt"}]
    assert base / "05_scaling_analysis" / "05_scaling_analysis.html" in opened
    for number, path in enumerate(opened):
        shutil.copyfile(path, tmp_path / f"{number}_{path.name}")
    reference.refuse_texts(tmp_path, texts)
    (tmp_path / "planted.html").write_text(f"<td>{texts[-1]}</td>")
    with pytest.raises(StageError, match="planted.html: holds words of a real message"):
        reference.refuse_texts(tmp_path, texts)
