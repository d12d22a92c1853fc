"""Where a notebook's code would put a message's text on its page: read from the syntax tree, nothing is run.

A page may show a text through `rows.shown`, or out of a table that was cut to the rows written for this package. The
reading is a simple one: names that hold rows or texts are followed from cell to cell, helpers of the library that are
given a text are taken to return something else (a score, tokens, a judgement).
"""

import ast

TEXT = {"text", "text_parent"}
ROWS_FROM = {"read_rows", "take", "parents_of"}
RESULTS_FROM = {"merge", "prepare", "complete", "reinterpret"}  # their results keep rows in a field `rows`
SHOWS = {"print", "display", "Markdown"}
HANDS_ON = set(
    "str repr list tuple sorted set dict zip enumerate next iter DataFrame Series concat join format".split()
)
HANDS_ON |= {"display_text", "scrub"}
# Methods of a text or a table whose result holds no text any more.
REDUCES = set("len sum mean count nunique value_counts groupby map isin duplicated startswith".split())
PARTS = {"loc", "iloc", "at", "iat", "str", "values", "T"}


def displayed(sources: list[str]) -> list[tuple[int, int]]:
    """The (cell, line) of everything that would show a text, both counted from 1; `sources` are code cells in order."""
    reader, found = Reader(), []
    for number, source in enumerate(sources, 1):
        body = ast.parse(source).body
        for statement in body:
            reader.follow(statement)
            found += [(number, call.lineno) for call in calls(statement) if any(map(reader.reads, call.args))]
        if body and isinstance(body[-1], ast.Expr) and reader.reads(body[-1].value):
            found.append((number, body[-1].lineno))
    return found


def name_of(call: ast.Call) -> str:
    """The last part of a called name."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls(statement: ast.stmt) -> list[ast.Call]:
    """The calls within a statement that put their arguments on the page."""
    return [node for node in ast.walk(statement) if isinstance(node, ast.Call) and name_of(node) in SHOWS]


def keys(node: ast.expr) -> set[str]:
    """The column names in the brackets of a subscript."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    nested = [inner for part in parts for inner in (part.elts if isinstance(part, ast.List) else [part])]
    return {part.value for part in nested if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def own_rows_only(node: ast.expr) -> bool:
    """Whether an expression cuts a table to the rows written for this package."""
    return any(
        isinstance(part, ast.Compare)
        and isinstance(part.ops[0], ast.Eq)
        and isinstance(part.comparators[0], ast.Constant)
        and part.comparators[0].value == "synthetic"
        for part in ast.walk(node)
    )


class Reader:
    """Which names hold texts at a point of a notebook."""

    def __init__(self):
        self.holding: set[str] = set()
        self.own: set[str] = set()
        self.results: set[str] = set()

    def follow(self, statement: ast.stmt) -> None:
        """Take in the names that a statement binds."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self.bind(target, node.value)
            elif isinstance(node, ast.For | ast.comprehension):
                self.bind(node.target, node.iter)

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        """Take in one target; a tuple of names is matched with a tuple of values where both are written out."""
        if isinstance(target, ast.Tuple):
            same = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
            for part, given in zip(target.elts, value.elts if same else [value] * len(target.elts), strict=True):
                self.bind(part, given)
        elif isinstance(target, ast.Name):
            own = own_rows_only(value)
            held, result = self.reads(value) and not own, self.is_result(value)
            for names, belongs in ((self.holding, held), (self.own, own), (self.results, result)):
                names.add(target.id) if belongs else names.discard(target.id)

    def is_result(self, node: ast.expr) -> bool:
        """Whether an expression is what a merge or an augmentation returned."""
        if isinstance(node, ast.Call):
            return name_of(node) in RESULTS_FROM
        return isinstance(node, ast.Name) and node.id in self.results

    def reads(self, node: ast.AST) -> bool:
        """Whether the value of an expression holds a text."""
        match node:
            case ast.Name():
                return node.id in self.holding
            case ast.Attribute():
                if node.attr == "rows":
                    return self.is_result(node.value)
                return node.attr in TEXT or (node.attr in PARTS and self.reads(node.value))
            case ast.Subscript():
                if keys(node.slice):
                    base = getattr(node.value, "id", "")
                    return bool(keys(node.slice) & TEXT) and base not in self.own
                return self.reads(node.value)
            case ast.Call():
                return self.call_reads(node)
            case ast.Compare() | ast.Constant() | ast.Lambda():
                return False
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self.reads(node.elt)
            case ast.DictComp():
                return self.reads(node.key) or self.reads(node.value)
            case ast.IfExp():
                return self.reads(node.body) or self.reads(node.orelse)
        return any(self.reads(part) for part in ast.iter_child_nodes(node))

    def call_reads(self, call: ast.Call) -> bool:
        """Whether what a call returns holds a text."""
        name = name_of(call)
        if name in ROWS_FROM:
            return True
        if isinstance(call.func, ast.Attribute) and self.reads(call.func.value):
            return name not in REDUCES
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        return name in HANDS_ON and any(map(self.reads, given))
