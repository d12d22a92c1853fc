"""The registered sources: where each comes from, under which licence, and what its labels mean here.

One small module a source, named as the source. `registry()` finds them by name, so adding a source is adding a file.
Raw files are looked for in the folder that `EMOSAFE_DATA_DIR` names, else in `data/` of the checkout; both have one
folder a source.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd

from emosafe_lib.data.sources import own
from emosafe_lib.data.sources.base import Source, check_file, to_rows
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.paths import folder_named

MACHINERY = {"base", "raw_tables", "keywords", "own", "fetch", "registry"}


@cache
def registry() -> dict[str, Source]:
    """All sources of this package by name, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name not in MACHINERY:
            for source in importlib.import_module(f"{__package__}.{module.name}").SOURCES:
                found[source.name] = source
    return dict(sorted(found.items()))


def known_sources(data: DataParams | None = None) -> dict[str, Source]:
    """The registry, and the sources that a study brings along (`own_sources`)."""
    extra = {params.name: own.source(params) for params in data.own_sources} if data else {}
    taken = set(extra) & set(registry())
    if taken:
        raise SourceError(f"own_sources.{min(taken)}", "is the name of a registered source", "choose another name")
    return registry() | extra


def chosen(names: Iterable[str], data: DataParams | None = None) -> list[Source]:
    """The sources of these names, out of `known_sources`, in alphabetical order.

    Raises
    ------
    SourceError : names that nobody registered, all of them at once
    """
    known, wanted = known_sources(data), sorted(set(names))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SourceError(f"sources {', '.join(unknown)}", "not registered", f"choose among {', '.join(known)}")
    return [known[name] for name in wanted]


def data_folder() -> Path:
    """Where raw files lie: `EMOSAFE_DATA_DIR`, else `data/` of the checkout."""
    return folder_named("EMOSAFE_DATA_DIR", "data")


def folder_of(source: Source, folder: Path | None = None) -> Path:
    """Where a source's raw files lie: its own folder, else one of its name below `folder` or the data folder."""
    return source.folder or (Path(folder) if folder else data_folder()) / source.name


def files(source: Source | str, folder: Path | None = None) -> dict[str, Path]:
    """The raw files of a source by name, each with its hash checked.

    Raises
    ------
    SourceError : files that are absent (all of them listed), or changed
    """
    if isinstance(source, str):
        (source,) = chosen([source])
    refuse_missing([source], folder)
    paths = {file.name: folder_of(source, folder) / file.name for file in source.files}
    for file in source.files:
        check_file(source, file, paths[file.name])
    return paths


def missing(sources: list[Source], folder: Path | None = None) -> list[str]:
    """The files that are not there, of all given sources at once: as `source/file`, one's own as the study names it."""
    wanted = [(source, file) for source in sources for file in source.files]
    absent = [(source, file) for source, file in wanted if not (folder_of(source, folder) / file.name).is_file()]
    return [file.path if source.folder else f"{source.name}/{file.name}" for source, file in absent]


def refuse_missing(sources: list[Source], folder: Path | None = None) -> None:
    """Stop where files are not there.

    Raises
    ------
    SourceError : names them all at once, and says where each kind has to be
    """
    absent, remedies = missing(sources, folder), []
    if missing([source for source in sources if not source.folder], folder):
        remedies.append("run `make data STUDY=...`, or set EMOSAFE_DATA_DIR to a folder that holds them")
    if missing([source for source in sources if source.folder]):
        remedies.append("put your own where own_sources says, by its path from the checkout, or correct that path")
    if absent:
        raise SourceError("data", f"{len(absent)} files missing: {', '.join(absent)}", "; ".join(remedies))


def read(source: Source | str, folder: Path | None = None) -> pd.DataFrame:
    """The rows of one source before any merging, columns `RAW_COLUMNS`.

    `attrs["left_out"]` of the table counts the upstream labels that were left out by name.

    Raises
    ------
    SourceError : the source is not registered; files absent, changed or malformed, a label outside the mapping, an id given
        twice
    """
    if isinstance(source, str):
        (source,) = chosen([source])
    table, left_out = to_rows(source, source.records(files(source, folder)))
    table.attrs["left_out"] = left_out
    return table
