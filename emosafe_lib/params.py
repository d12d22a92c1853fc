"""Typed parameters: every YAML file passes through here before anything runs.

Defaults live in these classes and nowhere else; a parameter file holds only what differs. YAML 1.1 has traps (`1e-4` is
a string, `no` is False, a duplicate key wins silently), and papermill pastes parameter names into code, so files are
read by a strict loader and checked by strict types, and whatever is refused is named with its file, key and rule.
"""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from emosafe_lib.errors import ParameterError

MAX_FILE_BYTES = 64_000
SECRET_KEY = re.compile(r"(?i)(^|_)(api_?key|token|secret|password|passwd|credentials?)$")
SECRET_VALUE = re.compile(r"\b(sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{12,})")

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
    mental_health: bool = False


class DataParams(Section):
    """What is merged (notebook 01)."""

    sources: list[Name] = Field(min_length=1, description="registered sources, in any order")
    caps: dict[Name, Positive] = Field(default={}, description="most rows to keep of a source")
    max_class_share: Fraction = Field(default=0.25, description="largest share of a safety level from one source")
    balance_sources: bool = Field(default=True, description="even out safety levels so that sources predict less")
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
    strict_model: bool = Field(default=False, description="stop when another model answers than was asked")
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
    class_weights: bool = True
    budgets: Annotated[list[Positive], Once] = Field(
        default=[], description="training-row budgets of the learning curve"
    )
    ablation: bool = Field(default=True, description="also train without re-interpretations, first seed")
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
    tied_embeddings: bool = True


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
    mixed_precision: bool = Field(
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
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


class StrictLoader(yaml.SafeLoader):
    """YAML with JSON's types: no dates, yes/no, octal or sixty-based numbers, tags, aliases or repeated keys."""

    yaml_implicit_resolvers: dict = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.constructor.ConstructorError(None, None, "tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", list("tf")),
    ("tag:yaml.org,2002:int", r"^-?(?:0|[1-9][0-9]*)$", list("-0123456789")),
    ("tag:yaml.org,2002:float", r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", list("-0123456789")),
):
    StrictLoader.add_implicit_resolver(tag, re.compile(pattern), first)


def project_root() -> Path:
    """The checkout that holds params/ and notebooks/: `EMOSAFE_ROOT`, else the folder above this package.

    Raises
    ------
    ParameterError : no such checkout, braces in its path, or a relative name, which every kernel would take for another
        folder
    """
    root = without_braces(Path(os.environ.get("EMOSAFE_ROOT") or Path(__file__).resolve().parents[1]))
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
    ParameterError : its path has braces
    """
    return without_braces((project_root() / (os.environ.get(variable) or usual)).resolve())


def read_yaml(path: Path) -> dict:
    """Read one parameter file strictly.

    Raises
    ------
    ParameterError : absent, too large, not UTF-8, not a mapping, or using YAML that this package refuses
    """
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(path, "no such file", f"name one of: {known}")
    raw = path.read_bytes()
    if len(raw) > MAX_FILE_BYTES:
        raise ParameterError(path, f"{len(raw)} bytes", f"a parameter file holds at most {MAX_FILE_BYTES}")
    try:
        data = yaml.load(raw.decode("utf-8"), Loader=StrictLoader)
    except UnicodeDecodeError as error:
        raise ParameterError(path, f"not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    except yaml.YAMLError as error:
        line = f"line {mark.line + 1}: " if (mark := getattr(error, "problem_mark", None)) else ""
        raise ParameterError(path, f"{line}{getattr(error, 'problem', error)}", "write plain YAML") from None
    except RecursionError:
        raise ParameterError(path, "nested too deeply", "write plain YAML") from None
    if not isinstance(data, dict):
        raise ParameterError(path, "is not a mapping of keys to values", "start with a line such as `name: sample`")
    return data


def refuse_secrets(data: object, where: object, key: str = "") -> None:
    """Raise ParameterError if a key or value looks like a credential; the value itself is never shown."""
    if isinstance(data, dict):
        for name, value in data.items():
            inner = f"{key}.{name}".lstrip(".")
            if SECRET_KEY.search(str(name)):
                raise ParameterError(where, f"{inner} looks like a secret", "put keys in environment variables")
            refuse_secrets(value, where, inner)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            refuse_secrets(value, where, f"{key}[{number}]")
    elif isinstance(data, str) and SECRET_VALUE.search(data):
        raise ParameterError(where, f"{key}: the value looks like a key", "put keys in environment variables")


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


def validate(data: dict, schema: type[Section], where: object):
    """Check a mapping against a schema; ParameterError in one line otherwise."""
    refuse_secrets(data, where)
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise explain(error, schema, where) from None


def load(kind: Literal["study", "models"], name: str | Path):
    """Load a parameter file by its name (`sample`) or path."""
    schema = StudyParams if kind == "study" else ModelParams
    by_path = str(name).endswith((".yaml", ".yml"))
    if not by_path and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", str(name)):
        raise ParameterError(f"params/{kind}", f"{str(name)[:60]!r} is not a name", "use letters, digits, - and _")
    path = without_braces(Path(name)) if by_path else project_root() / "params" / kind / f"{name}.yaml"
    where = path.relative_to(project_root()) if path.is_relative_to(project_root()) else path
    loaded = validate(read_yaml(path), schema, where)
    if loaded.name != path.stem:
        raise ParameterError(where, f"name={loaded.name!r}", f"must equal the file's name, {path.stem!r}")
    return loaded


def settled(name: str) -> str:
    """A parameter file's name as it is, its path as a whole one: engine and kernels each work in another folder."""
    return str(Path(name).resolve()) if name.endswith((".yaml", ".yml")) else name


def load_study(name: str | Path) -> StudyParams:
    """The study of that name in `params/study/`, or at that path."""
    return load("study", name)


def load_model(name: str | Path) -> ModelParams:
    """The model of that name in `params/models/`, or at that path."""
    return load("models", name)
