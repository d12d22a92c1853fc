"""Weights that a run will ask for, looked for before it starts.

Else a licence that nobody accepted would be told by one notebook after another, an hour or a night after the command.
"""

from collections.abc import Sequence

from emosafe_lib.models import backbone, gguf_files
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model
from workflow.receipts import is_current

LOAD_WEIGHTS = ("03_prompting_baselines", "04_lora_finetuning")
HUB_SECONDS = 10


def require_weights(study: StudyParams, models: Sequence[str], until: str = "") -> None:
    """Refuse models whose weights a stage up to `until` will load and cannot have; nothing is downloaded.

    Raises
    ------
    ModelError : names all models that lack theirs for the same reason
    """
    found = {name: what_is_wrong(load_model(name)) for name in models}
    found = {name: what for name, what in found.items() if what and will_load(study, load_model(name), models, until)}
    if found:
        first = next(iter(found.values()))
        others = " ".join(name for name in models if name not in found)
        go_on = f'run the others: MODELS="{others}"' if others else "name other models"
        absent = ", ".join(name for name in found if found[name] == first)
        raise ModelError(absent, first[0], f"{first[1]}, or {go_on}")


def will_load(study: StudyParams, model: ModelParams, models: Sequence[str], until: str) -> bool:
    """Whether a stage that is still to run loads this model's weights."""
    if until in LOAD_WEIGHTS:
        return not is_current(until, study, model.name, models)
    stages = [stage for stage in LOAD_WEIGHTS if not until or stage < until]
    return not all(is_current(stage, study, model.name, models) for stage in stages)


def what_is_wrong(model: ModelParams) -> tuple[str, str] | None:
    """Why a model's weights cannot be had, and the remedy; None where they can, or where none are asked for."""
    if model.backend != "transformers" or model.weights == "random":
        return None
    place, _, name = model.path.rpartition(":") if model.weights == "gguf" else (model.path, "", "config.json")
    if model.weights == "hub" or (model.weights == "gguf" and "/" in place):
        return what_the_hub_lacks(place, name, model.revision or "main")
    try:
        gguf_files.gguf_file(model) if model.weights == "gguf" else backbone.weights_location(model)
    except ModelError as error:
        return f"{error.where} {error.what}", error.remedy
    return None


def what_the_hub_lacks(repository: str, name: str, revision: str) -> tuple[str, str] | None:
    """Why the hub does not hand out a file, and the remedy; asked once, without its client's half minute of retries."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, name, revision=revision), str):
        return None
    try:
        get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), timeout=HUB_SECONDS)
    except errors.GatedRepoError:
        return "the hub keeps back weights with a licence to accept", "accept it there and log in with `hf auth login`"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError):
        return "the hub shows you no such repository or revision", "correct path: and revision:, or log in"
    except Exception:  # its client raises those of the HTTP library below it, which has changed before
        return "no weights in the hub's cache, and the hub cannot be asked", "unset HF_HUB_OFFLINE, look at the network"
    return None
