"""Typed parameters: every YAML file passes through here before anything runs.

Defaults live in these classes and nowhere else; a parameter file holds only what differs. YAML has traps (a study called
`1e3` is a number, a second key of the same name may win), and papermill pastes parameter names into code, so files are
read strictly and checked by strict types, and whatever is refused is named with its file, key and rule.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from emosafe_lib.study.errors import ParameterError
from emosafe_lib.study.paths import project_root, without_braces
from emosafe_lib.study.yaml_files import read_yaml, refuse_secrets

NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
RELATIVE_PATH = r"^([A-Za-z0-9_][A-Za-z0-9_./-]*)?$"
WEIGHTS_PATH = r"^([A-Za-z0-9_][A-Za-z0-9_./-]*(:[A-Za-z0-9_][A-Za-z0-9_./-]*)?)?$"
Name = Annotated[str, StringConstraints(pattern=NAME)]


def stays_below(path: str) -> str:
    """Refuse `..`, so that a relative path cannot climb out of its folder."""
    if ".." in re.split("[/:]", path):
        raise ValueError("must not contain ..")
    return path


RelativePath = Annotated[str, StringConstraints(pattern=RELATIVE_PATH, max_length=200), AfterValidator(stays_below)]
Address = Annotated[str, StringConstraints(min_length=1, max_length=200)]
WeightsPath = Annotated[str, StringConstraints(pattern=WEIGHTS_PATH, max_length=200), AfterValidator(stays_below)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes


def named_once(values: list) -> list:
    """Refuse a value that is named twice: two runs of one key would be found only after both are paid for."""
    if len(set(values)) != len(values):
        raise ValueError("each value may be named once")
    return values


Once = AfterValidator(named_once)
SWITCH_WORDS = {"yes": True, "no": False, "on": True, "off": False, "True": True, "False": False}
Switch = Annotated[bool, BeforeValidator(lambda value: SWITCH_WORDS.get(str(value), value))]


class Section(BaseModel):
    """Base of all sections: unknown keys refused, no coercion, finite numbers only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OwnSourceParams(Section):
    """A CSV or JSONL file of your own, described in `params/README.md`."""

    name: Name = Field(description="What the source is called in `data.sources` and in every table.", examples=["mine"])
    file: RelativePath = Field(
        min_length=1, description="The CSV or JSONL file, relative to the checkout.", examples=["data/mine.csv"]
    )
    role: Literal["train", "external"] = Field(
        "train", description="`external` is for evaluation only: leave it out of `data.sources`."
    )
    licence: str = Field("own", max_length=100, description="The licence that the data card names.")
    quality: Literal["direct", "weak"] = Field(
        "direct", description="`weak` if nobody labelled the messages one by one; such rows give way to direct ones."
    )
    kind: Literal["first-person", "reply", "comment", "prompt", "template", "advice"] = Field(
        "comment", description="Who speaks in these messages, and to whom."
    )
    mental_health: Switch = Field(
        False, description="Whether its first-person rows speak of the writer's mental health."
    )


class DataParams(Section):
    """What is merged (notebook 01)."""

    sources: list[Name] = Field(
        min_length=1,
        description="The sources to merge, registered ones and your own, in any order.",
        examples=[["emosafe_sample"]],
    )
    caps: dict[Name, Positive] = Field({}, description="The most rows to keep of a source, by its name.")
    max_class_share: Fraction = Field(0.25, description="The largest share of a safety level that one source may give.")
    balance_sources: Switch = Field(
        True, description="Leave rows out until the bounds on a source's accuracy and on the smallest shares hold."
    )
    max_source_accuracy: Fraction = Field(
        0.42, description="The best accuracy that guessing the level from the source's name may reach."
    )
    min_class_share: Fraction = Field(0.3, description="The smallest share of rows that a safety level may have.")
    min_mental_health_share: Fraction = Field(
        0.4, description="The smallest share of rows in which somebody speaks of their own mental health."
    )
    min_source_rows: int = Field(0, ge=0, description="So many rows of each source are kept, or all that it has.")
    max_characters: Positive = Field(
        10_000, description="Longer messages are set aside: they are several run together."
    )
    near_duplicate_jaccard: Fraction = Field(
        0.7, description="Messages that share so much of their word sequences stay in one split."
    )
    split_shares: dict[Literal["train", "validation", "test"], Fraction] = Field(
        {"train": 0.7, "validation": 0.15, "test": 0.15}, description="The shares of the three splits; they sum to 1."
    )
    salt: str = Field("emosafe", max_length=40, description="Another word draws other splits.")
    own_sources: list[OwnSourceParams] = Field([], description="Files of your own; `data.sources` says which to merge.")

    @model_validator(mode="after")
    def shares_sum_to_one(self):
        if abs(sum(self.split_shares.values()) - 1) > 1e-9 or len(self.split_shares) != 3:
            raise ValueError("split_shares must name train, validation and test and sum to 1")
        return self

    @model_validator(mode="after")
    def names_belong_together(self):
        own, unknown = [params.name for params in self.own_sources], sorted(set(self.caps) - set(self.sources))
        if len(set(own)) != len(own):
            raise ValueError("own_sources: each name may be given once")
        if unknown:
            raise ValueError(f"caps: {unknown[0]} is not in sources, so its cap would do nothing")
        return self


class AugmentationParams(Section):
    """How re-interpretations are made (notebook 02)."""

    provider: Literal["template", "openai", "openai-batch", "replay"] = Field(
        "template", description="Who writes them; `template` needs no network, `replay` takes what was answered before."
    )
    model: str = Field("gpt-4o-mini", max_length=100, description="The chat model that is asked.")
    base_url: Address | None = Field(
        None, description="The address of an OpenAI-compatible server; null is OpenAI's own."
    )
    proxy: Address | None = Field(
        None, description="A proxy to ask through; without one the server is asked directly, whatever HTTPS_PROXY says."
    )
    max_share: Fraction = Field(0.2, description="The largest share of a class that may be re-interpretations.")
    max_rows: Positive = Field(2000, description="The most re-interpretations to ask for.")
    max_cost_usd: float = Field(5.0, ge=0, description="What may be spent, in US dollars; a run stops before it.")
    temperature: float = Field(0.7, ge=0, le=2, description="How freely the chat model writes.")
    concurrency: int = Field(8, ge=1, le=256, description="How many requests are under way at once.")
    requests_per_minute: Positive = Field(500, description="The most requests to send in a minute.")
    tokens_per_minute: Positive = Field(200_000, description="The most tokens to send and ask for in a minute.")
    deadline_seconds: float = Field(120.0, gt=0, description="When to give up on a request, all its tries together.")
    attempt_seconds: float = Field(60.0, gt=0, description="How long one try of a request may take.")
    attempts: int = Field(4, ge=1, le=10, description="How often a request is tried.")
    prices: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="US dollars per million input and output tokens, batches' discount aside; null takes published prices.",
    )
    batch_wait_seconds: float = Field(
        3600.0, ge=0, description="How long to wait for a batch; a later run goes on waiting."
    )
    batch_poll_seconds: float = Field(30.0, gt=0, description="How often to ask whether a batch is done.")
    second_judge: Literal["none", "local"] = Field(
        "none", description="`local` has a TF-IDF classifier judge the level of every re-interpretation again."
    )
    strict_model: Switch = Field(False, description="Stop when another model answers than was asked.")
    seed: Seed = Field(0, description="It chooses which messages are re-told, and how.")


class PromptingParams(Section):
    """Zero- and few-shot scoring (notebook 03)."""

    variants: Annotated[list[Name], Once] = Field(
        ["plain", "guard", "careful"], min_length=1, description="The wordings to ask with in zero-shot."
    )
    few_shot_variants: Annotated[list[Name], Once] = Field(
        ["plain"], min_length=1, description="The wordings to ask with in few-shot."
    )
    shots_per_class: int = Field(2, ge=1, le=16, description="How many examples of each class are shown in few-shot.")
    five_shots: Switch = Field(
        False,
        description="Also show five examples of each class, the paper's FS-5, where the context has room for them.",
    )
    exemplar_seeds: Annotated[list[Seed], Once] = Field(
        [0], min_length=1, description="Each seed draws other examples, and few-shot runs once with each."
    )
    evaluation_rows: Positive | None = Field(None, description="How many test rows are scored; null scores all.")
    validation_rows: Positive | None = Field(
        150, description="How many validation rows set temperatures and thresholds; null takes all."
    )
    max_text_tokens: int = Field(256, ge=8, description="Longer messages are cut in the middle.")


class FinetuningParams(Section):
    """Classification training (notebook 04)."""

    seeds: Annotated[list[Seed], Once] = Field([0], min_length=1, description="Training runs once with each seed.")
    epochs: float = Field(3.0, gt=0, le=100, description="How often training goes through all its rows.")
    min_steps: int = Field(0, ge=0, description="The fewest steps: few rows are gone through more often.")
    train_rows: Positive | None = Field(None, description="How many rows are trained on; null trains on all.")
    evaluation_rows: Positive | None = Field(None, description="How many test rows are scored; null scores all.")
    validation_rows: Positive | None = Field(
        400, description="How many validation rows choose the epoch and set thresholds; null takes all."
    )
    max_length: int = Field(128, ge=8, le=8192, description="Longer messages are cut to so many tokens.")
    early_stopping_patience: Positive = Field(
        2, description="Training stops after so many epochs without a better validation loss."
    )
    class_weights: Switch = Field(True, description="Rare classes weigh more in the loss.")
    tasks: Literal["one", "both"] = Field(
        "one", description="`both` trains one network for safety and categories, a head on top for each: half the time."
    )
    repeats: dict[Name, Positive] = Field(
        {},
        description="How often one pass meets the rows of a source, by its name; re-interpretations and other sources once.",
    )
    budgets: Annotated[list[Positive], Once] = Field(
        [], description="The numbers of training rows at which the learning curve is measured."
    )
    ablation: Switch = Field(True, description="Also train without re-interpretations, with the first seed.")
    ablation_tasks: Annotated[list[Literal["safety", "categories"]], Once] = Field(
        ["safety"], description="The tasks that are also trained without re-interpretations."
    )
    left_out: Literal["none", "probe", "fine-tuned"] = Field(
        "none",
        description="Also leave each source out of training: a probe is cheap, fine-tuning costs a run a source.",
    )
    left_out_sources: Annotated[list[Name], Once] = Field(
        [], description="The sources to leave out one by one; an empty list leaves out each."
    )


class AnalysisParams(Section):
    """Uncertainty and claims (notebook 05)."""

    resamples: int = Field(2000, ge=100, description="How many samples the bootstrap draws.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="The confidence of the analysis' intervals and tests.")
    margin: float = Field(0.05, gt=0, lt=1, description="A difference in F1 that still counts as level.")
    seed: Seed = Field(0, description="The seed of the bootstrap.")


class ModelCaps(Section):
    """What a study asks of one model less than of the others, because it is slow where the study runs."""

    model: Name = Field(description="The model that is asked less.", examples=["smollm2-135m"])
    variants: Annotated[list[Name], Once, Field(min_length=1)] | None = Field(
        None, description="Its wordings in zero-shot; null asks with the study's."
    )
    seeds: Annotated[list[Seed], Once, Field(min_length=1)] | None = Field(
        None, description="The seeds of its training, the study's first one first; null takes the study's."
    )
    train_rows: Positive | None = Field(None, description="Its training rows; null trains on the study's.")
    epochs: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="How often it goes through its training rows; null takes the study's."
    )
    budgets: Annotated[list[Positive], Once] | None = Field(
        None, description="The numbers of training rows of its learning curve; null takes the study's."
    )
    evaluation_rows: Positive | None = Field(
        None, description="Its scored test rows, prompted and trained; null scores the study's."
    )
    validation_rows: Positive | None = Field(
        None, description="Its validation rows, prompted and trained; null takes the study's."
    )
    ablation: Switch | None = Field(
        None, description="Its training without re-interpretations; null does as the study."
    )


# Folders in outputs/ and in a study's own folder that hold something else than a study or a model.
TAKEN_BY_OUTPUTS = ("reference", "compare")
TAKEN_BY_STUDY = ("logs", "always-safe", "always-unsafe", "majority", "source", "length", "keyword", "tfidf")


def not_among(taken: tuple[str, ...]):
    """A validator that refuses names which a folder of something else has already."""

    def check(name: str) -> str:
        if name in taken:
            raise ValueError(f"{', '.join(taken)} are names of other folders in outputs/")
        return name

    return AfterValidator(check)


class StudyParams(Section):
    """One study: data, settings, seeds and which models; a file in `params/study/`."""

    name: Annotated[Name, not_among(TAKEN_BY_OUTPUTS)] = Field(
        description="The name of the file without `.yaml`, and of the folder in outputs/.", examples=["mine"]
    )
    title: str = Field("", max_length=120, description="What pages call the study.")
    data: DataParams
    augmentation: AugmentationParams = AugmentationParams()
    prompting: PromptingParams = PromptingParams()
    finetuning: FinetuningParams = FinetuningParams()
    analysis: AnalysisParams = AnalysisParams()
    models: Annotated[list[Name], Once] = Field(
        min_length=1,
        description="The models to run, each the name of a file in params/models/.",
        examples=[["nano-1", "minilm"]],
    )
    model_caps: list[ModelCaps] = Field([], description="Models that are asked less than the others, and what.")

    def for_model(self, model: str) -> "StudyParams":
        """The study as one model meets it, `model_caps` in place of what they cap."""
        caps = next((caps for caps in self.model_caps if caps.model == model), None)
        if caps is None:
            return self
        changes = {name: value for name in type(caps).model_fields if (value := getattr(caps, name)) is not None}
        parts = {name: getattr(self, name) for name in ("prompting", "finetuning")}
        capped = {
            name: part.model_copy(update={key: changes[key] for key in changes.keys() & type(part).model_fields.keys()})
            for name, part in parts.items()
        }
        return self.model_copy(update=capped)

    @model_validator(mode="after")
    def sources_of_training_are_merged(self):
        for name in ("repeats", "left_out_sources"):
            unknown = sorted(set(getattr(self.finetuning, name)) - set(self.data.sources))
            if unknown:
                raise ValueError(f"finetuning.{name}: {unknown[0]} is not in data.sources, so it would do nothing")
        return self

    @model_validator(mode="after")
    def capped_seeds_begin_with_the_studys(self):
        first = self.finetuning.seeds[0]
        for caps in self.model_caps:
            if caps.seeds and caps.seeds[0] != first:
                what = f"model_caps of {caps.model}: seeds begin with {caps.seeds[0]}, finetuning.seeds with {first}"
                raise ValueError(f"{what}, on which comparisons with ablations and budgets rest")
        return self

    @model_validator(mode="after")
    def a_model_is_capped_once(self):
        named_once([caps.model for caps in self.model_caps])
        return self


class ShapeParams(Section):
    """A LLaMA shape, for the nano ladder and for true shapes with random weights."""

    layers: Positive = Field(description="How many layers there are.", examples=[4])
    hidden: Positive = Field(description="The width of the hidden states.", examples=[64])
    heads: Positive = Field(description="The attention heads of a layer.", examples=[4])
    kv_heads: Positive = Field(
        description="The heads of keys and values, which the attention heads share.", examples=[4]
    )
    intermediate: Positive = Field(description="The width of the feed-forward part of a layer.", examples=[176])
    vocabulary: Positive = Field(description="How many tokens the tokenizer knows.", examples=[4096])
    tied_embeddings: Switch = Field(True, description="Whether input and output embeddings are one matrix.")


class LoraParams(Section):
    """Low-rank adaptation (arXiv 2106.09685)."""

    rank: Positive = Field(8, description="The rank of the added matrices.")
    alpha: Positive = Field(16, description="What they add is multiplied by alpha divided by rank.")
    dropout: Fraction = Field(0.05, description="The share of their inputs that is dropped in training.")
    target_modules: str | list[str] = Field("all-linear", description="The layers that get them, in peft's own words.")


class TrainingParams(Section):
    """What a model size needs in training; everything else is the study's."""

    method: Literal["lora", "full"] = Field("lora", description="Train low-rank matrices, or every weight.")
    pooling: Literal["usual", "mean"] = Field(
        "usual", description="`mean` averages over tokens, as sentence encoders do; `usual` is the family's own way."
    )
    head: Literal["fresh", "probe"] = Field(
        "fresh", description="`probe` begins with logistic regression on the frozen features, with `pooling: mean`."
    )
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="The highest learning rate.")
    tokens_per_batch: Positive = Field(2048, description="The most tokens in one training batch.")
    accumulation: Positive = Field(1, description="How many batches make one step of the optimizer.")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="The share of steps in which the learning rate rises.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each layer learns at this share of the rate of the one above; the head at all of it.",
    )
    label_smoothing: Fraction = Field(0.0, description="The share of a level's target that goes evenly to all levels.")
    weight_decay: float = Field(0.01, ge=0, description="How strongly AdamW pulls weights towards zero.")
    mixed_precision: Switch = Field(
        False, description="Multiply in bfloat16 on CPUs that can; it pays for wide models."
    )
    lora: LoraParams = LoraParams()

    @model_validator(mode="after")
    def a_probe_has_an_intercept(self):
        if self.head == "probe" and self.pooling != "mean":
            raise ValueError(
                "head: probe needs pooling: mean, since the usual heads have no intercept or pool otherwise"
            )
        return self


class ResourceParams(Section):
    """What one stage of this model asks of a scheduler."""

    memory_mb: Positive = Field(3000, description="The memory of one job, in MB.")
    gpus: int = Field(0, ge=0, description="The GPUs of one job.")
    minutes: Positive = Field(60, description="The minutes that one cell may take, and on a cluster the whole job.")
    threads: Positive = Field(1, description="The CPU threads of one job.")


class ModelParams(Section):
    """One model size; a file in `params/models/`."""

    name: Annotated[Name, not_among(TAKEN_BY_STUDY)] = Field(
        description="The name of the file without `.yaml`, by which studies list the model.", examples=["my-model"]
    )
    title: str = Field("", max_length=80, description="What tables and figures call the model.")
    family: Literal["llama", "encoder"] = Field(
        description="A causal language model, or an encoder such as BERT.", examples=["llama"]
    )
    ladder: Name = Field(
        "none", description="The scaling curve that the model belongs to, by any name; `none` is no curve."
    )
    weights: Literal["assets", "hub", "package", "gguf", "random"] = Field(
        description="From where: assets here, the hub, a Python package, a GGUF file, or chance, which needs a shape.",
        examples=["assets"],
    )
    path: WeightsPath = Field(
        "",
        description="Asset folder, hub repository or package; of GGUF `package:file`, `owner/name:file` or a file's path.",
        examples=["nano/nano-1"],
    )
    revision: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The hub's commit, tag or branch; null takes main."
    )
    weights_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="The digest that the one file of weights must have."
    )
    shape: ShapeParams | None = Field(None, description="The shape of a LLaMA; the weights' own configuration if null.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="The precision of weights; a CPU takes bfloat16 where it multiplies it fast, else float32.",
    )
    quantization: Literal["none", "int8", "int4"] = Field(
        "none",
        description="Pack weights into 8 or 4 bits; needs a CUDA GPU, bitsandbytes and `training.method: lora`.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where to compute; `auto` takes CUDA, then Apple's MPS, then the CPU."
    )
    backend: Literal["transformers", "openai"] = Field(
        "transformers", description="`openai` asks a server for log-probabilities in place of loading weights."
    )
    base_url: Address | None = Field(None, description="The server's address, with `backend: openai`.")
    proxy: Address | None = Field(None, description="The same as a study's `augmentation.proxy`.")
    tokens_per_batch: Positive = Field(8192, description="The most tokens in one scoring batch.")
    context_tokens: Positive = Field(
        2048, description="The most tokens that the model is given at once; it may be made for more."
    )
    training: TrainingParams = TrainingParams()
    resources: ResourceParams = ResourceParams()

    @model_validator(mode="after")
    def weights_have_a_place(self):
        if self.weights == "random" and self.shape is None:
            raise ValueError("weights: random needs a shape")
        if self.weights != "random" and not self.path:
            raise ValueError(f"weights: {self.weights} needs a path")
        if ":" in self.path and self.weights != "gguf" and self.backend == "transformers":
            raise ValueError(f"path: only weights: gguf names a file after a colon, and weights is {self.weights}")
        return self

    @model_validator(mode="after")
    def packed_weights_stay_as_they_are(self):
        if self.quantization != "none" and self.training.method == "full":
            raise ValueError(f"quantization: {self.quantization} cannot be trained in full; use training.method: lora")
        return self


FOLDERS = {StudyParams: "params/study", ModelParams: "params/models"}
# From which likeness on a setting is offered for an unknown key; what it gains in the key's own section, which outweighs
# the very name elsewhere, and loses in a file of the other kind; and what names are worth that share all words of one, or
# that are wanted in a section and not there.
LIKELY, BESIDE, ELSEWHERE, ALIKE_IN_WORDS = 0.7, 0.25, 0.01, 0.8


def explain(error: ValidationError, schema: type[Section], where: object) -> ParameterError:
    """Turn one of pydantic's complaints into one line that names key, value, rule and remedy.

    A key that nobody knows goes first: where one was misspelt, what it should have been is missing too.
    """
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        lacking = {path_of(each["loc"]) for each in error.errors() if each["type"] == "missing"}
        return ParameterError(where, f"{key[:80]!r} is not a parameter", nearest(first["loc"], schema, lacking))
    if first["type"] == "missing":
        return ParameterError(where, f"{key!r} is missing", "add it")
    value = json.dumps(first["input"], default=str)[:60]
    return ParameterError(where, f"{key or 'file'}={value}", first["msg"].removeprefix("Value error, "))


def settings_of(schema: type[Section]) -> dict[str, dict]:
    """All settings of a schema by their full path such as `data.salt`, sections before what they hold, each with what
    JSON Schema says of it, and `section`, the name of the class whose settings lie below it, or "".
    """
    whole = schema.model_json_schema()

    def below(section: dict, path: str) -> Iterator[tuple[str, dict]]:
        for name, spec in section["properties"].items():
            held = [spec, spec.get("items", {}), *spec.get("anyOf", [])]
            inner = next((each["$ref"].split("/")[-1] for each in held if "$ref" in each), "")
            asked = spec | {"section": inner, "required": name in section.get("required", [])}
            yield f"{path}{name}", whole["$defs"][inner] | asked if inner else asked
            yield from below(whole["$defs"][inner], f"{path}{name}.") if inner else ()

    return dict(below(whole, ""))


def likeness(key: str, path: str) -> float:
    """How much a key looks like a setting's name or whole path, from 0 to 1; it may lack words, or have some too many."""
    name = path.split(".")[-1]
    mine, words = set(key.split("_")), set(name.split("_"))
    alike = [difflib.SequenceMatcher(None, key, other).ratio() for other in (name, path)]
    return max(*alike, ALIKE_IN_WORDS if mine <= words or words <= mine else 0.0)


def path_of(location: tuple) -> str:
    """A setting's full path, such as `data.own_sources.file`, from its place in a file."""
    return ".".join(part for part in location if isinstance(part, str))


def nearest(location: tuple, schema: type[Section], lacking: set[str]) -> str:
    """What to do about an unknown key: the settings that it may stand for, wherever they are.

    The key's own section comes first, then the rest of the file, then the files of the other kind; `lacking` are the
    paths of settings that are wanted and not there.
    """
    key, section = str(location[-1]), path_of(location[:-1])
    scores = {}
    for kind, folder in ({schema: ""} | FOLDERS).items():
        for path in settings_of(kind):
            mine = kind is schema
            gain = (BESIDE if path.rpartition(".")[0] == section else 0) if mine else -ELSEWHERE
            gain -= ELSEWHERE if path.startswith("model_caps.") else 0  # they repeat what other sections name
            said = f"{path!r}" if mine else f"{path!r} in a file of {folder}"
            wanted = ALIKE_IN_WORDS if mine and section and path in lacking else 0.0
            scores.setdefault(said, max(likeness(key, path), wanted) + gain)
    best = max(scores.values())
    if best < LIKELY:
        return "remove it; params/README.md lists all settings"
    if repr(key) in scores and "." in key:
        return f"write {key.split('.')[-1]!r} below {key.rpartition('.')[0]!r}"
    return f"did you mean {' or '.join(said for said, score in scores.items() if score == best)}?"


def validate(data: dict, schema: type[Section], where: object, words: Callable[[], dict] | None = None):
    """Check a mapping against a schema; ParameterError in one line otherwise.

    `words` gives the same mapping with every value as it stands in the file: a name such as `007`, `1e3` or `null`, in
    which `data` may hold a number or nothing, is text if the schema wants text.
    """
    refuse_secrets(data, where)
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        texts = [each["loc"] for each in error.errors() if each["type"] == "string_type"]
        if words is None or not texts:
            raise explain(error, schema, where) from None
    return validate(with_words(data, words(), texts), schema, where)


def with_words(data: dict, words: dict, places: list[tuple]) -> dict:
    """`data` with what `words` holds at some places, each a path of keys and positions; others stay as they are."""
    for *path, last in places:
        with suppress(KeyError, IndexError, TypeError):  # a place inside a union is no path
            reduce(getitem, path, data)[last] = reduce(getitem, path, words)[last]
    return data


def file_of(kind: Literal["study", "models"], name: str | Path) -> Path:
    """The parameter file of that name (`sample`) or path, whether or not it exists."""
    by_path = str(name).endswith((".yaml", ".yml"))
    if not by_path and not re.fullmatch(NAME, str(name)):
        raise ParameterError(f"params/{kind}", f"{str(name)[:60]!r} is not a name", "use letters, digits, ., - and _")
    return without_braces(Path(name)) if by_path else project_root() / "params" / kind / f"{name}.yaml"


def load(kind: Literal["study", "models"], name: str | Path):
    """Load a parameter file by its name (`sample`) or path."""
    schema, path = StudyParams if kind == "study" else ModelParams, file_of(kind, name)
    where = path.relative_to(project_root()) if path.is_relative_to(project_root()) else path
    loaded = validate(read_yaml(path), schema, where, partial(read_yaml, path, bare=str))
    if loaded.name != path.stem:
        raise ParameterError(where, f"name={loaded.name!r}", f"must equal the file's name, {path.stem!r}")
    return loaded


def shown_path(kind: Literal["study", "models"], name: str | Path) -> str:
    """A parameter file's path as a page may show it: from the checkout on, and of a file elsewhere its name alone."""
    path = file_of(kind, name)
    return path.relative_to(project_root()).as_posix() if path.is_relative_to(project_root()) else path.name


def load_study(name: str | Path) -> StudyParams:
    """The study of that name in `params/study/`, or at that path."""
    return load("study", name)


def load_model(name: str | Path) -> ModelParams:
    """The model of that name in `params/models/`, or at that path."""
    return load("models", name)


STUDY_RESOURCES = ResourceParams(memory_mb=4000, minutes=240)
