"""Tables as a notebook shows them: whole cells, and the settings that a run's two names stand for.

A reader who sees only `study = "sample"` and `model = "nano-1"` does not see rank, rate and epochs; the table under the
parameters cell says them, who set each, and what it is for. pandas is imported late: a runner that plans stages shows none.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emosafe_lib.study.parameters import ModelParams, Section, StudyParams, settings_of

if TYPE_CHECKING:
    import pandas as pd


def show_whole_cells() -> None:
    """Let tables show the whole of a definition or a list; pages wrap it, and pandas would cut it at 50 characters."""
    import pandas as pd

    pd.set_option("display.max_colwidth", None)


def values_of(section: Section, path: str = "") -> Iterator[tuple[str, object, bool]]:
    """Every setting of loaded parameters: its path, its value as JSON has it, and whether the file named it."""
    plain = section.model_dump(mode="json")
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from values_of(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", plain[name], name in section.model_fields_set


def resolved(loaded: StudyParams | ModelParams, file: str) -> "pd.DataFrame":
    """The settings that a parameter file comes to.

    Returns a table with the setting's path as index and the columns `value`, `from` (`file` where it names the setting,
    else "default") and `meaning`.
    """
    import pandas as pd

    settings = settings_of(type(loaded))
    rows = {
        path: {"value": value, "from": file if named else "default", "meaning": settings[path]["description"]}
        for path, value, named in values_of(loaded)
    }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object).rename_axis("setting")


def of_a_run(
    sections: Sequence[str], of_study: "pd.DataFrame", of_model: "pd.DataFrame | None", models: Sequence[str] = ()
) -> "pd.DataFrame":
    """The settings of a run: those of a study's `sections`, and of its model all but its resources, with `model.` before.

    `of_study` and `of_model` come from `resolved`; `models` are those that the notebook names in place of the study's.
    """
    import pandas as pd

    table = of_study[of_study.index.map(lambda path: path.split(".")[0] in sections)].copy()
    if models:
        table.at["models", "value"], table.at["models", "from"] = list(models), "this notebook"
    if of_model is None:
        return table
    matter = of_model[~of_model.index.str.startswith("resources.")].copy()
    matter.index = "model." + matter.index
    return pd.concat([table, matter]).rename_axis("setting")
