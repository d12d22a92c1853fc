"""What a kept result is known by: the text of the code that made it, and the files on disk that it went on from."""

import json
import os
import re

import pytest
import tiny_models

from emosafe_lib.models import backbone, checkpoints, seals
from emosafe_lib.study.errors import TrainingError

SOURCE = '''
"""What it is for."""
LIMIT = 3


class Kept:
    """A class."""

    def all(self, rows):
        """Rows."""
        return [row for row in rows if row > LIMIT]
'''


@pytest.fixture
def digest(tmp_path):
    """The digest of a module with the given text."""

    def digest_of(source: str) -> str:
        path = tmp_path / f"made_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(source)
        return checkpoints.code_digest(path)

    return digest_of


@pytest.mark.parametrize(
    "change",
    [
        ("LIMIT = 3", "LIMIT = 3  # rows"),
        ("it is for.", "it is for, at length."),
        ('    """A class."""\n', ""),
        ('"""Rows."""', '"""Rows above the limit."""'),
        ("[row for row in rows if row > LIMIT]", "[\n            row for row in rows if (row > LIMIT)\n        ]"),
    ],
)
def test_76_comments_docstrings_and_layout_are_the_same_code(digest, change):
    assert SOURCE.replace(*change) != SOURCE and digest(SOURCE.replace(*change)) == digest(SOURCE)


@pytest.mark.parametrize(
    "change", [("LIMIT = 3", "LIMIT = 4"), ("> LIMIT", ">= LIMIT"), ("def all", "def some"), ("return ", "")]
)
def test_76_a_changed_constant_operator_or_name_is_other_code(digest, change):
    assert SOURCE.replace(*change) != SOURCE and digest(SOURCE.replace(*change)) != digest(SOURCE)


def test_76_a_string_that_is_no_docstring_counts(digest):
    assert digest('LABEL = "safe"') != digest('LABEL = "unsafe"')


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_48_another_file_that_a_model_is_loaded_from_is_another_base(tmp_path, monkeypatch, name):
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    model, folder = tiny_models.model_params(), tmp_path / "llama"
    folder.mkdir()
    for each in ("config.json", "README.md", name):
        (folder / each).write_text("before")
    known = checkpoints.base_digest(model)
    (folder / "README.md").write_text("better words")
    assert checkpoints.base_digest(model) == known
    (folder / name).write_text("changed, and longer")
    assert checkpoints.base_digest(model) != known


def test_76_the_order_of_modules_counts(tmp_path):
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for file, text in zip(files, ("A = 1", "B = 2"), strict=True):
        file.write_text(text)
    assert checkpoints.code_digest(*files) != checkpoints.code_digest(*reversed(files))


@pytest.fixture
def saved(tmp_path):
    """Three sealed checkpoints; the third names the second as the best, which names itself."""
    for number, best in ((1, 1), (2, 2), (3, 2)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "weights").write_text(str(number))
        checkpoints.seal(folder, identity={"data": "d"}, best=f"checkpoint-{best}")
    return tmp_path


def test_47_the_newest_checkpoint_is_used_while_its_best_one_is_whole(saved):
    assert checkpoints.newest_usable(saved, {"data": "d"}) == (saved / "checkpoint-3", [])


@pytest.mark.parametrize("damage", ["lost", "changed", "unsealed"])
def test_47_a_checkpoint_whose_best_one_is_damaged_is_passed_over_too(saved, damage):
    weights, seal = (saved / "checkpoint-2" / name for name in ("weights", seals.SEAL))
    weights.write_text("9") if damage == "changed" else (weights if damage == "lost" else seal).unlink()
    found, notes = checkpoints.newest_usable(saved, {"data": "d"})
    assert found == saved / "checkpoint-1" and len(notes) == 2
    assert all(
        re.match(rf"checkpoint-{n} passed over: checkpoint-2", note) for n, note in zip((3, 2), notes, strict=True)
    )


def test_48_a_foreign_checkpoint_is_refused_even_if_its_best_one_is_damaged(saved):
    (saved / "checkpoint-2" / "weights").unlink()
    with pytest.raises(TrainingError, match="made with other data"):
        checkpoints.newest_usable(saved, {"data": "e"})


def test_47_a_seal_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power failure could leave a seal with nothing in it."""
    calls = []
    for name in ("fsync", "replace"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, plain=plain: (calls.append(name), plain(*args)))
    checkpoints.seal(tmp_path)
    assert calls == ["fsync", "replace"] and json.loads((tmp_path / seals.SEAL).read_text()) == {"files": {}}
