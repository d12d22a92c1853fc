"""Download the raw files of a study's sources, and say first what their licences ask.

pooch does the transfer and shows its progress. A file is written beside, resumed there after a cut, checked against its
accepted SHA-256 values, and only then renamed into place: a final file is always a whole and right one.
"""

import argparse
from pathlib import Path

from emosafe_lib.data.sources.base import File, Source, check_file
from emosafe_lib.data.sources.registry import chosen, data_folder
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.files import put_in_place
from emosafe_lib.study.parameters import load_study

TIMEOUT = 60  # seconds without a byte
GONE = (404, 410)  # nothing more will come of what has arrived; after any other refusal it is gone on with


def transfer(url: str, part: Path, progress: bool) -> None:
    """Append what is still missing of `url` to the partial file `part`.

    Raises
    ------
    SourceError : the server refuses, or the connection is cut; what has arrived is kept for the next run
    """
    import pooch
    import requests

    start = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    downloader = pooch.HTTPDownloader(progressbar=progress, headers=headers, timeout=TIMEOUT)
    try:
        with open(part, "ab") as stream:
            downloader(url, stream, None)
    except requests.HTTPError as error:
        status = error.response.status_code
        if status == 416:  # nothing is missing
            return
        if status in GONE:
            part.unlink(missing_ok=True)
        raise SourceError(url, f"the server answered {status}", "check the address; the file may have moved") from None
    except requests.RequestException as error:
        raise SourceError(url, f"{type(error).__name__} after {part.stat().st_size} bytes", "run it again") from None


def fetch_file(source: Source, file: File, folder: Path, progress: bool = True) -> bool:
    """Bring one file into place; False where it was there already. One that is there and wrong is never overwritten unasked.

    A resumed file that turns out wrong is fetched once more from its beginning, since a server may ignore the resuming.
    """
    path = folder / source.name / file.name
    if path.is_file():
        check_file(source, file, path)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    resumed = part.is_file() and part.stat().st_size > 0
    transfer(source.url(file), part, progress)
    try:
        check_file(source, file, part)
    except SourceError:
        part.unlink()
        if not resumed:
            raise
        return fetch_file(source, file, folder, progress)
    put_in_place(part, path)
    return True


def fetch(sources: list[Source], folder: Path, progress: bool = True, say=print) -> int:
    """Fetch the files of all sources; returns how many were new.

    Raises
    ------
    SourceError : a download failed, or sources that cannot be downloaded (all of them named, after the others are done)
    """
    for source in sources:
        if source.restricted:
            say(f"licence restricts use: {source.name}: {source.licence}; {source.restricted}")
    new, waiting = 0, []
    for source in sources:
        if source.folder is not None:
            continue
        if source.copy_only and any(not (folder / source.name / file.name).is_file() for file in source.files):
            waiting.append(source)
            continue
        fresh = sum(fetch_file(source, file, folder, progress) for file in source.files)
        say(f"{source.name}: {fresh} of {len(source.files)} files fetched")
        new += fresh
    if waiting:
        reasons = "; ".join(f"{source.name} ({source.copy_only})" for source in waiting)
        remedy = "set EMOSAFE_DATA_DIR to a folder that holds the copy, or remove them from the study"
        raise SourceError("data", f"not downloaded: {reasons}", remedy)
    return new


def main(arguments: list[str] | None = None) -> int:
    """`emosafe data fetch --study NAME`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="emosafe data", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["fetch", "list"])
    parser.add_argument("--study", default="sample", help="a file in params/study/")
    parser.add_argument("--sources", nargs="+", help="these registered sources, in place of a study's")
    options = parser.parse_args(arguments)
    data = load_study(options.study).data
    sources = chosen(options.sources or data.sources, data)
    if options.command == "list":
        for source in sources:
            print(f"{source.name:28} {source.licence}")
    else:
        print(f"{fetch(sources, data_folder())} files fetched")
    return 0
