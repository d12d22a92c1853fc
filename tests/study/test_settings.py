"""Every setting can be found: the lists are those of the schema, and a wrong key is answered with the right path."""

import json
import re

import pytest

from emosafe_lib import cli
from emosafe_lib.study import settings
from emosafe_lib.study.errors import ParameterError
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model, load_study, settings_of, validate
from emosafe_lib.study.paths import project_root

STUDY = {"name": "s", "data": {"sources": ["a"]}, "models": ["nano-1"]}
MODEL = {"name": "m", "family": "llama", "weights": "assets", "path": "nano/nano-1"}
LOADERS = {StudyParams: (load_study, "mine"), ModelParams: (load_model, "my-model")}
PARAMS = project_root() / "params"
both = pytest.mark.parametrize("schema", LOADERS, ids=lambda schema: schema.__name__)


def test_the_lists_are_those_of_the_schema():
    for path, text in settings.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run `make params`"


@both
def test_every_setting_has_a_sentence_and_stands_in_both_lists(schema):
    page, listed = (PARAMS / "README.md").read_text(), (PARAMS / settings.FILES[schema]).read_text()
    for path, spec in settings_of(schema).items():
        assert re.fullmatch(r"[A-Z`].{10,110}\.", spec.get("description", "")), path
        assert "$ref" in spec or f"| `{path}` |" in page
        assert re.search(rf"^[ #-]*{path.split('.')[-1]}:", listed, re.MULTILINE)


def copied(schema, folder, change=str):
    """The parameters of a commented file that somebody copied."""
    load, name = LOADERS[schema]
    path = folder / f"{name}.yaml"
    path.write_text(change((PARAMS / settings.FILES[schema]).read_text()))
    return load(path)


@both
def test_a_copied_list_says_what_an_empty_file_says(schema, tmp_path):
    found = copied(schema, tmp_path)
    needed = {name: getattr(found, name) for name, field in schema.model_fields.items() if field.is_required()}
    given = json.loads(json.dumps(needed, default=lambda section: section.model_dump(exclude_defaults=True)))
    assert validate(given | ({"path": found.path} if schema is ModelParams else {}), schema, "x.yaml") == found


@pytest.mark.parametrize(("schema", "name"), [(StudyParams, "own_sources"), (ModelParams, "shape")])
def test_what_is_commented_out_can_be_used(schema, name, tmp_path):
    def uncommented(text):
        block = re.compile(rf"^( *){name}: .*\n(\1# {name}:\n(?:\1#   .*\n)+)", re.MULTILINE)
        return block.sub(lambda found: re.sub("^( *)# ", r"\1", found[2], flags=re.MULTILINE), text)

    found = copied(schema, tmp_path, uncommented)
    assert found.data.own_sources[0].name == "mine" if schema is StudyParams else found.shape.layers == 4


@both
def test_a_list_is_no_study_and_no_model(schema):
    load, _ = LOADERS[schema]
    with pytest.raises(ParameterError, match="must equal the file's name"):
        load(PARAMS / settings.FILES[schema])
    assert not list(PARAMS.glob("*/all-*"))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("finetuning.epochs", "a number, above 0 and at most 100"),
        ("analysis.seed", "a whole number from 0 to 4294967295"),
        ("prompting.evaluation_rows", "a whole number, at least 1 or null"),
        ("augmentation.prices", "a list of 2, each a number, at least 0 or null"),
        ("data.split_shares", "for each name, a number from 0 to 1"),
        ("data.own_sources", "a list, each the settings below"),
        ("data.own_sources.role", "one of train, external"),
        ("title", "text of at most 120 characters"),
        ("name", "a name of a-z, 0-9, ., - and _"),
    ],
)
def test_types_and_ranges_are_told_in_words(path, words):
    assert settings.kind_of(settings_of(StudyParams)[path]) == words


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({"salt": "x"}, "did you mean 'data.salt'?"),
        ({"class_weights": True}, "did you mean 'finetuning.class_weights'?"),
        ({"evaluation_rows": 5}, "did you mean 'prompting.evaluation_rows' or 'finetuning.evaluation_rows'?"),
        ({"finetuning": {"seed": 1}}, "did you mean 'finetuning.seeds'?"),
        ({"prompting": {"epochs": 1}}, "did you mean 'finetuning.epochs'?"),
        ({"finetune": {"epochs": 1}}, "did you mean 'finetuning'?"),
        ({"data": {"sources": ["a"], "own_sources": [{"fil": "x"}]}}, "did you mean 'data.own_sources.file'?"),
        ({"data": {"own_sources": [{"name": "m", "path": "x.csv"}]}}, "did you mean 'data.own_sources.file'?"),
        ({"model_caps": [{"name": "nano-1", "epochs": 1}]}, "did you mean 'model_caps.model'?"),
        ({"data.salt": "x"}, "write 'salt' below 'data'"),
        ({"rank": 4}, "did you mean 'training.lora.rank' in a file of params/models?"),
        ({"weights": "hub"}, "did you mean 'weights' in a file of params/models?"),
        ({"zzzz": 1}, "remove it; params/README.md lists all settings"),
    ],
)
def test_66_a_wrong_key_is_answered_with_its_full_path_wherever_it_is(wrong, meant):
    with pytest.raises(ParameterError, match="is not a parameter") as refusal:
        validate(STUDY | wrong, StudyParams, "s.yaml")
    assert refusal.value.remedy == meant


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({"rank": 4}, "did you mean 'training.lora.rank'?"),
        ({"training": {"rank": 4}}, "did you mean 'training.lora.rank'?"),
        ({"shape": {"layer": 4}}, "did you mean 'shape.layers'?"),
        ({"epochs": 4}, "did you mean 'finetuning.epochs' in a file of params/study?"),
    ],
)
def test_66_a_models_wrong_key_too(wrong, meant):
    with pytest.raises(ParameterError) as refusal:
        validate(MODEL | wrong, ModelParams, "m.yaml")
    assert refusal.value.remedy == meant


def test_66_a_misspelt_key_goes_before_what_is_missing_for_it():
    with pytest.raises(ParameterError, match="'modls' is not a parameter; did you mean 'models'"):
        validate({"name": "s", "data": {"sources": ["a"]}, "modls": ["nano-1"]}, StudyParams, "s.yaml")


def test_the_command_finds_a_setting_by_its_words(capsys):
    assert cli.main(["params", "lora", "RANK"]) == 0
    said = capsys.readouterr().out
    assert "training.lora.rank: 8  # in a file of params/models/" in said and "epochs" not in said
    assert cli.main(["params", "no-such-word"]) == 1 and "`emosafe params` lists all" in capsys.readouterr().err
