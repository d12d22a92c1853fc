"""Several processes on one machine learn what one process learns that accumulates as many batches a step; a process
that dies fails the run, and the next run goes on. The shipped configurations fit the models that they are named after.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import yaml
from safetensors.numpy import load_file

from emosafe_lib import cli
from emosafe_lib.finetuning import finetune, finished_runs
from emosafe_lib.finetuning.train_command import ROWS
from emosafe_lib.models import backbone, batching
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.rows import read_rows, write_rows

CONFIGS = sorted((Path(backbone.__file__).parents[2] / "workflow" / "profiles" / "accelerate").glob("*.yaml"))
ON_CPUS = """
from contextlib import nullcontext

import torch
from accelerate import DistributedType, PartialState
from torch.distributed.fsdp import _flat_param, _init_utils

# FSDP runs on CPUs. But accelerate begins it on GPUs alone, and it wants a numbered device, and moves weights off it.
_init_utils._get_compute_device = lambda *_: torch.device("cpu")
_flat_param.FlatParamHandle.to_cpu = nullcontext
begin = PartialState.__init__

def begin_as_gpus(self, *given, **options):
    begin(self, *given, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = begin_as_gpus
"""
SCRIPT = """
import os, signal, sys
from pathlib import Path
from emosafe_lib.finetuning import train_command, trainer
from emosafe_lib.models import backbone, classifier
backbone.ASSETS = Path(sys.argv.pop(1))

import torch.distributed

plain = backbone.load_network

def load_network(*given, **options):
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    assert torch.distributed.is_initialized() is together, "weights are loaded before the processes know of each other"
    return plain(*given, **options)

for place in (backbone, classifier):
    place.load_network = load_network

class Dies(trainer.SealCheckpoints):
    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch >= 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("WORKER_DIES"):
    trainer.SealCheckpoints = Dies
sys.exit(train_command.main(sys.argv[1:]))
"""


@pytest.fixture
def made(tmp_path):
    """A tiny model, rows and parameter files; dropout is off, since processes draw it apart."""
    tiny_models.make_llama(tmp_path / "llama")
    write_rows(tiny_models.make_rows(), tmp_path / "rows.parquet")
    (tmp_path / "run.py").write_text(SCRIPT)
    study = tiny_models.study_params(epochs=3.0, seeds=[0], budgets=[12])
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(json.loads(study.model_dump_json(exclude_none=True))))
    for name, accumulation in (("one", 2), ("two", 1)):
        training = {"accumulation": accumulation, "lora": {"dropout": 0.0}}
        model = tiny_models.model_params("llama", training=training).model_copy(update={"name": name})
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(model.model_dump_json(exclude_none=True))))
    return tmp_path


PLAIN = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def launch(folder: Path, name: str, processes: int, options=PLAIN, **environment) -> subprocess.CompletedProcess:
    """One run with so many processes."""
    start = ["-m", "accelerate.commands.launch", *options]
    start += ["--num_processes", str(processes), "--main_process_port", "0"]
    given = ["--study", folder / "made.yaml", "--model", folder / f"{name}.yaml", "--task", "safety"]
    given += ["--rows", folder / "rows.parquet", "--folder", folder / f"runs-{name}"]
    library = str(Path(backbone.__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": library} | environment
    command = [sys.executable, *(start if processes > 1 else []), folder / "run.py", folder, *given]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)


def losses(done: subprocess.CompletedProcess) -> dict[str, list[float]]:
    """Training and validation loss per epoch of a run that succeeded."""
    assert done.returncode == 0, done.stderr[-2000:]
    history = json.loads([line for line in done.stdout.splitlines() if line.startswith("[{")][-1])
    return {key: [epoch[key] for epoch in history] for key in ("train_loss", "validation_loss")}


def in_the_notebook(folder: Path, name: str) -> finished_runs.Finetuned:
    """The same run in this one process, in the folder that `launch` keeps it in."""
    model, study = load_model(str(folder / f"{name}.yaml")), load_study(str(folder / "made.yaml"))
    return finetune.finetune(model, study, read_rows(folder / "rows.parquet"), "safety", 0, folder / f"runs-{name}")


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates_and_a_killed_worker_is_a_failed_run(made, monkeypatch):
    """What two processes began, one process refuses; what they finished, it takes up."""
    monkeypatch.setattr(backbone, "ASSETS", made)
    rows = tiny_models.make_rows()
    tokenizer = tiny_models.make_tokenizer(made / "again")
    lengths = batching.encode(tokenizer, rows.loc[rows["split"] == "train", "text"], 32).lengths
    assert len(batching.budget_batches(lengths, 64)) % 2 == 0, "an odd batch would be dealt twice"
    killed = launch(made, "two", 2, WORKER_DIES="1")
    assert killed.returncode != 0 and not list((made / "runs-two").rglob("done.json"))
    assert list((made / "runs-two").rglob("checkpoint-*")), "what the killed run had finished is kept"
    with pytest.raises(TrainingError, match="other batches_per_step"):
        in_the_notebook(made, "two")
    one, two = losses(launch(made, "one", 1)), losses(launch(made, "two", 2))
    for key, values in one.items():
        assert np.allclose(values, two[key], rtol=1e-4), (one, two)
    monkeypatch.setattr(finetune, "build_network", lambda *_: pytest.fail("trained again"))
    taken_up = in_the_notebook(made, "two")
    assert [epoch["train_loss"] for epoch in taken_up.history] == two["train_loss"]
    assert taken_up.facts["processes"] == 2


@pytest.mark.slow
def test_under_fsdp_two_processes_restore_and_save_the_adapter_and_head_that_one_process_does(made, monkeypatch):
    """Of the best epoch, here the first one. By itself peft waits forever, and saves or restores the head alone."""
    rows = tiny_models.make_rows()
    turned = rows["safety"].map({"safe": "borderline", "borderline": "unsafe", "unsafe": "safe"})
    write_rows(rows.assign(safety=rows["safety"].where(rows["split"] != "validation", turned)), made / "rows.parquet")
    config = yaml.safe_load(next(path for path in CONFIGS if path.stem == "llama-70b").read_text())
    config["fsdp_config"] |= {
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_sync_module_states": False,
    }  # over GPUs only
    (made / "fsdp.yaml").write_text(yaml.safe_dump(config | {"mixed_precision": "no"}))
    (made / "run.py").write_text(ON_CPUS + SCRIPT)
    losses(launch(made, "two", 2, ("--config_file", made / "fsdp.yaml")))
    monkeypatch.setattr(backbone, "ASSETS", made)
    one, two = in_the_notebook(made, "one"), in_the_notebook(made, "two")
    assert one.history[0]["validation_loss"] == min(epoch["validation_loss"] for epoch in one.history)
    assert np.allclose(two.test_probabilities, one.test_probabilities, atol=1e-5)
    assert two.facts["trainable_parameters"] == one.facts["trainable_parameters"]
    alone, together = (load_file(run.folder / "model" / "adapter_model.safetensors") for run in (one, two))
    assert alone.keys() == together.keys()
    for name, values in alone.items():
        assert np.allclose(together[name], values, atol=1e-5), name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_one_that_accelerate_reads_and_fits_its_model(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from transformers.models.llama import modeling_llama

    config, model = load_config_from_file(str(path)), load_model(path.stem)
    assert config.num_processes == model.resources.gpus and config.mixed_precision == "bf16"
    assert model.quantization == "int4"
    assert f"--model {model.name}" in path.read_text()
    if config.num_processes > 1:
        assert hasattr(modeling_llama, config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"])
        assert config.fsdp_config["fsdp_use_orig_params"] is False


def test_large_sizes_have_a_configuration():
    assert {path.stem for path in CONFIGS} == {"llama-8b", "llama-70b"}


def test_without_a_task_all_runs_of_the_study_are_trained_where_notebook_04_looks_for_them(made, monkeypatch, capsys):
    monkeypatch.setattr(backbone, "ASSETS", made)
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(made / "outputs"))
    study = ["train", "--study", str(made / "made.yaml"), "--model", str(made / "one.yaml")]
    assert cli.main(study) == 1 and "run notebooks 01 and 02 first" in capsys.readouterr().err
    base, rows = made / "outputs" / "made", tiny_models.make_rows()
    told_again = rows["origin"] == "reinterpretation"
    for name, part in zip(ROWS, (rows[~told_again], rows[told_again]), strict=True):
        write_rows(part, base / name)
    assert cli.main(study) == 0 and capsys.readouterr().out.count("validation_loss") >= 5
    done = (base / ".work" / "04_lora_finetuning-one" / "runs").glob("*/done.json")
    variants = sorted(json.loads(path.read_text())["identity"]["variant"] for path in done)
    assert variants == ["", "", "budget-12", "budget-12", "no-augmentation"]


def test_a_seed_without_its_task_and_a_model_that_a_server_answers_for_are_refused(made, capsys):
    study = ["train", "--study", str(made / "made.yaml"), "--model"]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*study, str(made / "one.yaml"), "--seed", "3"])
    assert "name its --task too" in capsys.readouterr().err
    served = {"name": "served", "family": "llama", "weights": "hub", "path": "m", "backend": "openai"}
    (made / "served.yaml").write_text(json.dumps(served))
    assert cli.main([*study, str(made / "served.yaml")]) == 1
    assert "needs weights, and served is answered by a server" in capsys.readouterr().err
