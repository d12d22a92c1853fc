"""Where things lie: the checkout, its outputs, the files that come with the package.

Runner, kernels and JupyterLab each work in another folder, so every place is a whole path from here.
"""

import os
from pathlib import Path

from emosafe_lib.study.errors import ParameterError


def project_root() -> Path:
    """The checkout that holds params/ and notebooks/: `EMOSAFE_ROOT`, else the folder above this package.

    Raises
    ------
    ParameterError : no such checkout, braces in its path, or a relative name, which every kernel would take for another
        folder
    """
    root = without_braces(Path(os.environ.get("EMOSAFE_ROOT") or Path(__file__).resolve().parents[2]))
    if not root.is_absolute():
        raise ParameterError(f"EMOSAFE_ROOT={root}", "is relative", "give its whole path, such as EMOSAFE_ROOT=$PWD")
    if not (root / "params" / "study").is_dir():
        raise ParameterError(root, "holds no params/study folder", "set EMOSAFE_ROOT to an emosafe checkout")
    return root


def without_braces(path: Path) -> Path:
    """The path itself; papermill and Snakemake would fill in whatever stands between braces.

    Raises
    ------
    ParameterError : it has a brace
    """
    if {"{", "}"} & set(str(path)):
        raise ParameterError(path, "has braces in its path", "rename or move the folder")
    return path


def folder_named(variable: str, usual: str) -> Path:
    """The folder that an environment variable names, else the checkout's usual one.

    A relative name starts at the checkout, because runner, kernels and JupyterLab each work in another folder.

    Raises
    ------
    ParameterError : its path has braces, or it, or what it would lie in, is a file
    """
    folder = without_braces((project_root() / (os.environ.get(variable) or usual)).resolve())
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not there.is_dir():
        named = f"{variable}={folder}" if os.environ.get(variable) else folder
        raise ParameterError(named, f"{there.name} is a file", "name a folder")
    return folder


def settled(name: str) -> str:
    """A parameter file's name as it is, its path as a whole one: engine and kernels each work in another folder."""
    return str(Path(name).resolve()) if name.endswith((".yaml", ".yml")) else name


ASSETS = Path(__file__).resolve().parents[1] / "assets"


def outputs_root() -> Path:
    """Where results go: `EMOSAFE_OUTPUTS`, else `outputs/` of the checkout."""
    return folder_named("EMOSAFE_OUTPUTS", "outputs")


def cache_root() -> Path:
    """Where is kept what can be made again: `EMOSAFE_CACHE`, else the user's cache folder. It may be deleted at any time."""
    import pooch

    return folder_named("EMOSAFE_CACHE", str(pooch.os_cache("emosafe")))


def stage_folder(study: str, stage: str, model: str | None = None) -> Path:
    """`outputs/<study>/<stage>` or `outputs/<study>/<model>/<stage>`."""
    base = outputs_root() / study
    return base / model / stage if model else base / stage
