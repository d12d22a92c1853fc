"""Begin and finish of a stage, and what its digest depends on."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from emosafe_lib.study import earlier, files, paths
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.stage import STAGES, begin
from emosafe_lib.study.tries import begin_try
from workflow import digests as workflow_digests
from workflow.digests import SHIPPED_SOURCES, code_modules, imported_names, stage_digest

STAGE = "01_data_merge"


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


def test_files_appear_only_at_finish_and_the_manifest_holds_their_hashes(checkout, outputs):
    run = begin("01_data_merge", "toy")
    run.out("rows.txt").write_text("rows")
    run.out("data_card.json", at="study").write_text("{}")
    assert not (outputs / "toy" / "01_data_merge").exists()
    manifest = run.finish(rows=1)
    assert (outputs / "toy" / "data_card.json").is_file()
    assert manifest["outputs"]["01_data_merge/rows.txt"] == files.file_sha256(outputs / "toy/01_data_merge/rows.txt")
    assert json.loads((outputs / "toy/01_data_merge/manifest.json").read_text())["numbers"] == {"rows": 1}


def test_what_a_stage_could_do_without_is_named_in_its_manifest(checkout):
    run = begin("01_data_merge", "toy")
    with run.optional("figure", "lengths"):
        raise RuntimeError("no font")
    gap = {"kind": "figure", "name": "lengths", "reason": "RuntimeError"}
    assert run.finish()["not_measured"] == [gap]
    assert begin("01_data_merge", "toy").finish()["not_measured"] == []


def test_74_a_run_that_dies_leaves_the_last_good_output(checkout, outputs):
    first = begin("01_data_merge", "toy")
    first.out("rows.txt").write_text("good")
    first.finish()
    begin("01_data_merge", "toy").out("rows.txt").write_text("half")
    assert (outputs / "toy/01_data_merge/rows.txt").read_text() == "good"


def test_74_a_run_that_dies_among_its_files_leaves_no_manifest(checkout, outputs, monkeypatch):
    first = begin(STAGE, "toy")
    first.out("a.txt").write_text("good")
    first.finish()
    second = begin(STAGE, "toy")
    second.out("a.txt").write_text("new")
    second.out("b.txt").write_text("new")
    replace = os.replace

    def die(source, target):
        if Path(target).name == "b.txt":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        second.finish()
    assert sorted(path.name for path in (outputs / "toy" / STAGE).iterdir()) == ["a.txt"]


def test_74_a_manifest_that_cannot_be_written_leaves_the_last_good_output(checkout, outputs):
    first = begin(STAGE, "toy")
    first.out("a.txt").write_text("good")
    manifest = first.finish()
    second = begin(STAGE, "toy")
    second.out("a.txt").write_text("new")
    with pytest.raises(TypeError):
        second.finish(rows=object())
    assert (outputs / "toy" / STAGE / "a.txt").read_text() == "good"
    assert json.loads((outputs / "toy" / STAGE / "manifest.json").read_text()) == manifest


def test_what_this_run_no_longer_writes_goes_and_nothing_else_does(checkout, outputs):
    first = begin(STAGE, "toy")
    for name in ("figure.png", "figure.csv"):
        first.out(name).write_text("old")
    first.out("card.json", at="study").write_text("{}")
    first.finish()
    (outputs / "toy" / STAGE / "notes.txt").write_text("somebody's own")
    second = begin(STAGE, "toy")
    second.out("figure.csv").write_text("new")
    second.finish()
    left = {path.name for path in (outputs / "toy").rglob("*") if path.is_file() and ".work" not in path.parts}
    assert {"figure.csv", "notes.txt", "manifest.json"} <= left and not {"figure.png", "card.json"} & left


@pytest.mark.parametrize("named", ['{"outputs": {"../../kept.txt": ""}}', '{"outputs": 3}', "[]", "{"])
def test_a_manifest_of_an_earlier_run_removes_nothing_outside_its_study(checkout, outputs, named):
    folder = outputs / "toy" / STAGE
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(named)
    (outputs / "kept.txt").write_text("kept")
    begin(STAGE, "toy").finish()
    assert (outputs / "kept.txt").is_file() and json.loads((folder / "manifest.json").read_text())["stage"] == STAGE


def test_an_opening_cell_that_ran_twice_leaves_no_lock_and_a_last_cell_publishes_once(checkout):
    run = begin(STAGE, "toy")
    run = begin(STAGE, "toy")  # while the name still holds the first
    run.finish()
    other = f"from emosafe_lib.study.stage import begin; begin({STAGE!r}, 'toy')"
    assert subprocess.run([sys.executable, "-c", other], timeout=60, cwd=toy.ROOT).returncode == 0
    with pytest.raises(StageError, match="has been finished already"):
        run.finish()


def in_another_process(stage, *given):
    """Begin and finish a stage of the toy study there; returns what it had to say about it."""
    told = (
        f"from emosafe_lib.study import stage; stage.LOCK_SECONDS = 0.2; stage.begin{(stage, 'toy', *given)}.finish()"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, cwd=toy.ROOT)
    return done.stderr.strip().splitlines()[-1] if done.returncode else "finished"


def test_a_run_that_was_begun_twice_is_free_for_another_kernel_once_either_is_finished(checkout):
    first, second = begin(STAGE, "toy"), begin(STAGE, "toy")
    assert "is open in another kernel; finish that one or shut it down" in in_another_process(STAGE)
    first.finish()
    assert in_another_process(STAGE) == "finished"
    with pytest.raises(StageError, match="has been finished already"):
        second.finish()


def test_whoever_goes_on_to_another_model_leaves_the_first_to_other_kernels(checkout):
    toy.finish_before("03_prompting_baselines")
    left = begin("03_prompting_baselines", "toy", "nano-1")
    run = begin("03_prompting_baselines", "toy", "nano-2")
    assert in_another_process("03_prompting_baselines", "nano-1") == "finished"
    assert "open in another kernel" in in_another_process("03_prompting_baselines", "nano-2")
    with pytest.raises(StageError, match="has been finished already"):
        left.finish()
    run.finish()


def test_stages_of_one_process_do_not_take_each_other_s_locks(checkout):
    toy.finish_before("02_chatgpt_augmentation")
    merge, augmentation = begin(STAGE, "toy"), begin("02_chatgpt_augmentation", "toy")
    assert "open in another kernel" in in_another_process(STAGE)
    merge.finish()
    augmentation.finish()


@pytest.mark.parametrize(
    ("name", "model", "missing", "cell"),
    [
        ("02_chatgpt_augmentation", None, "01_data_merge", 'stage.run_until("01_data_merge", "toy")'),
        ("03_prompting_baselines", "nano-1", "01_data_merge", 'stage.run_until("01_data_merge", "toy")'),
        ("04_lora_finetuning", "nano-1", "01_data_merge", 'stage.run_until("02_chatgpt_augmentation", "toy")'),
        ("05_scaling_analysis", None, "01_data_merge", 'stage.run_until("02_chatgpt_augmentation", "toy")'),
        ("06_on_device", None, "01_data_merge", 'stage.run_until("01_data_merge", "toy")'),
    ],
)
def test_a_notebook_opened_too_early_says_at_once_which_cell_makes_its_input(
    checkout, outputs, name, model, missing, cell
):
    with pytest.raises(StageError) as told:
        begin(name, "toy", model)
    assert str(told.value) == f"outputs/toy/{missing}: is not there yet; run it in a cell of its own: {cell}"
    assert not list(outputs.rglob("*.lock"))


def test_models_without_results_are_gaps_that_are_named_with_the_cell_that_fills_them(checkout, capsys):
    toy.finish_before("05_scaling_analysis")
    begin("05_scaling_analysis", "toy")
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["03_prompting_baselines", "04_lora_finetuning"]
    assert said[0].endswith(
        'not there yet for nano-2, so gaps below; to make it: stage.run_until("03_prompting_baselines", "toy", ["nano-2"])'
    )


def test_with_results_of_no_model_there_is_nothing_to_analyse(checkout):
    toy.finish_before("05_scaling_analysis", models=())
    with pytest.raises(
        StageError, match=r'finds results of no model; make some: .*"05_scaling_analysis", "toy", \["nano'
    ):
        begin("05_scaling_analysis", "toy")


def test_the_cell_that_is_offered_runs_the_stage(checkout, outputs, capsys):
    exec("from emosafe_lib.study import stage\n" + earlier.cell("01_data_merge", "toy"))
    assert "01_data_merge: started" in capsys.readouterr().out
    assert (outputs / "toy" / "01_data_merge" / "rows.txt").read_text() == "rows"
    begin("02_chatgpt_augmentation", "toy")


def test_a_cell_whose_stage_fails_says_so(checkout, capsys):
    toy.write(checkout, "01_data_merge", "1 / 0")
    with pytest.raises(StageError, match="01_data_merge: did not finish; the lines above say why"):
        earlier.run_until("01_data_merge", "toy")
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_what_a_notebook_needs_is_what_the_engine_runs_before_it():
    assert set(earlier.AFTER) | set(earlier.READS) == set(STAGES) - {"01_data_merge"}
    assert all(before < name for table in (earlier.AFTER, earlier.READS) for name, of in table.items() for before in of)


def test_a_notebook_shows_an_expected_failure_as_one_line():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    with capture_output() as shown:
        InteractiveShell().run_cell("from emosafe_lib.study.errors import StageError\nraise StageError('a', 'b', 'c')")
    assert shown.stdout.strip() == "StageError: a: b; c"


def test_an_input_that_is_not_there_names_itself(checkout):
    toy.finish_before("02_chatgpt_augmentation")
    with pytest.raises(StageError, match=r"01_data_merge/rows.parquet: is not there yet; run the earlier notebook"):
        begin("02_chatgpt_augmentation", "toy").use("01_data_merge/rows.parquet")


def test_71_nothing_is_written_outside_its_folder(checkout):
    toy.finish_before("03_prompting_baselines")
    run = begin("03_prompting_baselines", "toy", "nano-1")
    for name, at in (("../../../x", "stage"), ("/tmp/x", "study"), ("../x", "model")):
        with pytest.raises(StageError, match="outside its folder"):
            run.out(name, at=at)


def test_a_study_s_folder_may_be_a_link_to_another_disk(checkout, outputs, tmp_path):
    (tmp_path / "disk").mkdir()
    outputs.mkdir(exist_ok=True)
    (outputs / "toy").symlink_to(tmp_path / "disk", target_is_directory=True)
    run = begin(STAGE, "toy")
    run.out("rows.txt").write_text("rows")
    run.out("card.json", at="study").write_text("{}")
    assert set(run.finish()["outputs"]) == {"01_data_merge/rows.txt", "card.json"}
    assert (tmp_path / "disk" / STAGE / "rows.txt").read_text() == "rows"
    with pytest.raises(StageError, match="outside its folder"):
        begin(STAGE, "toy").out("../../x")


def test_a_stage_knows_whether_it_belongs_to_a_model(checkout):
    with pytest.raises(StageError, match="needs a model"):
        begin("03_prompting_baselines", "toy")
    with pytest.raises(StageError, match="belongs to the whole study"):
        begin("01_data_merge", "toy", "nano-1")


def test_a_stage_reads_all_models_of_the_run_or_none(checkout):
    toy.finish_before("05_scaling_analysis", ("nano-1", "minilm"))
    assert list(begin("05_scaling_analysis", "toy").models) == ["nano-1", "nano-2"]
    run = begin("05_scaling_analysis", "toy", models=["minilm"])
    assert list(run.models) == ["minilm"] and run.finish()["parameters"]["models"] == ["minilm"]
    with pytest.raises(StageError, match="reads no list of models"):
        begin("01_data_merge", "toy", models=["minilm"])


def test_77_another_working_directory_with_its_own_library_is_detected(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    (other / "emosafe_lib" / "study").mkdir(parents=True)
    (other / "emosafe_lib" / "study" / "stage.py").write_text("")
    monkeypatch.chdir(other)
    with pytest.raises(StageError, match="kernel of this checkout"):
        begin("01_data_merge", "toy")


def test_77_another_environment_than_the_runners_is_detected(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOSAFE_PREFIX", str(tmp_path))
    with pytest.raises(StageError, match="another environment"):
        begin("01_data_merge", "toy")


def test_imports_are_found_through_each_other():
    source = "%matplotlib inline\nfrom emosafe_lib.study import stage\nimport emosafe_lib.study.rows as r"
    assert set(imported_names(source)) == {"emosafe_lib.study", "emosafe_lib.study.stage", "emosafe_lib.study.rows"}


def test_code_modules_follow_imports(checkout):
    found = {path.name for path in code_modules(checkout / "notebooks" / "01_data_merge.ipynb")}
    assert {"stage.py", "parameters.py", "errors.py"} <= found
    assert "finetune.py" not in found


def test_76_only_stages_that_read_a_parameter_depend_on_it(checkout):
    def digests():
        study = load_study("toy")
        merge = stage_digest("01_data_merge", study)
        return merge, stage_digest("04_lora_finetuning", study, load_model("nano-1"))

    merge, finetuning = digests()
    study = checkout / "params" / "study" / "toy.yaml"
    study.write_text(study.read_text() + "finetuning: {epochs: 2}\n")
    merge_now, finetuning_now = digests()
    assert merge_now == merge and finetuning_now != finetuning


def test_76_a_model_file_concerns_that_model_alone(checkout):
    def digest(name):
        return stage_digest("04_lora_finetuning", load_study("toy"), load_model(name))

    before = {name: digest(name) for name in ("nano-1", "nano-2")}
    path = checkout / "params" / "models" / "nano-2.yaml"
    path.write_text(path.read_text().replace("context_tokens: 1024", "context_tokens: 512"))
    assert digest("nano-1") == before["nano-1"]
    assert digest("nano-2") != before["nano-2"]


def test_76_an_edited_file_of_ones_own_is_merged_again(checkout):
    def digests():
        return [stage_digest(stage, load_study("toy")) for stage in ("01_data_merge", "02_chatgpt_augmentation")]

    study = checkout / "params" / "study" / "toy.yaml"
    study.write_text(study.read_text().replace("data:", "data:\n  own_sources: [{name: mine, file: data/mine.csv}]"))
    absent = digests()
    mine = checkout / "data" / "mine.csv"
    mine.parent.mkdir()
    mine.write_text("text,safety\na message,safe\n")
    first = digests()
    mine.write_text("text,safety\na message,unsafe\n")
    second = digests()
    assert len({absent[0], first[0], second[0]}) == 3 and absent[1] == first[1] == second[1]


@pytest.fixture
def assets(checkout, tmp_path, monkeypatch):
    """A copy of the package's assets, without the weights of the larger rungs; the library's digests look there."""
    leave = shutil.ignore_patterns("nano-3", "nano-4")
    monkeypatch.setattr(
        workflow_digests, "ASSETS", Path(shutil.copytree(paths.ASSETS, tmp_path / "assets", ignore=leave))
    )
    return tmp_path / "assets"


def stale_after(change):
    """Stages of the toy study, and those of nano-1 and nano-2, whose digest differs after the change."""

    def digests():
        study, models = load_study("toy"), ["nano-1", "nano-2"]
        pairs = [(name, each) for name in STAGES for each in (models if STAGES[name]["model"] else [None])]
        return {
            f"{name} {each or ''}".strip(): stage_digest(name, study, load_model(each) if each else None, models)
            for name, each in pairs
        }

    before = digests()
    change()
    return {name for name, digest in digests().items() if digest != before[name]}


def append(path):
    return lambda: path.write_bytes(path.read_bytes() + b"\n")


def test_76_another_shipped_sample_is_merged_again(assets):
    assert stale_after(append(assets / "sample" / "sample.jsonl")) == {"01_data_merge"}
    assert stale_after(append(assets / "sample" / "contrast.jsonl")) == set(), "the study does not name it"


def test_76_a_source_pinned_anew_is_merged_again(assets, checkout):
    study = checkout / "params" / "study" / "toy.yaml"
    study.write_text(study.read_text().replace("[emosafe_sample]", "[emosafe_sample, cams]"))
    path = assets / "sources.json"

    def pin(name):
        pinned = json.loads(path.read_text())
        next(iter(pinned[name]["files"].values()))["sha256"] = ["0" * 64]
        return lambda: path.write_text(json.dumps(pinned))

    assert stale_after(pin("cams")) == {"01_data_merge"} and stale_after(pin("sad")) == set()


def test_76_other_shipped_weights_concern_that_model_and_the_stages_that_read_all(assets):
    read_all = {"05_scaling_analysis", "06_on_device"}
    mine = {"03_prompting_baselines nano-2", "04_lora_finetuning nano-2"}
    for name in ("model.safetensors", "tokenizer.json"):
        assert stale_after(append(assets / "nano" / "nano-2" / name)) == mine | read_all
    assert stale_after(append(assets / "nano" / "nano-2" / "README.md")) == set()
    assert stale_after((assets / "nano" / "nano-1" / "config.json").unlink) > read_all


def test_76_every_file_that_no_registry_pins_is_known_to_the_digests():
    from emosafe_lib.data.sources.registry import registry

    loose = [(name, file) for name, source in registry().items() for file in source.files if not file.sha256]
    found = {name: str((registry()[name].folder / file.name).relative_to(paths.ASSETS)) for name, file in loose}
    assert found == SHIPPED_SOURCES


def served(checkout, **changes):
    """A parameter file of a model that a server answers for; returns the model's name."""
    facts = {"name": "served", "family": "llama", "weights": "hub", "path": "m", "backend": "openai"}
    facts |= {"base_url": "http://127.0.0.1:9/v1"} | changes
    (checkout / "params" / "models" / "served.yaml").write_text(json.dumps(facts))
    return "served"


def test_a_served_model_has_nothing_to_train_and_nothing_to_measure(checkout):
    name = served(checkout)
    with pytest.raises(StageError, match=r"needs weights, and served is answered by a server; run notebooks 03 and 05"):
        begin("04_lora_finetuning", "toy", name)
    toy.finish_before("05_scaling_analysis")
    assert begin("03_prompting_baselines", "toy", name).model.name == name
    run = begin("06_on_device", "toy", models=["nano-1", name])
    assert list(run.models) == ["nano-1"] and run.finish()["parameters"]["models"] == ["nano-1", name]
    assert list(begin("05_scaling_analysis", "toy", models=["nano-1", name]).models) == ["nano-1", name]


def test_a_study_of_served_models_alone_comes_to_its_last_stage(checkout):
    name = served(checkout)
    toy.finish_before("05_scaling_analysis", models=())
    begin("03_prompting_baselines", "toy", name).finish()
    assert list(begin("05_scaling_analysis", "toy", models=[name]).models) == [name]
    assert begin("06_on_device", "toy", models=[name]).models == {}


def test_a_manifest_says_whether_work_of_an_earlier_run_was_taken_up(checkout):
    toy.finish_before("03_prompting_baselines")
    first = begin("03_prompting_baselines", "toy", "nano-1")
    (first.keep("shards") / "shard").write_text("kept")
    assert first.keep("shards").is_dir() and first.finish()["resumed"] is False
    second = begin("03_prompting_baselines", "toy", "nano-1")
    second.keep("shards")
    assert second.finish()["resumed"] is True


def test_importing_the_library_and_its_light_modules_loads_nothing_heavy():
    heavy = "[m for m in ('torch', 'pandas') if m in sys.modules]"
    code = f"import sys, emosafe_lib, emosafe_lib.study.parameters, emosafe_lib.study.stage; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_reader_sees_the_settings_that_the_stage_depends_on_and_who_set_them(checkout):
    toy.finish_before("04_lora_finetuning")
    table = begin("04_lora_finetuning", "toy", "nano-1").parameters
    assert list(table.columns) == ["value", "from", "meaning"] and table.index.is_unique
    assert {name.split(".")[0] for name in table.index} == {"finetuning", "model"}
    assert table.loc["model.training.learning_rate", ["value", "from"]].tolist() == [0.002, "params/models/nano-1.yaml"]
    assert table.loc["model.training.lora.rank", ["value", "from"]].tolist() == [8, "default"]
    assert table["meaning"].str.fullmatch(r".{10,}\.").all()
    assert not table.index.str.contains("resources").any()


def test_models_that_the_notebook_names_are_said_to_be_its_own(checkout):
    toy.finish_before("05_scaling_analysis", ("nano-1", "minilm"))
    table = begin("05_scaling_analysis", "toy", models=["minilm"]).parameters
    assert table.loc["models", ["value", "from"]].tolist() == [["minilm"], "this notebook"]
    assert begin("05_scaling_analysis", "toy").parameters.loc["models", "from"] == "params/study/toy.yaml"


def test_a_parameter_file_elsewhere_is_named_without_its_folders(checkout, tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: {sources: [emosafe_sample]}\nmodels: [nano-1]\n")
    table = begin(STAGE, str(tmp_path / "mine.yaml")).parameters
    assert set(table["from"]) == {"mine.yaml", "default"}


def test_a_notebook_ends_in_one_line_and_not_in_its_manifest(checkout):
    toy.finish_before("03_prompting_baselines")
    run = begin("03_prompting_baselines", "toy", "nano-1")
    run.out("scores.csv").write_text("a")
    manifest = run.finish(rows=1)
    assert repr(manifest).startswith("03_prompting_baselines (toy, nano-1) is finished: 1 file")
    assert "\n" not in repr(manifest) and manifest["numbers"] == {"rows": 1}


def test_definitions_are_not_cut_off_in_a_notebook_s_tables(checkout):
    toy.finish_before("04_lora_finetuning")
    table = begin("04_lora_finetuning", "toy", "nano-1").parameters
    assert max(table["meaning"], key=len) in table.to_html()


def test_the_seconds_of_tries_that_were_stopped_are_counted_as_far_as_what_they_kept_reaches(checkout):
    toy.finish_before("03_prompting_baselines")

    def begun(hours_ago=0.0):
        run = begin("03_prompting_baselines", "toy", "nano-1")
        run.started -= hours_ago * 3600
        return run, run.keep("shards")

    _, shards = begun(hours_ago=5)
    (shards / "one").write_text("kept")
    moment = time.time() - 3 * 3600  # two of its five hours; what it did in the three after that is lost
    os.utime(shards / "one", (moment, moment))
    begun(hours_ago=1)  # kept nothing
    third, _ = begun()
    assert third.finish()["seconds"] == pytest.approx(2 * 3600, abs=30)
    fourth, _ = begun()  # reads back what is finished
    assert fourth.finish()["seconds"] < 30


def test_tries_with_other_parameters_count_for_nothing(tmp_path):
    begin_try(tmp_path, 3600, {"epochs": 1})
    (tmp_path / "one").write_text("kept")
    assert begin_try(tmp_path, 0, {"epochs": 1}) == pytest.approx(3600, abs=30)
    assert begin_try(tmp_path, 0, {"epochs": 2}) == 0
