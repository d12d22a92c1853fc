"""Weights that a run will ask for, looked for before it starts.

Else a licence that nobody accepted would be told by one notebook after another, an hour or a night after the command.
"""

from collections.abc import Sequence
from pathlib import Path

from emosafe_lib.models import backbone, gguf_files
from emosafe_lib.study import paths
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model
from workflow.receipts import RECEIPT, is_current, outdated

READ_ROWS = ("01_data_merge", "02_chatgpt_augmentation")  # what both of the next are made from
LOAD_WEIGHTS = ("03_prompting_baselines", "04_lora_finetuning")
WHOLE = ("model.safetensors", "model.safetensors.index.json")  # a checkpoint has one of them
HUB_SECONDS = 10


def require_weights(study: StudyParams, models: Sequence[str], until: str = "") -> None:
    """Refuse models whose weights a stage up to `until` will load and cannot have; nothing is downloaded.

    Raises
    ------
    ModelError : names all models that lack theirs for the same reason
    """
    absent = [model for model in map(load_model, models) if not at_hand(model)]
    found = {model.name: what_is_wrong(model) for model in absent if will_load(study, model, models, until)}
    found = {name: what for name, what in found.items() if what}
    if found:
        first = next(iter(found.values()))
        others = " ".join(name for name in models if name not in found)
        go_on = f'run the others: MODELS="{others}"' if others else "name other models"
        alike = ", ".join(name for name in found if found[name] == first)
        raise ModelError(alike, first[0], f"{first[1]}, or {go_on}")


def at_hand(model: ModelParams) -> bool:
    """Whether a model's weights are on this machine, or none are asked for; quick, since every run asks."""
    if model.backend != "transformers" or model.weights == "random":
        return True
    file = file_on_hub(model)
    return in_cache(*file) if file else what_is_wrong_here(model) is None


def file_on_hub(model: ModelParams) -> tuple[str, str, str] | None:
    """Repository, name and revision of the file by which a model on the hub is known; None for one that is elsewhere."""
    place, _, name = model.path.rpartition(":") if model.weights == "gguf" else (model.path, "", "config.json")
    on_hub = model.weights == "hub" or (model.weights == "gguf" and "/" in place)
    return (place, name, model.revision or "main") if on_hub else None


def will_load(study: StudyParams, model: ModelParams, models: Sequence[str], until: str) -> bool:
    """Whether a stage that is still to run loads this model's weights."""
    stages = [stage for stage in LOAD_WEIGHTS if until in ("", stage) or (until not in LOAD_WEIGHTS and stage < until)]
    current = all(is_current(stage, study, model.name, models) for stage in stages)
    return bool(stages) and (not current or rows_change(study, models))


def rows_change(study: StudyParams, models: Sequence[str]) -> bool:
    """Whether the rows of a study are still to be made, which makes all that was made from them anew."""
    receipts = [paths.stage_folder(study.name, stage) / RECEIPT for stage in READ_ROWS]
    return not all(path.is_file() for path in receipts) or bool(outdated(study, models, READ_ROWS[-1]))


def what_is_wrong(model: ModelParams) -> tuple[str, str] | None:
    """Why a model's weights cannot be had, and the remedy; None where they can."""
    file = file_on_hub(model)
    return what_the_hub_lacks(*file) if file else what_is_wrong_here(model)


def what_is_wrong_here(model: ModelParams) -> tuple[str, str] | None:
    """Why weights that come with the package, by pip or in a file are not there, and the remedy; None where they are."""
    try:
        if model.weights == "gguf":
            gguf_files.gguf_file(model)
        elif not (Path(backbone.weights_location(model)) / "config.json").is_file():
            return f"{model.path} holds no model", "install it again, or correct path:"
    except ModelError as error:
        return f"{error.where} {error.what}", error.remedy
    return None


def what_the_hub_lacks(repository: str, name: str, revision: str) -> tuple[str, str] | None:
    """Why the hub does not hand out a file, and the remedy; asked once, without its client's half minute of retries."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), timeout=HUB_SECONDS)
    except errors.GatedRepoError:
        return "the hub keeps back weights with a licence to accept", "accept it there and log in with `hf auth login`"
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError):
        return "the hub shows you no such repository or revision", "correct path: and revision:, or log in"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            return "the hub refuses your token", "log in anew with `hf auth login`, or unset HF_TOKEN"
        return f"the hub answers with status {status}", "try again later"
    except ValueError:
        return f"{repository} is no repository's name", "write path: owner/name"
    except Exception:  # its client raises those of the HTTP library below it, which has changed before
        return "no weights in the hub's cache, and the hub cannot be asked", "unset HF_HUB_OFFLINE, look at the network"
    return None


def in_cache(repository: str, name: str, revision: str) -> bool:
    """Whether the hub's cache holds a file, and weights beside it where it is a checkpoint's configuration."""
    from huggingface_hub import try_to_load_from_cache

    def held(each: str) -> bool:
        try:
            return isinstance(try_to_load_from_cache(repository, each, revision=revision), str)
        except ValueError:  # no repository has such a name
            return False

    return held(name) and (name != "config.json" or any(map(held, WHOLE)))
