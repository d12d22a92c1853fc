"""Parameter files: what is accepted, and what is refused with which words."""

import time

import pytest

from emosafe_lib.evaluation import baselines
from emosafe_lib.study.errors import ParameterError
from emosafe_lib.study.parameters import TAKEN_BY_STUDY, ModelParams, StudyParams, load_model, load_study, validate
from emosafe_lib.study.paths import folder_named, project_root, settled
from emosafe_lib.study.yaml_files import read_yaml

MODELS = sorted(path.stem for path in (project_root() / "params" / "models").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (project_root() / "params" / "study").glob("*.yaml"))
MODEL = {"name": "m", "family": "llama", "weights": "assets", "path": "nano/nano-1"}


def parsed(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_is_valid(name):
    assert load_model(name).name == name


@pytest.mark.parametrize("name", STUDIES)
def test_every_shipped_study_is_valid_and_names_shipped_models(name):
    assert set(load_study(name).models) <= set(MODELS)


def test_the_promised_files_are_shipped():
    promised = {"nano-1", "nano-2", "nano-3", "nano-4", "minilm", "bert-base"}
    assert promised | {"llama-1b", "llama-3b", "llama-8b", "llama-70b"} <= set(MODELS)
    assert {"sample", "real"} <= set(STUDIES)


def test_66_unknown_key_names_the_nearest():
    with pytest.raises(ParameterError, match=r"m\.yaml: 'contxt_tokens' is not a parameter; .*'context_tokens'"):
        validate(MODEL | {"contxt_tokens": 5}, ModelParams, "m.yaml")


def test_66_nested_unknown_key_and_missing_key():
    with pytest.raises(ParameterError, match="'training.lora.rang'.*'training.lora.rank'"):
        validate(MODEL | {"training": {"lora": {"rang": 8}}}, ModelParams, "m.yaml")
    with pytest.raises(ParameterError, match="'family' is missing"):
        validate({k: v for k, v in MODEL.items() if k != "family"}, ModelParams, "m.yaml")


def test_66_value_rule_and_file_are_named():
    with pytest.raises(ParameterError, match=r"m\.yaml: training\.lora\.rank=0; .*greater than or equal to 1"):
        validate(MODEL | {"training": {"lora": {"rank": 0}}}, ModelParams, "m.yaml")


def test_67_a_key_that_is_code_is_refused_before_anything_runs():
    with pytest.raises(ParameterError, match="is not a parameter"):
        validate(MODEL | {"x=1; import os": 1}, ModelParams, "m.yaml")


def test_68_numbers_and_words_mean_what_they_look_like(tmp_path):
    assert parsed(tmp_path, "a: 1e-4\nb: [yes, no]\nc: 010\nd: 12:30:45\ne: 2026-01-01\nf: on") == {
        "a": 1e-4,
        "b": ["yes", "no"],
        "c": "010",
        "d": "12:30:45",
        "e": "2026-01-01",
        "f": "on",
    }


def test_68_duplicate_key_and_nan_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="'a' appears twice"):
        parsed(tmp_path, "a: 1\na: 2")
    data = MODEL | {"training": {"learning_rate": parsed(tmp_path, "a: .nan")["a"]}}
    with pytest.raises(ParameterError, match="learning_rate"):
        validate(data, ModelParams, "m.yaml")


def test_68_a_string_is_never_taken_for_a_number():
    with pytest.raises(ParameterError, match="context_tokens"):
        validate(MODEL | {"context_tokens": "1024"}, ModelParams, "m.yaml")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object:os.system {}",
        "a: !!set {x}",
        "a:\t1\n\tb: 2",
        "- a\n- b",
        "",
        BOMB,
        "{a: [",
        "? [a]\n: 1",
        b"a: \xff",
    ],
    ids=["python", "set", "tabs", "list", "empty", "bomb", "unclosed", "list-key", "latin-1"],
)
def test_69_hostile_yaml_is_refused_in_one_line_and_bounded_time(tmp_path, text):
    started = time.monotonic()
    with pytest.raises(ParameterError) as refusal:
        parsed(tmp_path, text)
    assert time.monotonic() - started < 2
    assert "\n" not in str(refusal.value) and "x.yaml" in str(refusal.value)


def test_69_deep_nesting_and_large_files_are_refused(tmp_path):
    for text in ("a: " + "[" * 5000 + "]" * 5000, "a: " + "x" * 100_000):
        with pytest.raises(ParameterError):
            parsed(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 60_000,
        "a: &x 1",
        "a: ! 1",
        "a: 1\n---\nb: 2",
        "a: 1\n...\n%",
        '"\\UFFFFFFFF": 1',
        "a: {b: 1, b: 2}",
    ],
    ids=["flow", "anchor", "tag", "documents", "directive", "escape", "twice"],
)
def test_69_what_is_refused_is_refused_at_its_line_before_the_rest_is_read(tmp_path, text):
    started = time.process_time()
    with pytest.raises(ParameterError, match=r"x\.yaml: .*; write plain YAML"):
        parsed(tmp_path, text)
    assert time.process_time() - started < 2
    with pytest.raises(ParameterError, match=r"x\.yaml: line 3: tags are not allowed"):
        parsed(tmp_path, "a: 1\nb:\n  c: !!str 8")


@pytest.mark.parametrize("key", ["api_key", "token", "hub_token", "secret", "password"])
def test_70_key_like_parameters_are_refused_without_their_value(key):
    with pytest.raises(ParameterError) as refusal:
        validate(MODEL | {key: "hunter2hunter2"}, ModelParams, "m.yaml")
    assert "hunter2" not in str(refusal.value) and "environment" in str(refusal.value)


def test_70_a_value_that_looks_like_a_key_is_refused_without_showing_it():
    planted = "sk-" + "a" * 24
    with pytest.raises(ParameterError) as refusal:
        validate(MODEL | {"title": planted}, ModelParams, "m.yaml")
    assert planted not in str(refusal.value)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a{b}", "a b", "https://x.org/y", "~/x"])
def test_71_paths_that_leave_or_surprise_are_refused(path):
    with pytest.raises(ParameterError, match="path"):
        validate(MODEL | {"path": path}, ModelParams, "m.yaml")


@pytest.mark.parametrize("name", ["007", "1e3", "8", "no", "null", "true", "010", "0"])
def test_a_name_that_yaml_takes_for_something_else_stays_text(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    own = f"own_sources: [{{name: {name}, file: {name}}}], caps: {{{name}: 8}}, salt: {name}"
    path.write_text(f"name: {name}\ndata: {{sources: [{name}], {own}}}\nmodels: [{name}, nano-1]\ntitle: 1e3")
    study = load_study(path)
    assert (study.name, study.title, study.models) == (name, "1e3", [name, "nano-1"])
    assert (study.data.own_sources[0].file, study.data.caps, study.data.salt) == (name, {name: 8}, name)
    path.write_text(path.read_text() + "\nfinetuning: {epochs: true}")
    with pytest.raises(ParameterError, match="finetuning.epochs=true; .*valid number"):
        load_study(path)


def test_a_switch_is_read_as_a_person_means_it_and_a_number_is_none():
    for word, meant in {"yes": True, "no": False, "on": True, "off": False, "True": True}.items():
        assert validate(STUDY | {"finetuning": {"ablation": word}}, StudyParams, "s").finetuning.ablation is meant
    for word in (1, 0, "nein", "", None, [], {}):
        with pytest.raises(ParameterError, match="ablation=.*valid boolean"):
            validate(STUDY | {"finetuning": {"ablation": word}}, StudyParams, "s")


@pytest.mark.parametrize("load", [load_study, load_model])
@pytest.mark.parametrize("name", ["../sample", "../study/sample", "../models/nano-1", "Sample", "a b", "", "x;y"])
def test_71_names_are_plain(load, name):
    with pytest.raises(ParameterError, match="is not a name"):
        load(name)


def test_a_name_that_differs_from_its_file_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: other\ndata: {sources: [emosafe_sample]}\nmodels: [nano-1]")
    with pytest.raises(ParameterError, match="must equal the file's name"):
        load_study(path)


def test_an_absent_file_names_what_there_is():
    with pytest.raises(ParameterError, match=r"no such file; name one of: .*sample"):
        load_study("smaple")


def test_split_shares_must_sum_to_one():
    with pytest.raises(ParameterError, match="sum to 1"):
        data = {"sources": ["a"], "split_shares": {"train": 0.9, "validation": 0.2, "test": 0.2}}
        validate({"name": "s", "data": data, "models": ["nano-1"]}, StudyParams, "s.yaml")


def test_packed_weights_are_not_trained_in_full():
    model = {"name": "m", "family": "encoder", "weights": "hub", "path": "a/b", "quantization": "int4"}
    assert validate(model, ModelParams, "m.yaml").training.method == "lora"
    with pytest.raises(ParameterError, match="int4 cannot be trained in full; use training.method: lora"):
        validate(model | {"training": {"method": "full"}}, ModelParams, "m.yaml")


STUDY = {"name": "s", "data": {"sources": ["a"]}, "models": ["nano-1"]}


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("finetuning", {"seeds": [0, 0]}, "finetuning.seeds=.*each value may be named once"),
        ("finetuning", {"budgets": [150, 150]}, "finetuning.budgets=.*once"),
        ("prompting", {"exemplar_seeds": [1, 1]}, "exemplar_seeds=.*once"),
        ("prompting", {"variants": ["plain", "plain"]}, "variants=.*once"),
        ("finetuning", {"seeds": [-1]}, "seeds.0=-1; .*greater than or equal to 0"),
        ("analysis", {"seed": -1}, "analysis.seed=-1"),
        ("data", {"sources": ["a"], "caps": {"b": 5}}, "caps: b is not in sources"),
        ("data", {"sources": ["a"], "own_sources": [{"name": "m", "file": f"{n}.csv"} for n in "xy"]}, "given once"),
    ],
)
def test_what_would_fail_late_or_do_nothing_is_refused_before_anything_runs(section, values, said):
    with pytest.raises(ParameterError, match=said):
        validate(STUDY | {section: values}, StudyParams, "s.yaml")


def test_a_relative_root_is_refused_and_a_path_of_a_parameter_file_is_made_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settled("mine.yaml") == str(tmp_path / "mine.yaml") and settled("sample") == "sample"
    monkeypatch.setenv("EMOSAFE_ROOT", "")
    assert load_study("sample").name == "sample"
    monkeypatch.setenv("EMOSAFE_ROOT", ".")
    with pytest.raises(ParameterError, match=r"EMOSAFE_ROOT=\.: is relative"):
        project_root()


@pytest.mark.parametrize("variable", ["EMOSAFE_DATA_DIR", "EMOSAFE_OUTPUTS"])
def test_a_relative_folder_starts_at_the_checkout_wherever_a_kernel_works(monkeypatch, tmp_path, variable):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "../beside")
    assert folder_named(variable, "usual") == project_root().resolve().parent / "beside"
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder_named(variable, "usual") == tmp_path
    monkeypatch.delenv(variable)
    assert folder_named(variable, "usual") == project_root().resolve() / "usual"


@pytest.mark.parametrize("name", ["a{b}", "a{b", "b}", "{}"])
def test_71_folders_with_braces_are_refused_before_papermill_and_snakemake_fill_them_in(monkeypatch, tmp_path, name):
    for variable in ("EMOSAFE_DATA_DIR", "EMOSAFE_OUTPUTS"):
        monkeypatch.setenv(variable, str(tmp_path / name))
        with pytest.raises(ParameterError, match="has braces in its path; rename or move the folder"):
            folder_named(variable, "usual")
        monkeypatch.delenv(variable)
    with pytest.raises(ParameterError, match="braces"):
        load_study(tmp_path / name / "mine.yaml")
    (tmp_path / name / "params" / "study").mkdir(parents=True)
    monkeypatch.setenv("EMOSAFE_ROOT", str(tmp_path / name))
    with pytest.raises(ParameterError, match="braces"):
        project_root()


@pytest.mark.parametrize(
    ("kind", "name"), [(StudyParams, "reference"), (StudyParams, "compare"), (ModelParams, "tfidf")]
)
def test_a_name_whose_folder_holds_something_else_is_refused(kind, name):
    shipped = load_study("sample") if kind is StudyParams else load_model("nano-1")
    with pytest.raises(ParameterError, match="names of other folders"):
        validate(shipped.model_dump(mode="json") | {"name": name}, kind, "x.yaml")


def test_names_that_outputs_have_already_are_those_of_the_baselines():
    assert set(TAKEN_BY_STUDY) == {"logs", *baselines.BASELINES}


def test_a_cap_lets_a_study_ask_one_model_less_and_leaves_the_others_alone():
    caps = {"model": "slow", "variants": ["plain"], "train_rows": 5, "budgets": [], "ablation": False}
    data = {"name": "s", "data": {"sources": ["a"]}, "models": ["slow", "quick"], "model_caps": [caps]}
    study = validate(data | {"finetuning": {"budgets": [3], "epochs": 2.0}}, StudyParams, "s.yaml")
    slow = study.for_model("slow")
    assert study.for_model("quick") is study and slow.for_model("slow") == slow
    assert slow.prompting.variants == ["plain"] and slow.prompting.few_shot_variants == ["plain"]
    settings = slow.finetuning
    assert (settings.train_rows, settings.budgets, settings.ablation, settings.epochs) == (5, [], False, 2.0)
    with pytest.raises(ParameterError, match="named once"):
        validate(data | {"model_caps": [caps, caps]}, StudyParams, "s.yaml")


def test_fewer_seeds_begin_with_the_studys_first_on_which_comparisons_rest():
    data = {"name": "s", "data": {"sources": ["a"]}, "models": ["slow"], "finetuning": {"seeds": [3, 1]}}
    study = validate(data | {"model_caps": [{"model": "slow", "seeds": [3]}]}, StudyParams, "s.yaml")
    assert study.for_model("slow").finetuning.seeds == [3] and study.finetuning.seeds == [3, 1]
    with pytest.raises(ParameterError, match="seeds begin with 1, finetuning.seeds with 3"):
        validate(data | {"model_caps": [{"model": "slow", "seeds": [1]}]}, StudyParams, "s.yaml")
