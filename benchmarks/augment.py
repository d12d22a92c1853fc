"""Is a bill safe with the chat provider? Kills, faults, throughput and canaries against a server that keeps the books.

All requests go over a loopback socket through the official client. The server bills when it begins an answer, even if
the client has died meanwhile; it honours `Idempotency-Key` in one case and not in the other.

    python benchmarks/augment.py            # writes benchmarks/results/augment.json
    python benchmarks/augment.py --rows 200 --print
"""

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "augment.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import augment_cases  # noqa: E402
import chat_server  # noqa: E402
from reporting import machine, publish, ratio, rounds, versions  # noqa: E402

from emosafe_lib.augment import reinterpretation  # noqa: E402
from emosafe_lib.augment import requests as augment_requests  # noqa: E402
from emosafe_lib.augment.journal import FINAL, Journal, journal_path  # noqa: E402
from emosafe_lib.study.rows import write_rows  # noqa: E402

KILLS = 5
FAULT_SHARE = 0.2
CONCURRENCY = 16
LATENCY = 0.25
KEY = "sk-canary-key-for-the-benchmark"
KINDS = tuple(kind for kind in chat_server.ALL_FAULTS if kind != "german")
CANARIES = (
    "zelda.quux{n}@example.org",
    "+49 170 99887{n:03d}",
    "@zelda_quux{n}",
    "instagram: zelda.quux{n}",
    "https://example.org/zelda/quux{n}",
    "zelda{n} at example dot org",
    "u/zelda_quux{n}",
    "4111 1111 1111 {n:04d}",
)
MERGED = """
import shutil, sys
from emosafe_lib.study import stage
run = stage.begin("01_data_merge", "canary")
shutil.copy(sys.argv[1], run.out("rows.parquet"))
run.finish()
"""


def worker(rows_file: Path, params, folder: Path) -> subprocess.Popen:
    """A run in a process of its own, which can be killed."""
    environment = os.environ | {"OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    command = augment_cases.command_of(rows_file, params, folder)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def faults(seed: int):
    """A behaviour: a fifth of the requests meet a fault, all kinds equally often."""
    rng = random.Random(seed)
    return lambda number, body: rng.choice(KINDS) if rng.random() < FAULT_SHARE else "good"


def parameters(url: str, count: int):
    """Limits that only the server sets."""
    return augment_cases.live(
        url,
        max_rows=count,
        concurrency=CONCURRENCY,
        attempts=6,
        deadline_seconds=60.0,
        attempt_seconds=1.0,
        max_cost_usd=1e3,
    )


def final_answers(path: Path) -> Counter:
    """How many final answers the journal holds for each key."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return Counter(record["key"] for record in records if record.get("outcome") in FINAL)


def kill_run(count: int, folder: Path, idempotent: bool) -> dict:
    """Five kill -9 at random moments, then runs until nothing is missing; what the books and the journal say."""
    table, rng = augment_cases.rows(count), random.Random(1)
    write_rows(table, folder / "rows.parquet")
    kills, runs, lost = sorted(rng.uniform(0.05, 0.95) for _ in range(KILLS)), 0, Counter()
    with chat_server.ChatServer(faults(2), latency=0.05, idempotent=idempotent) as server:
        params = parameters(server.url, count)
        path = journal_path(folder, params)
        planned = {request.key for request in augment_requests.requests_for(table, params)}
        for share in kills:
            run = worker(folder / "rows.parquet", params, folder)
            while run.poll() is None and (not path.exists() or len(final_answers(whole(path))) < share * count):
                time.sleep(rng.uniform(0.0, 0.2))
            run.kill()
            run.wait()
            runs += 1
            lost.update(sent_and_lost(path))
        while runs < KILLS + 10 and set(final_answers(path)) != planned:
            worker(folder / "rows.parquet", params, folder).wait()
            runs += 1
        answered = final_answers(path)
        twice = {short for short, number in server.billed.items() if number > 1}
        cut = {short for short, kind in zip(server.ids, server.kinds, strict=True) if kind in ("late", "cut")}
        return {
            "rows": len(planned),
            "answered_once": sum(number == 1 for number in answered.values()),
            "answered_twice": sum(number > 1 for number in answered.values()),
            "lost": len(planned - set(answered)),
            "billed": sum(server.billed.values()),
            "billed_twice": len(twice),
            "of_these_in_flight_at_a_kill": len(twice & {key[:12] for key in lost}),
            "of_these_answer_cut_or_late": len(twice & cut),
            "of_these_without_such_a_reason": len(twice - cut - {key[:12] for key in lost}),
            "in_flight_at_kills": len(lost),
            "requests": len(server.seen),
            "faults": sum(kind in KINDS for kind in server.kinds),
            "fault_kinds": len(set(server.kinds) & set(KINDS)),
            "runs": runs,
        }


def whole(path: Path) -> Path:
    """A copy of a journal without a line that is being written just now."""
    copy = path.with_suffix(".copy")
    raw = path.read_bytes()
    copy.write_bytes(raw[: raw.rfind(b"\n") + 1])
    return copy


def sent_and_lost(path: Path) -> set[str]:
    """Keys that were sent before the last kill and have no outcome."""
    lost: set[str] = set()
    for line in whole(path).read_bytes().splitlines():
        record = json.loads(line)
        lost = lost | {record["sent"]} if "sent" in record else lost - {record.get("key", "")}
    return lost


def rate_of(times: list[float], count: int) -> float:
    """Requests a second, from the first request's arrival to the last one's."""
    return (count - 1) / (times[-1] - times[0])


async def bare_client(port: int, body: bytes, count: int) -> None:
    """The server's own limit: sixteen connections that send one prepared request after another and read the answer."""
    left = iter(range(count))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def connection():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONCURRENCY)))


async def plain_client(url: str, bodies: list[dict]) -> None:
    """The peer: the official client with a semaphore, no journal, no limits, no checks."""
    import openai

    gate = asyncio.Semaphore(CONCURRENCY)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url) as client:

        async def one(body):
            async with gate:
                await client.chat.completions.create(**body)

        await asyncio.gather(*(one(body) for body in bodies))


def throughput(count: int, folder: Path, latency: float, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """By the bare client, the plain official client and ours, at the same server, round by round: requests a second, and
    processor seconds a request.
    """
    return rounds(
        {side: partial(one_side, side, count, folder, latency) for side in ("limit", "peer", "ours")}, repeats
    )


def one_side(side: str, count: int, folder: Path, latency: float) -> tuple[float, float]:
    """One run of `throughput`."""
    from emosafe_lib.augment.exchange import body_of

    table = augment_cases.rows(count)
    with chat_server.ChatServer(latency=latency, capacity=CONCURRENCY, idempotent=False) as server:
        params = parameters(server.url, count)
        requests = augment_requests.requests_for(table, params)
        bodies = [body_of(request, params) for request in requests]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        if side == "limit":
            asyncio.run(bare_client(server.port, json.dumps(bodies[0]).encode(), len(bodies)))
        elif side == "peer":
            asyncio.run(plain_client(server.url, bodies))
        else:
            with Journal(Path(tempfile.mkdtemp(dir=folder)) / "speed.jsonl") as journal:
                reinterpretation.answer_all(table, requests, params, journal)
        spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        return rate_of(server.times, len(bodies)), spent / len(bodies)


def canary_rows(count: int):
    """Rows of people's data, each with one identifier, and the identifiers; a fifth is safe, a fifth unsafe."""
    table = augment_cases.rows(count).assign(origin="human")
    table["safety"] = [("borderline", "borderline", "borderline", "safe", "unsafe")[n % 5] for n in range(count)]
    canaries = [CANARIES[n % len(CANARIES)].format(n=n) for n in range(count)]
    texts = [f"{text} Write to me: {canary} tonight." for text, canary in zip(table["text"], canaries, strict=True)]
    return table.assign(text=texts), canaries


def checkout_with(study: str, folder: Path) -> Path:
    """A folder that looks like this checkout and has one study more."""
    (folder / "params" / "study").mkdir(parents=True)
    (folder / "params" / "study" / "canary.yaml").write_text(study)
    (folder / "params" / "models").symlink_to(ROOT / "params" / "models")
    for name in ("notebooks", "emosafe_lib"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def canary_run(count: int, folder: Path) -> dict:
    """Run notebook 02 itself on rows with canaries and look for them in everything that it sent or wrote."""
    table, canaries = canary_rows(2 * count)
    kinds = ("good", "500", "identifier", "good", "broken", "good")
    with chat_server.ChatServer(lambda number, body: kinds[number % len(kinds)]) as server:
        root = checkout_with(CANARY_STUDY.format(url=server.url, rows=2 * count), folder / "checkout")
        write_rows(table, folder / "rows.parquet")
        secrets = {"OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment = os.environ | secrets | {"EMOSAFE_OUTPUTS": str(folder / "outputs"), "PYTHONPATH": str(ROOT)}
        environment["EMOSAFE_ROOT"] = str(root)
        merged = [sys.executable, "-c", MERGED, str(folder / "rows.parquet")]
        subprocess.run(merged, env=environment, capture_output=True, check=True, cwd=ROOT)
        stage = ["stage", "02_chatgpt_augmentation", "--study", "canary"]
        command = [sys.executable, "-m", "emosafe_lib.cli", "run", *stage]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        sent, requests = server.raw.decode("latin-1"), len(server.seen)
    if done.returncode:
        raise SystemExit(f"notebook 02 failed: {done.stderr[-500:]}")
    written = [path for path in (folder / "outputs").rglob("*") if path.is_file() and path.suffix != ".parquet"]
    kept = {path.name: path.read_bytes().decode("latin-1") for path in written}
    import pandas as pd

    (made,) = (folder / "outputs").rglob("reinterpretations.parquet")
    journals = {name: text for name, text in kept.items() if name.endswith(".jsonl")}
    places = {
        "requests": sent,
        "journal": "".join(journals.values()),
        "logs": done.stdout + done.stderr,
        "notebook and outputs": "".join(text for name, text in kept.items() if name not in journals),
        "rows": pd.read_parquet(made).to_json(),
    }
    found = {place: sum(leaks(canary, text) for canary in canaries) for place, text in places.items()}
    found["key outside requests"] = sum(text.count(KEY) for place, text in places.items() if place != "requests")
    parents = {
        request.parent_id for request in augment_requests.requests_for(table, parameters("http://x/v1", 2 * count))
    }
    placeholders = sum(sent.count(f"[{kind}_1]") for kind in ("EMAIL", "PHONE", "USER", "URL", "CARD"))
    control = sum(leaks(canary, " ".join(table["text"])) for canary in canaries)  # the search does find what is there
    counts = {"rows": len(table), "rows_sent": len(parents), "requests": requests, "placeholders_sent": placeholders}
    return counts | {"found_in_the_input": control, "found": found, "files_searched": len(kept)}


def leaks(canary: str, text: str) -> bool:
    """Whether a canary is in a text, as it stands or as JSON and HTML write it."""
    forms = {canary, json.dumps(canary)[1:-1], canary.replace("/", "\\/"), canary.replace("@", "&#64;")}
    return any(form.lower() in text.lower() for form in forms)


CANARY_STUDY = """
name: canary
data:
  sources: [emosafe_sample]
augmentation:
  provider: openai
  model: test-model
  base_url: {url}
  prices: [1.0, 2.0]
  max_share: 0.5
  max_rows: {rows}
  attempts: 8
  concurrency: 8
  requests_per_minute: 100000
  tokens_per_minute: 100000000
models: [nano-1]
"""


def entry(case: str, ours, peer, peer_name: str, unit: str, limit_share=None, **more) -> dict:
    """One line of the report; the ratio is ours by the peer's where both are numbers."""
    times = round(ours / peer, 3) if peer else None
    return {"case": case, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit, "ratio": times} | {
        "limit_share": limit_share,
        **more,
    }


def speed_entries(count: int, folder: Path, repeats: int) -> list[dict]:
    """Throughput at a chat server's pace, and with answers at once, where our own work is all there is."""
    lines, number = [], min(count, 600)
    for case, latency in (("250 ms an answer", LATENCY), ("answers at once", 0.0)):
        runs = throughput(number, folder, latency, repeats)
        rates = {side: [rate for rate, _ in found] for side, found in runs.items()}
        ours, peer, limit = (round(statistics.median(rates[side]), 1) for side in ("ours", "peer", "limit"))
        spent = {side: round(1e3 * statistics.median(work for _, work in found), 2) for side, found in runs.items()}
        more = {"limit": limit, "processor_ms_per_request": spent, "requests": number, "repeats": repeats}
        more["ratio"] = round(ratio(rates["ours"], rates["peer"]), 3)
        unit, name = "requests/s at concurrency 16", "AsyncOpenAI with a semaphore, no journal"
        lines.append(entry(f"throughput, {case}", ours, peer, name, unit, round(ours / limit, 3)) | more)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--canaries", type=int, default=200)
    parser.add_argument("--print", action="store_true", help="print the report instead of writing it")
    chosen = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = KEY
    os.environ["NO_PROXY"] = "127.0.0.1"
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for case, idempotent in (("key honoured", True), ("key ignored", False)):
            folder = Path(name) / case.replace(" ", "-")
            folder.mkdir()
            found = kill_run(chosen.rows, folder, idempotent)
            title = f"five kill -9, a fifth faults, idempotency {case}"
            lines.append(entry(title, found["billed_twice"], None, "", "requests billed twice", **found))
        lines += speed_entries(chosen.rows, Path(name), chosen.repeats)
        found = canary_run(chosen.canaries, Path(name))
        lines.append(entry("canary identifiers", sum(found["found"].values()), None, "", "leaks", **found))
    found_on = machine()
    report = {"machine": found_on, "versions": versions("openai", "tenacity", "aiolimiter", "filelock"), "rows": lines}
    publish(report, RESULTS, only_print=chosen.print)


if __name__ == "__main__":
    main()
