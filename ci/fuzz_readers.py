"""What the fuzzer changes, and the code that reads it: a driver for each kind of input."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import certifi
from fuzz_endpoint import COMPLETION, Answers
from mutations import mutated

from promptbake.cli.main import main as promptbake
from promptbake.costs import Budget, NoBudget, Usage
from promptbake.dataset import conversations
from promptbake.dataset.acceptance import Acceptance
from promptbake.dataset.alignment import align_all, check_room
from promptbake.dataset.queries import load_queries, load_questions, requests_for, split
from promptbake.distill import checkpoints
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.files import JsonLines
from promptbake.interfaces import GenerationJob
from promptbake.plugins.registry import load
from promptbake.progress import SilentReporter
from promptbake.report import page
from promptbake.runs import session as sessions
from promptbake.runs.config import flatten
from promptbake.runs.generation import load_dataset
from promptbake.runs.ledger import Ledger
from promptbake.runs.scoring import stored_teacher
from promptbake.runs.session import Session, open_session
from promptbake.stages import data as data_stage
from promptbake.testing import tiny_tokenizer
from promptbake.types import Conversation, Datum, GenerationRequest, Message, Prompt, Query
from promptbake_files import FilesProvider
from promptbake_jsonl import JsonlTracker
from promptbake_loopback.openai import Prices  # noqa: F401  (the extra must be there)
from promptbake_mock.tiny import NAME, tiny_backend
from promptbake_openai import openai_provider, openai_teacher
from promptbake_openrouter import openrouter_provider

PROMPT = "Speak as a pirate, always.\nSay 'Arr'."
QUERIES = "Hi?\nWho are you?\nWhy?\nHow far?\n"
CONFIG = """seed = 1
[data]
queries = "q.txt"
temperatures = [0.5, 1.0]
max_tokens = 3
held_out = 1
n_queries = 4
[teacher]
top_k = 5
[train]
lr = 1e-3
rank = 4
batch_size = 2
epochs = 1
save_every = 1
tail = "sampled"
trackers = ["jsonl"]
[verify]
questions = "q.txt"
max_tokens = 2
min_gap_closed = -1e9
evaluators = ["checks"]
[budget]
max_dollars = 2.5
[options.evaluators.checks.patterns]
arr = "(?i)arr"
"""
TARGETS = CONFIG + '[[targets]]\nname = "one"\nteacher = "p.md"\nweight = 0.5\nqueries = "q.txt"\n'
LINE = (
    '{"id": "a1", "query_id": "qa", "messages": [{"role": "user", "content": "Hi?"}, {"role": '
    '"assistant", "content": "Arr."}], "complete": true, "meta": {"temperature": 0.5, "tokens": 2}}'
)
QUERY_FILES = {  # by ending
    ".jsonl": '{"id": "a", "text": "Hi?", "category": "x"}\n{"messages": [{"role": "user", '
    '"content": "Why?"}]}\n{"text": "How?"}\n',
    ".csv": 'text,n\n"Hi, you?",1\nWhy?,2\n"So ""what""?",3\n',
    ".txt": QUERIES,
    ".CSV": "text,n\nHi?,1\nWhy?,2\n",
    ".tsv": "text\tn\nHi?\t1\nWhy?\t2\n",
    ".json": '[{"text": "Hi?"}, {"text": "Why?"}]',
    ".parquet": "PAR1 text",
}
MODELS = {
    "data": [
        {"id": "m", "context_length": 4096, "pricing": {"prompt": "1e-7", "completion": "0.000002"}}
    ]
}
NO_BUDGET = NoBudget()
ERROR = {"error": {"message": "no such thing", "code": "x", "type": "y"}}


@dataclass(frozen=True)
class Driver:
    """Makes an input of one kind and reads it; `command` gives a command line that reads it."""

    read: Callable[[random.Random], None]
    command: Callable[[random.Random], list[str]] = lambda rng: []
    commands: bool = False


class World:
    """What the inputs are changed from: a prompt, its settings, a finished run, an endpoint."""

    def __init__(self) -> None:
        self._before = dict(os.environ), sessions.load
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OPENAI_API_KEY": "sk-fuzz", "NO_COLOR": "1"}
        Path("p.md").write_text(PROMPT)
        Path("q.txt").write_text(QUERIES)
        Path("base.toml").write_text(CONFIG)
        self.arguments = ["--profile", "mock", "--config", "base.toml"]
        for command in ("data", "bake", "verify"):
            with suppress(SystemExit):
                promptbake([command, "p.md", *self.arguments])
        registry = load()
        sessions.load = lambda: registry  # loading takes longer than most inputs
        self.base = tiny_backend().open_model(NAME)
        self.files = {
            str(path.relative_to("runs/p")): path.read_bytes()
            for path in sorted(Path("runs/p").rglob("*"))
            if path.is_file()
        }
        self.server = Answers()
        certificates = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
        Path("one.pem").write_text("".join(certificates[:2]))
        os.environ["SSL_CERT_FILE"] = str(Path("one.pem").resolve())  # all take longer to read

    def close(self) -> None:
        """Leave the process as it was."""
        os.environ.clear()
        environment, sessions.load = self._before
        os.environ.update(environment)

    def session(self, config: str = "base.toml", prompt: str = "p.md", **fields: Any) -> Session:
        """A session whose base model is open."""
        session = open_session(
            prompt, profile="mock", config_file=Path(config) if config else None, settings=(),
            run=fields.get("run"), reporter=SilentReporter(),
        )  # fmt: skip
        session.__dict__["base"] = self.base
        return session

    def fresh_run(self) -> Path:
        """The finished run as it was."""
        run = Path("runs/p")
        shutil.rmtree(run, ignore_errors=True)
        for name, content in self.files.items():
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_bytes(content)
        return run


def kinds(world: World) -> Mapping[str, Driver]:
    """The drivers by kind."""

    def settings_of(session: Session) -> None:
        config = session.config
        json.dumps(dict(flatten(config.model_dump(mode="json"))), allow_nan=False)
        _ = session.provider, session.teacher(), session.evaluators(), session.trackers()
        TailedLoss(session.loss, config.train.tail).draws(config.train.tail_draws)
        train = config.train
        schedule = Schedule(10, train.batch_size, train.epochs, train.lr, config.seed)
        schedule.batch(0)
        schedule.learning_rate(schedule.steps // 2)
        queries = load_queries(config.data.queries, column=config.data.column)
        requests_for(split(queries, config.data.held_out, config.seed), config.data.temperatures)
        session.plugin_versions, session.budget.dollars  # noqa: B018
        for target in session.targets:
            check_room(target.teacher, world.base, config.data.max_tokens)

    def config_file(rng: random.Random) -> None:
        Path("x.toml").write_bytes(mutated(CONFIG.encode(), rng))
        settings_of(world.session("x.toml"))

    def config_command(rng: random.Random) -> list[str]:
        Path("x.toml").write_bytes(mutated(CONFIG.encode(), rng))
        return ["config", "--json", "--profile", "mock", "--config", "x.toml"]

    def sidecar(rng: random.Random) -> None:
        shutil.copy("p.md", "s.md")
        Path("s.toml").write_bytes(mutated(TARGETS.encode(), rng))
        settings_of(world.session("", "s.md"))

    def sidecar_command(rng: random.Random) -> list[str]:
        shutil.copy("p.md", "s.md")
        Path("s.toml").write_bytes(mutated(TARGETS.encode(), rng))
        return ["config", "s.md", "--profile", "mock"]

    def prompt(rng: random.Random) -> None:
        Path("x.md").write_bytes(mutated(PROMPT.encode(), rng))
        session = world.session("base.toml", "x.md")
        check_room(session.targets[0].teacher, world.base, 3)
        session.prompt.digest  # noqa: B018

    def prompt_command(rng: random.Random) -> list[str]:
        Path("x.md").write_bytes(mutated(PROMPT.encode(), rng))
        shutil.rmtree("runs/x", ignore_errors=True)
        return ["data", "x.md", *world.arguments]

    def query_file(rng: random.Random) -> str:
        ending, content = rng.choice(list(QUERY_FILES.items()))
        path = Path(f"x{ending}")
        path.write_bytes(mutated(content.encode(), rng))
        return str(path)

    def queries(rng: random.Random) -> None:
        name = query_file(rng)
        found = load_queries(name, column=rng.choice(("text", "text", None, "n")))
        parts = split(found, 1, 0)
        for request in requests_for(parts, (0.5,)):
            world.base.renderer.prompt(request.query.messages, "Arr")
            json.dumps(conversations.messages_to_json(request.query.messages)).encode()

    def queries_command(rng: random.Random) -> list[str]:
        name = query_file(rng)
        shutil.rmtree("runs/p", ignore_errors=True)
        arguments = ["--set", f"data.queries={name}", "--set", "data.column=text"]
        return ["data", "p.md", *world.arguments, *arguments]

    def data_lines(rng: random.Random) -> None:
        path = Path("x.jsonl")
        path.write_bytes(mutated("\n".join([LINE, LINE.replace("a1", "a2"), ""]).encode(), rng))
        if rng.random() < 0.5:
            load_questions(str(path))
        provider = FilesProvider(path)
        found = [*conversations.read(path), *provider.generate(_job(world, ()))]
        store(found)

    def store(found: list[Any]) -> None:
        target = world.session().targets[0]
        acceptance = Acceptance([target.teacher])
        kept = [each for each in found if isinstance(each, Conversation)]
        with JsonLines(Path("stored.jsonl")) as file:
            for each in kept:
                checked = acceptance.check(each)
                if isinstance(checked, Conversation):
                    file.append(conversations.to_line(checked))
        align_all([replace(each, target="") for each in kept], (target,), world.base)

    def data_command(rng: random.Random) -> list[str]:
        Path("x.jsonl").write_bytes(mutated(f"{LINE}\n{LINE.replace('a1', 'b')}\n".encode(), rng))
        shutil.rmtree("runs/p", ignore_errors=True)
        more = ("data.provider=files", "options.data_providers.files.path=x.jsonl")
        return ["data", "p.md", *world.arguments, *(a for each in more for a in ("--set", each))]

    def damage(rng: random.Random) -> str:
        world.fresh_run()
        name = rng.choice(sorted({**world.files}, key=lambda name: name))
        path = Path("runs/p", name)
        path.write_bytes(mutated(path.read_bytes(), rng))
        return name

    def run_folder(rng: random.Random) -> None:
        name = damage(rng)
        session = world.session()
        folder = session.run
        if name.startswith("adapter"):
            session.__dict__["base"] = session.backend.open_model(NAME, session.budget)
            session.baked  # noqa: B018
        elif name.startswith("checkpoints"):
            base = session.backend.open_model(NAME, session.budget)
            student = session.backend.new_lora(base, rank=4, seed=1)
            checkpoints.restore(folder.checkpoints, student, session.reporter.say)
        elif name.startswith("teacher"):
            datums = align_all(load_dataset(session).training, session.targets, world.base)
            list(stored_teacher(session).scores(datums, 4))
        elif name == "metrics.jsonl" and rng.random() < 0.8:
            tracker = JsonlTracker()
            tracker.start(folder.path, {}, 2)
            tracker.finish()
        elif name in ("verify.json", "metrics.jsonl", "report.html"):
            page.write(folder)
        elif name == "costs.jsonl":
            ledger = Ledger(folder.costs, 1.0)
            assert 0 <= ledger.dollars < float("inf"), "the budget is defeated"
        else:
            data_stage.run(session)
            store([*load_dataset(session).training, *load_dataset(session).held_out])
            folder.state("bake", {"a": 1})
            Ledger(folder.costs, 1.0).by_work()

    def run_command(rng: random.Random) -> list[str]:
        damage(rng)
        command = rng.choice(("data", "bake", "verify", "report", "export", "chat"))
        shutil.rmtree("out", ignore_errors=True)
        more = {"export": ["--to", "out"], "chat": ["--message", "Hi", "--max-tokens", "2"]}
        return [command, "p.md", *world.arguments, *more.get(command, [])]

    def chat(rng: random.Random) -> None:
        world.server.answer(rng, rng.choice((COMPLETION, COMPLETION, COMPLETION, ERROR)))
        provider = openai_provider(
            model="m", base_url=world.server.url, max_retries=0, timeout=5.0, concurrency=2
        )
        requests = tuple(
            GenerationRequest(f"r{n}", Query(f"q{n}", (Message("user", f"{n}?"),)), 0.5)
            for n in range(2)
        )
        Path("costs.jsonl").unlink(missing_ok=True)
        ledger = Ledger(Path("costs.jsonl"), None)
        ledger.stage = "data"
        try:
            job = replace(_job(world, requests, ledger), turns=rng.choice((1, 1, 2)))
            store(list(provider.generate(job)))
        finally:
            ledger.close()
            assert 0 <= ledger.dollars < 1e12, f"the budget is defeated: {ledger.dollars}"
            assert min(vars(sum(ledger.by_work().values(), Usage())).values()) >= 0

    datum = _datum(world)

    def logprobs(rng: random.Random) -> None:
        world.server.answer(rng, _prompt_logprobs(world, datum))
        teacher = openai_teacher(
            model="m", base_url=world.server.url, max_retries=0, timeout=5.0, concurrency=1
        )
        for _, scores in teacher.score(
            [datum.teacher],
            k=4,
            draws=rng.choice((0, 1)),
            seeds=[0],
            open_model=lambda: world.base,
        ):
            assert scores.logprobs.isfinite().all()

    def model_list(rng: random.Random) -> None:
        world.server.answer(rng, MODELS)
        provider = openrouter_provider(model="m", base_url=world.server.url)
        request = GenerationRequest("r", Query("q", (Message("user", "Hi?"),)), 0.5)
        estimate = provider.estimate_cost(_job(world, (request,)))
        assert 0 <= estimate.usage.dollars < float("inf"), "a price is no price"

    return {
        "config": Driver(config_file, config_command, True),
        "prompt": Driver(prompt, prompt_command, True),
        "sidecar": Driver(sidecar, sidecar_command, True),
        "queries": Driver(queries, queries_command, True),
        "data lines": Driver(data_lines, data_command, True),
        "run folder": Driver(run_folder, run_command, True),
        "chat answers": Driver(chat),
        "prompt logprobs": Driver(logprobs),
        "price lists": Driver(model_list),
    }


def _job(
    world: World, requests: tuple[GenerationRequest, ...], budget: Budget = NO_BUDGET
) -> GenerationJob:
    prompt = Prompt("p", PROMPT)
    return GenerationJob(prompt, requests, frozenset(), 4, 0, lambda: world.base, budget)


def _datum(world: World) -> Datum:
    conversation = conversations.Conversation(
        "c", "q", (Message("user", "Hi?"), Message("assistant", "Arr.")), True
    )
    return align_all([conversation], world.session().targets, world.base)[0]


def _prompt_logprobs(world: World, datum: Datum) -> dict[str, Any]:
    """A truthful answer of vLLM's."""
    ids = datum.teacher_ids
    (scores,) = world.base.logprobs([datum.teacher])
    text = tiny_tokenizer().decode
    rows: list[Any] = [None] * (len(ids) - datum.n_response)
    for token, row in zip(ids[-datum.n_response :], scores, strict=True):
        top = {int(each): rank for rank, each in enumerate(row.topk(4).indices, 1)}
        entries = {token: top.get(token, 99), **top}
        rows.append(
            {
                str(each): {
                    "logprob": float(row[each]), "rank": rank,
                    "decoded_token": text([each]),
                }
                for each, rank in entries.items()
            }
        )  # fmt: skip
    return {"id": "x", "choices": [{"index": 0, "text": "", "prompt_logprobs": rows}]}
