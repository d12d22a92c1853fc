"""Tables and lists as strangers send them: own data, classify's files, the journal and replies refuse the same things."""

import io
import json
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from emosafe_lib.augment import tactics
from emosafe_lib.augment.journal import Answer, Journal
from emosafe_lib.data.cleaning import Unreadable
from emosafe_lib.data.sources import own, raw_tables
from emosafe_lib.ondevice import classify, messages
from emosafe_lib.study import strict_reading
from emosafe_lib.study.errors import AugmentationError, EmosafeError, ModelError, SourceError

CANARY = "my secret message 424242"
GOOD = {"text": CANARY, "safety": "safe"}
DEEP = "[" * 100_000 + "]" * 100_000


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def by_merge(path):
    return [record.text for record in own.records(path)]


def by_classify(path):
    return list(messages.texts_of(str(path), "text"))


def refused(read, path):
    """The one line that says why; it names the file and shows no message."""
    with pytest.raises(EmosafeError) as caught:
        read(path)
    said = str(caught.value)
    assert path.name in said and "\n" not in said and "424242" not in said and len(said) < 600
    return said


both = pytest.mark.parametrize("read", [by_merge, by_classify])
FILES = {
    "columns 2 and 3 have the same name": ("a.csv", f"text,safety,safety\n{CANARY},safe,unsafe\n"),
    "columns 1 and 3 have the same name": ("a.csv", f"text,safety,text\n{CANARY},safe,{CANARY}\n"),
    "is empty": ("a.csv", ""),
    "is empty ": ("a.jsonl", ""),
    "holds no": ("a.csv", "text,safety\n"),
    "holds no ": ("a.csv", "text,safety\n\n\n"),
    "holds no  ": ("a.jsonl", "\n\n"),
    "header: needs text|has no column 'text'": ("a.csv", f"{CANARY},safe\n{CANARY},safe\n"),
    "header: needs text|has no column 'text' ": ("a.csv", f"message,level\n{CANARY},safe\n"),
    "header: needs text|has no column 'text'  ": ("a.csv", json.dumps(GOOD) + "\n"),
    "not UTF-8|not utf-8|has no column": ("a.csv", b"PK\x03\x04\x14\xff\xfe" + b"\x80" * 99),
    "is UTF-16": ("a.csv", f"text,safety\n{CANARY},safe\n".encode("utf-16")),
    "is UTF-16 ": ("a.csv", f"text,safety\n{CANARY},safe\n".encode("utf-16-le")),
    "is UTF-16  ": ("a.jsonl", json.dumps(GOOD).encode("utf-16-be")),
    "a carriage return ends some lines": ("a.csv", f"text,safety\n{CANARY}\r{CANARY},safe\n"),
    "a carriage return ends some lines ": ("a.csv", "text,safety\nfine,safe\rnot fine,safe\nfine,safe\n"),
    "neither CSV nor JSONL": ("a.xlsx", f"text,safety\n{CANARY},safe\n"),
}


@both
@pytest.mark.parametrize("what", FILES)
def test_a_file_that_hides_rows_is_refused_in_one_line_without_a_cell(read, what, tmp_path):
    said = refused(read, write(tmp_path, *FILES[what]))
    assert any(reason in said for reason in what.strip().split("|"))


@both
@pytest.mark.parametrize("between", ";\t|,")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.CSV"])
def test_separators_and_line_ends_are_found_out(read, between, end, name, tmp_path):
    lines = [["id", "text", "safety"], ["1", CANARY, "safe"], ["2", '"so; it, is\t|"', "safe"]]
    path = write(tmp_path, name, end.join(map(between.join, lines)) + end)
    assert read(path) == [CANARY, "so; it, is\t|"]


@both
def test_an_upper_case_suffix_is_the_same_kind(read, tmp_path):
    assert read(write(tmp_path, "a.JSONL", json.dumps(GOOD))) == [CANARY]


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("a.jsonl", "\n \n" + json.dumps(GOOD) + "\n\n{}", "row 5: "),
        ("a.jsonl", "\n" + json.dumps(GOOD | {"violence_hate": 7}), "row 2: "),
        ("a.csv", f"text,safety\n\n{CANARY},safe\n\n{CANARY},fine\n", "row 4: "),
    ],
)
def test_row_numbers_are_those_of_the_file(name, content, row, tmp_path):
    assert row in refused(by_merge, write(tmp_path, name, content))


def test_blank_lines_have_no_result_and_count(tmp_path):
    reader = object.__new__(classify.Classifier)
    reader.score = lambda texts: [{"outcome": "ok"} for _ in texts]
    for path in (
        write(tmp_path, "a.jsonl", "\n" + json.dumps(GOOD) + "\n \n{}\n"),
        write(tmp_path, "a.csv", f"safety,text\n\nsafe,{CANARY}\n\nsafe\n"),
    ):
        found = list(reader.classify(messages.texts_of(str(path), "text")))
        assert [(row["row"], row["outcome"].split(":")[0]) for row in found] == [(1, "ok"), (3, "refused")]


def test_rows_before_a_broken_one_are_finished(tmp_path):
    reader = object.__new__(classify.Classifier)
    reader.score = lambda texts: [{"outcome": "ok"} for _ in texts]
    found = reader.classify(messages.texts_of(str(write(tmp_path, "a.csv", 'text\na\nb\n"open\n')), "text"))
    assert [next(found)["row"], next(found)["row"]] == [0, 1]
    with pytest.raises(ModelError, match="row 3"):
        next(found)


# --- JSON -------------------------------------------------------------------------------------------------------------

BAD_JSON = {
    "a name is given twice": '{"text": "CANARY", "safety": "unsafe", "safety": "safe"}',
    "a name is given twice ": '{"safety": "safe", "text": "a", "id": {"a": 1, "a": 2}}',
    "NaN is no JSON": '{"text": "CANARY", "safety": "safe", "group": NaN}',
    "Infinity is no JSON": '{"text": "CANARY", "safety": "safe", "emotion": -Infinity}',
    "Infinity is no JSON ": '{"text": "CANARY", "safety": "safe", "group": 1e999}',
    "an integer of more than 20 digits": '{"text": "CANARY", "safety": "safe", "id": ' + "9" * 5000 + "}",
    "an integer of more than 20 digits ": '{"text": "CANARY", "safety": "safe", "id": -' + "9" * 400 + "}",
    "nested too deeply": '{"text": "CANARY", "safety": "safe", "id": ' + DEEP + "}",
    "no valid JSON": '{"text": "CANARY", "safety": "safe"',
    "no valid JSON ": "",
    "no valid JSON  ": '{"text": "CANARY"} {"text": "CANARY"}',
}
BAD_JSON = {what: line.replace("CANARY", CANARY) for what, line in BAD_JSON.items()}


@pytest.mark.parametrize("what", [what for what in BAD_JSON if BAD_JSON[what]])
def test_ambiguous_json_is_one_line_with_the_row_and_one_refused_message(what, tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps(GOOD) + "\n" + BAD_JSON[what] + "\n" + json.dumps(GOOD))
    assert f"line 2: {what.strip()}" in refused(by_merge, path)
    assert by_classify(path) == [CANARY, Unreadable(what.strip()), CANARY]


@pytest.mark.parametrize("what", BAD_JSON)
def test_a_reply_and_a_journal_line_of_such_json_are_none(what, tmp_path):
    assert tactics.parse_reply(BAD_JSON[what]) is None
    path = write(tmp_path, "j.jsonl", '{"sent":"a"}\n' + BAD_JSON[what] + "\n")
    with pytest.raises(AugmentationError, match=r"^j\.jsonl line 2: is not a journal record; [^4]*$"), Journal(path):
        pass


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '"sent"',
        "7",
        "null",
        '{"sent": ["a"]}',
        '{"batch_done": {}}',
        '{"key": "a", "outcome": "ok", "content": [1]}',
        '{"key": "a", "outcome": "ok", "cost_usd": "1"}',
        '{"key": 5, "outcome": "ok"}',
        '{"key": "a", "outcome": "ok", "colour": "red"}',
        '{"outcome": "ok"}',
        "\udcff",
    ],
)
def test_a_journal_line_of_another_shape_is_refused(line, tmp_path):
    path = write(tmp_path, "j.jsonl", ('{"sent":"a"}\n' + line + "\n").encode("utf-8", "surrogateescape"))
    with pytest.raises(AugmentationError, match=r"j\.jsonl line 2"), Journal(path):
        pass


def test_a_journal_keeps_what_an_answer_may_hold(tmp_path):
    answer = Answer("a", "ok", "lone \ud800", "m", 1, 2, 0, 0.5, 2, "note")
    for _ in range(2):
        with Journal(tmp_path / "j.jsonl") as journal:
            journal.answered(answer)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.answers == {"a": answer} and not journal.torn


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["id", "group", "emotion"])
@pytest.mark.parametrize("value", [True, [1], {"a": CANARY}, "a\ud800", "NaN", "nan", "Infinity"])
def test_what_names_nothing_is_refused_with_its_row(key, value, tmp_path):
    path = write(tmp_path, "a.jsonl", "\n" + json.dumps(GOOD | {key: value}))
    assert f"row 2: {key} must be text, a number or blank" in refused(by_merge, path)


@pytest.mark.parametrize("key", ["id", "group", "emotion"])
def test_a_spreadsheets_nan_is_refused_too(key, tmp_path):
    assert "row 1" in refused(by_merge, write(tmp_path, "a.csv", f"text,safety,{key}\n{CANARY},safe,nan\n"))


def test_one_id_twice_is_told_by_its_rows(tmp_path):
    path = write(tmp_path, "a.csv", f"id,text,safety\n{CANARY},a,safe\n7,b,safe\n{CANARY},c,safe\n")
    assert "rows 1 and 3 have the same id" in refused(by_merge, path)


@pytest.mark.parametrize("value", [[CANARY], {CANARY: 1}, CANARY, 2, 0.5])
def test_a_flag_is_a_flag(value, tmp_path):
    path = write(tmp_path, "a.jsonl", json.dumps(GOOD | {"violence_hate": value}))
    assert "row 1: violence_hate must be" in refused(by_merge, path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_unknown_column_that_may_be_a_message_is_told_by_its_number(name, tmp_path):
    content = f"text,safety,{CANARY}\na,safe,1\n" if name == "a.csv" else json.dumps(GOOD | {CANARY: 1})
    assert "unknown column number 3" in refused(by_merge, write(tmp_path, name, content))


# --- long lines -------------------------------------------------------------------------------------------------------


class Endless(io.StringIO):
    """A line without end in sight; whoever asks for all of it at once holds too much."""

    def __init__(self, before: str, characters: int, after: str):
        super().__init__(before)
        self.left, self.after, self.held = characters, after, 0

    def readline(self, size=-1):
        if line := super().readline():
            return line
        assert 0 < size <= strict_reading.MOST_LINE_CHARACTERS + 1
        if self.left:
            taken = min(size, self.left)
            self.left -= taken
            return "x" * taken
        self.after, after = "", self.after
        super().__init__(after)
        self.left = 0
        return super().readline()


def test_a_line_of_hundreds_of_megabytes_is_never_held(monkeypatch):
    monkeypatch.setattr(strict_reading, "MOST_LINE_CHARACTERS", 1000)
    stream = Endless('{"text": "a"}\n', 300_000, '\n{"text": "b"}\n')
    first, long, last = messages.jsonl_texts(stream, "a.jsonl", "text")
    assert (first, last) == ("a", "b") and "more than" in long.reason
    with pytest.raises(ModelError, match="row 2: line 3: more than 1000 characters"):
        list(messages.csv_texts(Endless("text\na\n", 300_000, "\nb\n"), "a.csv", "text"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_own_data_with_such_a_line_is_refused_with_its_number(name, tmp_path, monkeypatch):
    monkeypatch.setattr(strict_reading, "MOST_LINE_CHARACTERS", 1000)
    row = f"{CANARY},safe\n" if name == "a.csv" else json.dumps(GOOD) + "\n"
    path = write(tmp_path, name, ("text,safety\n" if name == "a.csv" else "") + row + "424242" * 1000 + "\n" + row)
    assert "more than 1000 characters" in refused(by_merge, path)


def test_a_journal_with_such_a_line_is_refused_with_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(strict_reading, "MOST_LINE_CHARACTERS", 1000)
    path = write(tmp_path, "j.jsonl", '{"sent":"a"}\n{"sent":"' + "x" * 5000 + '"}\n')
    with pytest.raises(AugmentationError, match="line 2"), Journal(path):
        pass


# --- any file ---------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    r'text,safety|text,safety,id,group|a,safe|b,unsafe,1,2|{"text": "a", "safety": "safe"}|{"text":|NaN|1e999'.split(
        "|"
    )
    + list('",;\t\n\n\r\x00[]{}é\ufeff\ud800')
    + ["\r\n", "nan", "424242", "text", "safety", "id", "violence_hate", "9" * 30]
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=9).map("".join), st.sampled_from(["a.csv", "a.jsonl"]))
@example("\ufeff", "a.csv")
@example("\ufeff", "a.jsonl")
def test_any_file_is_read_or_refused_in_one_line(tmp_path, text, name):
    path = write(tmp_path, name, text.encode("utf-8", "surrogatepass"))
    for read in (by_merge, by_classify):
        try:
            assert read(path)
        except (SourceError, ModelError) as refusal:
            said = str(refusal)
            assert "\n" not in said and "424242" not in said


def test_public_tables_may_repeat_a_name_only_where_their_reader_says_so(tmp_path):
    path = write(tmp_path, "a.csv", "a,b,a\n1,2,3\n")
    assert raw_tables.read_table(path, repeated_names=True).to_dict("records") == [{"a": "1", "b": "2"}]
    with pytest.raises(SourceError, match="columns 1 and 3"):
        raw_tables.read_table(path)


def test_a_first_line_of_quotes_is_sniffed_in_no_time():
    begin = time.process_time()
    assert strict_reading.delimiter_of(",'a,\"b" * 1_000_000)
    assert time.process_time() - begin < 1
