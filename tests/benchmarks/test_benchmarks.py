"""Benchmarks run as `make bench` runs them, and never leave a result file that is half written or no JSON."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
REPORT = {"machine": {}, "versions": {}, "rows": [{"case": "made up", "ours": 1.0}]}


@pytest.fixture
def reporting(monkeypatch):
    """The benchmarks' helper, found as their own folder finds it."""
    monkeypatch.syspath_prepend(FOLDER)
    import reporting

    return reporting


@pytest.fixture
def load(reporting):
    """A benchmark as a module; the library has modules of the same names."""

    def found(name):
        spec = importlib.util.spec_from_file_location(f"{name}_benchmark", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return found


def test_every_file_that_make_bench_runs_is_a_benchmark():
    scripts = sorted(FOLDER.glob("*.py"))
    assert scripts and all("def main() -> None:" in path.read_text() for path in scripts)


def test_a_report_is_written_whole_or_not_at_all(reporting, tmp_path):
    path = tmp_path / "results" / "made.json"
    reporting.publish(REPORT, path)
    written = json.loads(path.read_text())
    assert written == {"code": written["code"]} | REPORT and [*path.parent.iterdir()] == [path]
    with pytest.raises(ValueError, match="JSON"):
        reporting.publish(REPORT | {"rows": [{"ours": math.nan}]}, path)
    assert json.loads(path.read_text()) == written


def test_a_report_names_the_commit_that_it_is_of(reporting):
    asked = subprocess.run(["git", "-C", str(FOLDER), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert reporting.code()["commit"] == (asked.stdout.strip() or None)


def test_a_process_that_a_benchmark_starts_does_not_ask_git(reporting):
    asks = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import subprocess; subprocess.run = None; import reporting"
    )
    done = subprocess.run([sys.executable, "-c", f"{asks}; print(reporting.CODE)"], capture_output=True, text=True)
    assert done.stdout.strip() == str(reporting.CODE), done.stderr


def test_a_report_admits_that_the_code_was_another_one_when_the_run_began(reporting, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "CODE", {"commit": "before", "changed": False})
    reporting.publish(REPORT, tmp_path / "made.json")
    found = json.loads((tmp_path / "made.json").read_text())["code"]
    assert found == {"commit": "before", "changed": True, "started": reporting.STARTED}


def test_a_printed_report_is_not_written(reporting, tmp_path, capsys):
    reporting.publish(REPORT, tmp_path / "made.json", only_print=True)
    said = json.loads(capsys.readouterr().out)
    assert said == {"code": said["code"]} | REPORT and not [*tmp_path.iterdir()]


def test_versions_are_those_of_this_environment(reporting):
    found = reporting.versions("python", "pytest")
    assert found == {"python": ".".join(map(str, sys.version_info[:3])), "pytest": pytest.__version__}


def test_a_benchmark_finds_the_helper_when_it_is_run_as_a_file():
    command = [sys.executable, str(FOLDER / "merge.py"), "--one", "ours", "--sizes", "300"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"] > 200


def test_the_pipelines_best_batch_is_looked_for_between_its_extremes_and_twice(load, monkeypatch):
    """One slow probe must not cost the peer its best batch size."""
    bench, probes = load("classify"), []

    def probe(folder, batch, rows):
        probes.append(batch)
        first = probes.count(batch) == 1
        return {"processor": {"4": 1.0 if first else 9.0, "1": 5.0}.get(batch, 2.0)}

    monkeypatch.setattr(bench, "measure", probe)
    assert bench.best_batch(Path("nowhere")) == "4" and bench.best_batch(Path("nowhere"), "onnx:").startswith("onnx:")
    assert {"1", "2", "4", "8", "16", "onnx:1", "onnx:16"} < set(probes)
    assert all(probes.count(batch) >= 2 for batch in probes)


def test_first_answers_are_medians_without_the_round_that_fills_the_cache(load, monkeypatch):
    bench, seconds = (
        load("classify"),
        {"onnx": [9.0, 1.0, 2.0, 6.0], "onnx-int8": [9.0] + [1.0] * 3, "1": [9.0] + [8.0] * 3},
    )
    runs = {side: iter(found) for side, found in seconds.items()}
    monkeypatch.setattr(bench, "first_answer", lambda folder, side: {"s": next(runs[side]), "MiB at the peak": 50.0})
    found = {(row["case"], row["unit"]): (row["ours"], row["ratio"]) for row in bench.first_answers("m", Path("x"), 3)}
    seconds = [found[f"m {runtime}, first answer in both tasks", "s"] for runtime in ("onnx", "onnx-int8")]
    assert seconds == [(2.0, 4.0), (1.0, 8.0)] and len(found) == 4
    assert found["m onnx, first answer in both tasks", "MiB at the peak"] == (50.0, 1.0)


TINY = {"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocabulary": 320}


def test_a_lora_step_is_measured_on_any_device_and_moves_only_adapters_and_head(load):
    import torch

    bench = load("finetune")
    model = tiny_models.model_params(weights="random", shape=TINY, path="", device="cpu")
    found = bench.measure_step(model, rows=2, tokens=8, steps=3)
    assert found["seconds"] > 0 and found["peak_gb"] > 0 and (found["device"], found["dtype"]) == ("cpu", "float32")
    network = bench.step_network(model)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    step = bench.step_of(network, model, 2, 8)
    losses = [step() for _ in range(8)]
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert losses[-1] < losses[0] and moved and all("lora_" in name or "score" in name for name in moved)


def test_packed_weights_of_a_step_come_from_a_checkpoint(load, monkeypatch):
    from emosafe_lib.models import precision
    from emosafe_lib.ondevice import measure

    bench, made = load("finetune"), []
    plain = measure.saved_and_loaded
    monkeypatch.setattr(measure, "saved_and_loaded", lambda model: made.append(model.quantization) or plain(model))
    monkeypatch.setattr(precision, "pick_quantization", lambda model: model.quantization if made else "int4")
    model = tiny_models.model_params(weights="random", shape=TINY, path="", device="cpu")
    assert bench.step_of(bench.step_network(model), model, 1, 8)() > 0 and made == ["none"]


def test_a_steps_rows_stand_beside_published_ones_and_seconds_get_no_ratio(load, monkeypatch):
    bench = load("finetune")
    assert {name for name, _ in bench.GPU_CASES} == set(bench.LITGPT) == {"llama-1b", "llama-8b"}
    assert bench.step_params("llama-8b", "int4").shape.layers == 32
    measured = {"seconds": 0.5, "peak_gb": 9.85, "quantization": "int4", "dtype": "bfloat16", "fallbacks": []}
    monkeypatch.setattr(bench, "in_own_process", lambda *words: measured)
    memory, seconds = bench.step_rows("llama-8b", "int4")
    assert (memory["case"], memory["ratio"], memory["peer"]) == ("llama-8b int4 LoRA step, memory", 2.0, 19.7)
    assert (seconds["ours"], seconds["peer"], seconds["ratio"]) == (0.5, 0.201, None)
    assert all("litgpt" in row["peer_name"] and "A10G" in row["peer_name"] for row in (memory, seconds))


def test_what_does_not_fit_a_gpu_is_written_down_and_not_tried(load, monkeypatch, tmp_path):
    import torch

    from emosafe_lib.ondevice import measure

    bench, tried = load("finetune"), []
    monkeypatch.setattr(bench, "GPU_RESULTS", tmp_path / "gpu.json")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    reasons = {"bfloat16": "", "int4": "bitsandbytes is not installed"}
    monkeypatch.setattr(measure, "hindrances", lambda model: reasons)
    monkeypatch.setattr(bench, "step_rows", lambda *case: tried.append(case) or [{"case": case[0]}])
    bench.on_the_gpu()
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert tried == [("llama-1b", "none"), ("llama-8b", "none")] and len(report["rows"]) == 2
    assert report["left_out"] == {"llama-8b int4": "bitsandbytes is not installed"}
    assert report["machine"]["gpu"] == "made up"


def test_a_lora_case_names_the_precision_of_its_limit_and_meets_another_order_each_round(load, monkeypatch):
    from emosafe_lib.models import precision

    bench, smoke = load("finetune"), "smollm2-135m-smoke"
    full, small = bench.params_of("smollm2-135m"), bench.params_of(smoke)
    assert (full.weights, small.weights) == ("gguf", "random") and small.training == full.training
    assert small.shape == full.shape.model_copy(update={"layers": 2})
    made = dict.fromkeys(("clock", "processor", "peak_mb", "training_mb", "gemm_gflops"), 2.0)
    made |= {"limit_share": 0.25, "steps": 3, "threads": 1}
    sides, seeds = {"ours": made, "peer": made | {"processor": 1.0, "steps": 7}}, []

    def in_own_process(file, one, case, side, *words):
        seeds.append((side, words[-1]))
        return sides[side]

    monkeypatch.setattr(bench, "in_own_process", in_own_process)
    for half, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "mixes_precision", lambda model, half=half: half)
        speed = bench.compare(smoke, 8, 2)[0]
        assert (speed["ratio"], speed["limit_share"], speed["precision"], speed["steps"]) == (2.0, 0.25, dtype, [3, 7])
    assert sorted(seeds) == sorted([(side, seed) for side in sides for seed in (0, 1)] * 2)


def test_one_run_of_training_is_measured_against_products_on_its_own_threads(load, monkeypatch):
    import torch

    from emosafe_lib.nano import pretrain

    bench, threads = load("finetune"), []
    products = pretrain.gemm_peak
    monkeypatch.setattr(pretrain, "gemm_peak", lambda kind: threads.append(torch.get_num_threads()) or products(kind))
    for count in ("2", "1"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        found = bench.measure("smollm2-135m-smoke", "ours", 8, 0)
        assert 0 < found["limit_share"] < 1.5 and found["steps"] >= 1
        assert [found["threads"]] == threads[-1:] == [int(count)]


def test_growth_finds_a_planted_exponent_and_says_what_capped_a_step(load):
    bench = load("growth")
    runs = {n: {"seconds": 9.0, "processor_seconds": 2e-4 * n**1.25, "peak_mb": 100 + n / 1e3} for n in bench.ROWS}
    found = bench.table(bench.STREAM, runs, {"capped by": {"finetuning.train_rows": 4000}})
    assert [row["ours"] for row in found] == [9.0, 9.0, 9.0, 1.25, 1.98] and not found[-1]["bounded"]
    assert found[3]["exponents"] == [1.25, 1.25] and found[-1]["mib_per_100k_rows"] == 100.0
    assert all(row["capped by"] == {"finetuning.train_rows": 4000} for row in found)
    flat = {n: run | {"peak_mb": 100.0} for n, run in runs.items()}
    assert bench.table(bench.STREAM, flat, {})[-1]["bounded"] and len(bench.table("01", {100: runs[1000]}, {})) == 1
    assert {"finetuning.train_rows", "finetuning.min_steps"} < set(bench.caps("04 fine-tuning")["capped by"])


def test_growth_measures_a_step_in_a_process_whose_memory_is_its_own(load, tmp_path):
    bench, large = load("growth"), bytearray(500 * 2**20)
    large[:: 2**12] = bytes([1]) * len(large[:: 2**12])
    for rows in (bench.WARM_ROWS, 100):
        bench.write_inputs(tmp_path, rows)
    found = bench.in_own_process(bench.__file__, "--one", "01 merge", tmp_path, "--rows", 100)
    assert 50 < found["peak_mb"] < 450 and found["processor_seconds"] > 0 and (tmp_path / "rows-100.parquet").is_file()
