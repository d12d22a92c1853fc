"""What a kept result is known by: the text of the code that made it, and the files on disk that it went on from."""

from types import SimpleNamespace

import pytest

from emosafe_lib import checkpoints

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
        return checkpoints.code_digest(SimpleNamespace(__file__=str(path)))

    return digest_of


@pytest.mark.parametrize(
    "change",
    [
        ("LIMIT = 3", "LIMIT = 3  # rows"),
        ("for it.", "for it, at length."),
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


def test_76_the_order_of_modules_counts(tmp_path):
    modules = [SimpleNamespace(__file__=str(tmp_path / name)) for name in ("a.py", "b.py")]
    for module, text in zip(modules, ("A = 1", "B = 2"), strict=True):
        (tmp_path / module.__file__).write_text(text)
    assert checkpoints.code_digest(*modules) != checkpoints.code_digest(*reversed(modules))
