"""Typed parameters: every YAML file passes through here before anything runs.

Defaults live in these classes and nowhere else; a parameter file holds only what differs. YAML has traps (a study called
`1e3` is a number, a second key of the same name may win), and papermill pastes parameter names into code, so files are
read strictly and checked by strict types, and whatever is refused is named with its file, key and rule.
"""

import difflib
import json
import re
from collections.abc import Callable
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

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


def stays_below(path: str) -> str:
    """Refuse `..`, so that a relative path cannot climb out of its folder."""
    if ".." in path.split("/"):
        raise ValueError("must not contain ..")
    return path


RelativePath = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_./-]*)?$", max_length=200), AfterValidator(stays_below)
]
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
    """A CSV or JSONL file of your own, described in `sources/own.py`."""

    name: Name
    file: RelativePath = Field(min_length=1, description="CSV or JSONL, relative to the checkout")
    role: Literal["train", "external"] = Field(default="train", description="external: evaluation only, never merged")
    licence: str = Field(default="own", max_length=100)
    quality: Literal["direct", "weak"] = "direct"
    kind: Literal["first-person", "reply", "comment", "prompt", "template", "advice"] = "comment"
    mental_health: Switch = False


class DataParams(Section):
    """What is merged (notebook 01)."""

    sources: list[Name] = Field(min_length=1, description="registered sources, in any order")
    caps: dict[Name, Positive] = Field(default={}, description="most rows to keep of a source")
    max_class_share: Fraction = Field(default=0.25, description="largest share of a safety level from one source")
    balance_sources: Switch = Field(default=True, description="even out safety levels so that sources predict less")
    max_source_accuracy: Fraction = Field(default=0.42, description="best accuracy that a source's name may reach")
    min_class_share: Fraction = Field(default=0.3, description="smallest share of a safety level after balancing")
    min_mental_health_share: Fraction = Field(default=0.4, description="smallest share of first-person disclosures")
    min_source_rows: Annotated[int, Field(ge=0)] = Field(default=0, description="rows that each source keeps at least")
    max_characters: Positive = Field(default=10_000, description="longer rows are quarantined as run together")
    near_duplicate_jaccard: Fraction = Field(default=0.7, description="word-shingle Jaccard from which texts group")
    split_shares: dict[Literal["train", "validation", "test"], Fraction] = {
        "train": 0.7,
        "validation": 0.15,
        "test": 0.15,
    }
    salt: str = Field(default="emosafe", max_length=40, description="enters the split's hash")
    own_sources: list[OwnSourceParams] = Field(default=[], description="your own files; `sources` says which to merge")

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

    provider: Literal["template", "openai", "openai-batch", "replay"] = "template"
    model: str = Field(default="gpt-4o-mini", max_length=100)
    base_url: str | None = Field(default=None, max_length=200, description="any OpenAI-compatible server")
    max_share: Fraction = Field(default=0.2, description="largest share of a class that may be re-interpretations")
    max_rows: Positive = 2000
    max_cost_usd: Annotated[float, Field(ge=0)] = 5.0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    requests_per_minute: Positive = 500
    tokens_per_minute: Positive = 200_000
    deadline_seconds: Annotated[float, Field(gt=0)] = 120.0
    attempt_seconds: Annotated[float, Field(gt=0)] = Field(default=60.0, description="limit of one try within it")
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(default=4, description="tries of one request")
    prices: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="US dollars per million input and output tokens; none takes the published ones"
    )
    batch_wait_seconds: Annotated[float, Field(ge=0)] = Field(
        default=3600.0, description="how long to wait for a batch"
    )
    batch_poll_seconds: Annotated[float, Field(gt=0)] = 30.0
    second_judge: Literal["none", "local"] = Field(default="none", description="local: TF-IDF on the training rows")
    strict_model: Switch = Field(default=False, description="stop when another model answers than was asked")
    seed: int = 0


class PromptingParams(Section):
    """Zero- and few-shot scoring (notebook 03)."""

    variants: Annotated[list[Name], Once] = Field(default=["plain", "guard", "careful"], min_length=1)
    few_shot_variants: Annotated[list[Name], Once] = Field(default=["plain"], min_length=1)
    shots_per_class: Annotated[int, Field(ge=1, le=16)] = 2
    exemplar_seeds: Annotated[list[Seed], Once] = Field(default=[0], min_length=1)
    evaluation_rows: Positive | None = Field(default=None, description="cap on scored test rows; none scores all")
    validation_rows: Positive | None = Field(default=150, description="rows for calibration and thresholds")
    max_text_tokens: Annotated[int, Field(ge=8)] = 256


class FinetuningParams(Section):
    """Classification training (notebook 04)."""

    seeds: Annotated[list[Seed], Once] = Field(default=[0], min_length=1)
    epochs: Annotated[float, Field(gt=0, le=100)] = 3.0
    min_steps: Annotated[int, Field(ge=0)] = Field(default=0, description="few rows are passed over until so many")
    train_rows: Positive | None = Field(default=None, description="cap on training rows; none trains on all")
    evaluation_rows: Positive | None = Field(default=None, description="cap on scored test rows; none scores all")
    validation_rows: Positive | None = 400
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    early_stopping_patience: Positive = 2
    class_weights: Switch = True
    budgets: Annotated[list[Positive], Once] = Field(
        default=[], description="training-row budgets of the learning curve"
    )
    ablation: Switch = Field(default=True, description="also train without re-interpretations, first seed")
    ablation_tasks: Annotated[list[Literal["safety", "categories"]], Once] = ["safety"]


class AnalysisParams(Section):
    """Uncertainty and claims (notebook 05)."""

    resamples: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    margin: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="F1 points that still count as level")
    seed: Seed = 0


# Folders in outputs/ and in a study's own folder that hold something else than a study or a model.
TAKEN_BY_OUTPUTS = ("reference", "compare")
TAKEN_BY_STUDY = ("logs", "majority", "source", "length", "keyword", "tfidf")


def not_among(taken: tuple[str, ...]):
    """A validator that refuses names which a folder of something else has already."""

    def check(name: str) -> str:
        if name in taken:
            raise ValueError(f"{', '.join(taken)} are names of other folders in outputs/")
        return name

    return AfterValidator(check)


class StudyParams(Section):
    """One study: data, settings, seeds and which models; a file in `params/study/`."""

    name: Annotated[Name, not_among(TAKEN_BY_OUTPUTS)]
    title: str = Field(default="", max_length=120)
    data: DataParams
    augmentation: AugmentationParams = AugmentationParams()
    prompting: PromptingParams = PromptingParams()
    finetuning: FinetuningParams = FinetuningParams()
    analysis: AnalysisParams = AnalysisParams()
    models: Annotated[list[Name], Once] = Field(min_length=1)


class ShapeParams(Section):
    """A LLaMA shape, for the nano ladder and for true shapes with random weights."""

    layers: Positive
    hidden: Positive
    heads: Positive
    kv_heads: Positive
    intermediate: Positive
    vocabulary: Positive
    tied_embeddings: Switch = True


class LoraParams(Section):
    """Low-rank adaptation (arXiv 2106.09685)."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: Fraction = 0.05
    target_modules: str | list[str] = "all-linear"


class TrainingParams(Section):
    """What a model size needs in training; everything else is the study's."""

    method: Literal["lora", "full"] = "lora"
    pooling: Literal["usual", "mean"] = Field(default="usual", description="mean: for sentence encoders")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    tokens_per_batch: Positive = 2048
    accumulation: Positive = Field(default=1, description="batches per optimizer step")
    warmup_share: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    mixed_precision: Switch = Field(
        default=False, description="bfloat16 products on CPUs that have them; for wide models"
    )
    lora: LoraParams = LoraParams()


class ResourceParams(Section):
    """What one stage of this model asks of a scheduler."""

    memory_mb: Positive = 3000
    gpus: Annotated[int, Field(ge=0)] = 0
    minutes: Positive = 60
    threads: Positive = 1


class ModelParams(Section):
    """One model size; a file in `params/models/`."""

    name: Annotated[Name, not_among(TAKEN_BY_STUDY)]
    title: str = Field(default="", max_length=80)
    family: Literal["llama", "encoder"]
    ladder: Literal["nano", "llama", "none"] = Field(default="none", description="which scaling curve it belongs to")
    weights: Literal["assets", "hub", "package", "random"]
    path: RelativePath = Field(default="", description="asset folder, hub repository or package")
    revision: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    shape: ShapeParams | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "int8", "int4"] = "none"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    backend: Literal["transformers", "openai"] = "transformers"
    base_url: str | None = Field(default=None, max_length=200)
    tokens_per_batch: Positive = Field(default=8192, description="token budget of one scoring batch")
    context_tokens: Positive = 2048
    training: TrainingParams = TrainingParams()
    resources: ResourceParams = ResourceParams()

    @model_validator(mode="after")
    def weights_have_a_place(self):
        if self.weights == "random" and self.shape is None:
            raise ValueError("weights: random needs a shape")
        if self.weights != "random" and not self.path:
            raise ValueError(f"weights: {self.weights} needs a path")
        return self

    @model_validator(mode="after")
    def packed_weights_stay_as_they_are(self):
        if self.quantization != "none" and self.training.method == "full":
            raise ValueError(f"quantization: {self.quantization} cannot be trained in full; use training.method: lora")
        return self


def explain(error: ValidationError, schema: type[Section], where: object) -> ParameterError:
    """Turn pydantic's first complaint into one line that names key, value, rule and the nearest known key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = known_keys(schema, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.0)
        remedy = f"did you mean {near[0]!r}?" if near else "remove it"
        return ParameterError(where, f"{key[:80]!r} is not a parameter", remedy)
    if first["type"] == "missing":
        return ParameterError(where, f"{key!r} is missing", "add it")
    value = json.dumps(first["input"], default=str)[:60]
    return ParameterError(where, f"{key or 'file'}={value}", first["msg"].removeprefix("Value error, "))


def known_keys(schema: type[Section], location: tuple) -> list[str]:
    """The field names of the section at `location`."""
    for part in location:
        field = schema.model_fields.get(part) if isinstance(part, str) else None
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Section)):
            return []
        schema = inner
    return list(schema.model_fields)


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


def load(kind: Literal["study", "models"], name: str | Path):
    """Load a parameter file by its name (`sample`) or path."""
    schema = StudyParams if kind == "study" else ModelParams
    by_path = str(name).endswith((".yaml", ".yml"))
    if not by_path and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", str(name)):
        raise ParameterError(f"params/{kind}", f"{str(name)[:60]!r} is not a name", "use letters, digits, - and _")
    path = without_braces(Path(name)) if by_path else project_root() / "params" / kind / f"{name}.yaml"
    where = path.relative_to(project_root()) if path.is_relative_to(project_root()) else path
    loaded = validate(read_yaml(path), schema, where, partial(read_yaml, path, bare=str))
    if loaded.name != path.stem:
        raise ParameterError(where, f"name={loaded.name!r}", f"must equal the file's name, {path.stem!r}")
    return loaded


def load_study(name: str | Path) -> StudyParams:
    """The study of that name in `params/study/`, or at that path."""
    return load("study", name)


def load_model(name: str | Path) -> ModelParams:
    """The model of that name in `params/models/`, or at that path."""
    return load("models", name)


STUDY_RESOURCES = ResourceParams(memory_mb=4000, minutes=240)
