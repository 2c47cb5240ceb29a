"""The published procedure, transcribed from its description in plain torch and transformers, and held against ours.

Of lagkit the transcription has the words of the prompts, which are our own, and the embedder; the loop, what is encoded
and kept, where it stands and what comes of it are written anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from lagkit.agent.loop import Agent
from lagkit.logs.encode import Encoder
from lagkit.logs.retrieve import HashEmbedder, PassageIndex
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import Prompt
from lagkit.policy import POLICIES
from lagkit.types import Limits, Passage, Question, Round, Trace
from tests.helpers.lms import ScriptedLM, new_lm, open_store, qa, tiny_lm

EMBEDDER, PROMPT = HashEmbedder(), Prompt.load("qa_paper")
KV = ("authors_kv_last_round", "authors_kv_last_action", "authors_block")
TEXT = ("authors_text_last_round", "authors_text_all_rounds", "authors_cheatsheet")
NEW, ROUNDS = 10, 3

PASSAGES = [
    Passage(f"p{i}", title, text)
    for i, (title, text) in enumerate(
        [
            ("Vistula", "The Vistula ends in the Baltic Sea."),
            ("Torun", "Torun stands on the Vistula, and Copernicus was born there."),
            ("Content", "A title is a title."),
            ("Danube", "The Danube flows through Budapest."),
            ("Budapest", "Erno Rubik was born in Budapest."),
            ("Elbe", "The Elbe ends in the North Sea."),
        ]
    )
]
LOGS = [
    ("Where was Copernicus born?", ["Copernicus was born in Torun.\n<ans>Torun</ans>"]),
    ("On which river does Torun stand?", ["I must know. <keywords>Torun river</keywords>", "So: <ans>Vistula</ans>"]),
    ("Where does the Danube end?", ["Budapest. <keywords>Danube</keywords>", "Hm.", "<ans>Black Sea</ans> it is"]),
    ("Who invented the cube?", ["Rubik invented the cube, with no tag"]),
]
ASKED = [
    qa("Into which sea does the river of Copernicus's birthplace flow?"),
    qa("Where does the Danube of Rubik end?"),
    # To these, random models say special tokens, in a response or in a cheatsheet.
    qa("Who knows the river of Torun?"),
    qa("Who knows the Danube of Copernicus?"),
]


@cache
def lm_of(name: str) -> LM:
    return LM.load("testbed", device="cpu", dtype="float32") if name == "testbed" else tiny_lm(name)


def traces() -> list[Trace]:
    return [
        Trace(f"log{i}", question, "", tuple(Round("?", r, opening=f"The question is: {question} ") for r in said))
        for i, (question, said) in enumerate(LOGS)
    ]


def half_turned(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


@dataclass
class Published:
    """One model under one of the published variants."""

    lm: LM
    variant: str

    def ids(self, text: str) -> list[int]:
        return self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]

    def angles(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lm.model.model.rotary_emb(torch.zeros(1), torch.arange(n)[None])

    @torch.no_grad()
    def stored(self, said: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys without RoPE and values of a log, `[layers, kv_heads, tokens, head_dim]`."""
        before = "" if self.variant == "authors_block" else "\n\n".join(said[:-1]) + "\n\n"
        start = len(before)
        if self.variant == "authors_kv_last_action":
            actions = list(re.finditer(r"<(ans|keywords)>.+?</\1>", said[-1]))
            start += actions[-1].start() if actions else 0
            end = len(before) + (actions[-1].end() if actions else len(said[-1]))
        text = f"{before}{said[-1]}\n\n"
        if self.variant != "authors_kv_last_action" or end == len(text) - 2:
            end = len(text)
        read = self.lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        kept = [i for i, (a, b) in enumerate(read["offset_mapping"]) if b > start and a < end]
        cache, ids = DynamicCache(), torch.tensor([read["input_ids"]])
        self.lm.model(ids, past_key_values=cache, use_cache=True)
        cos, sin = self.angles(ids.shape[1])
        keys = torch.cat([layer.keys * cos - half_turned(layer.keys) * sin for layer in cache.layers])
        values = torch.cat([layer.values for layer in cache.layers])
        return keys[:, :, kept], values[:, :, kept]

    @torch.no_grad()
    def generate(self, prompt: str, logs: Sequence[Sequence[str]] = (), text: str = "", new: int = NEW) -> str:
        """A greedy response to a user turn behind logs; only the end token ends it."""
        chat = self.lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.partition("\0")[0]}], tokenize=False, add_generation_prompt=True
        )
        ids = self.ids(text) + self.ids(chat + prompt.partition("\0")[2])
        cache, n = DynamicCache(), 0
        if logs:
            parts = [self.stored(said) for said in logs]
            keys, values = (torch.cat(some, dim=2) for some in zip(*parts, strict=True))
            n = keys.shape[2]
            cos, sin = self.angles(n)
            for layer, (k, v) in enumerate(zip(keys * cos + half_turned(keys) * sin, values, strict=True)):
                cache.update(k[None], v[None], layer)
        out = self.lm.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, n + len(ids), dtype=torch.long), past_key_values=cache,
            do_sample=False, max_new_tokens=new, pad_token_id=0, eos_token_id=self.lm.tokenizer.eos_token_id,
        )  # fmt: skip
        return self.lm.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()

    def ranked(self, texts: Sequence[str], query: str, k: int, before: int) -> list[int]:
        scores = EMBEDDER.documents(texts) @ EMBEDDER.queries([query])[0]
        return [int(i) for i in np.argsort(-scores, kind="stable")[before * k : (before + 1) * k]]

    def answer(self, question: Question) -> list[tuple[str, list[int], list[int]]]:
        """Each round's response, and the passages and logs that it had in sight, in their order."""
        passages = [f"title: {p.title}\ncontent: {p.text}" for p in PASSAGES]
        every = self.variant == "authors_text_all_rounds"
        logs = ["\n".join([asked, "\n\n".join(said if every else said[-1:])]) for asked, said in LOGS]
        groups: dict[str, tuple[list[int], list[int]]] = {}
        query, asked, notes, known, rounds = question.text, [], "", [], []
        for _ in range(ROUNDS):
            before = asked.count(query)
            asked.append(query)
            groups.setdefault(query, ([], []))
            for at, (texts, k) in enumerate([(passages, 2), (logs, 3)]):
                had = [i for group in groups.values() for i in group[at]]
                groups[query][at].extend(i for i in self.ranked(texts, query, k, before) if i not in had)
            shown, used = ([i for group in groups.values() for i in group[at]] for at in (0, 1))
            turn = PROMPT.user_turn(question, [PASSAGES[i] for i in shown]) + f"\0The question is: {question.text}"
            said = [LOGS[i][1] for i in used]
            if self.variant in KV:
                response = self.generate(turn, said)
            elif self.variant == "authors_cheatsheet":
                if used != known:
                    told = [f"Question: {LOGS[i][0]}\nResponse: {LOGS[i][1][-1]}" for i in used]
                    notes, known = (
                        self.generate(PROMPT.distil_turn(question, "\n\n".join(told)), new=min(NEW, 512)),
                        used,
                    )
                response = self.generate(turn, text=f"{notes}\n\n" if notes else "")
            else:
                texts = [one if every else one[-1:] for one in said]
                response = self.generate(turn, text="".join("\n\n".join(one) + "\n\n" for one in texts))
            rounds.append((response, shown, used))
            answers = [a.strip() for a in re.findall(r"<ans>(.*?)</ans>", response, re.DOTALL) if a.strip()]
            if answers:
                break
            words = [w.strip() for w in re.findall(r"<keywords>(.*?)</keywords>", response, re.DOTALL) if w.strip()]
            query = words[-1] if words else response
            if not EMBEDDER.queries([query]).any():  # no words to search for
                break
        return rounds


def ours(lm: LM, variant: str, store, questions: Sequence[Question], rounds: int = ROUNDS) -> dict[str, Trace]:
    index = PassageIndex(PASSAGES, EMBEDDER, PROMPT.embedded)
    limits = Limits(max_new_tokens=NEW, max_rounds=rounds)
    agent = Agent(lm, prompt=PROMPT, embedder=EMBEDDER, passages=index, policy=variant, store=store, limits=limits)
    return {trace.question_id: trace for trace in agent.run(questions)}


TINY = ("llama", "qwen3", "olmo2")


@pytest.mark.parametrize("name", [*TINY, "testbed"])
@pytest.mark.parametrize("variant", KV)
def test_stored_keys_and_values_are_the_published_ones(name, variant):
    lm = lm_of(name)
    for trace, (_, said) in zip(traces(), LOGS, strict=True):
        block = Encoder(lm, PROMPT).encode(trace, POLICIES[variant])
        keys, values = Published(lm, variant).stored(said)
        assert block.keys.shape == keys.shape
        torch.testing.assert_close(block.keys, keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block.values, values, rtol=1e-5, atol=1e-5)


# Text is read by all families alike.
@pytest.mark.parametrize(
    ("variant", "name"),
    [
        *((variant, name) for variant in KV for name in TINY),
        *((variant, "llama") for variant in TEXT),
        *(pytest.param(variant, "testbed", marks=pytest.mark.slow) for variant in (*KV, *TEXT)),
    ],
)
def test_responses_passages_and_logs_are_the_published_ones(name, variant, tmp_path):
    lm, logs = lm_of(name), traces()
    numbers = {trace.id: i for i, trace in enumerate(logs)}
    with open_store(tmp_path, lm, *logs) as store:
        found = ours(lm, variant, store, ASKED)
        for question in ASKED:
            trace, expected = found[question.id], Published(lm, variant).answer(question)
            assert trace.error is None or not EMBEDDER.queries([trace.rounds[-1].response]).any()
            assert [r.response for r in trace.rounds] == [response for response, _, _ in expected]
            for i, (r, (_, shown, used)) in enumerate(zip(trace.rounds, expected, strict=True)):
                assert r.prompt == PROMPT.user_turn(question, [PASSAGES[n] for n in shown])
                assert {numbers[hit.id] for past in trace.rounds[: i + 1] for hit in past.logs} == set(used)


def test_without_its_leading_blank_a_log_of_one_round_would_hold_the_attention_sink():
    """What the published code drops of such a log is its first token, with the blank line."""
    lm, [log, *_] = lm_of("testbed"), traces()
    encoder = Encoder(lm, PROMPT)
    published, own = (encoder.read(log, POLICIES[name]) for name in ("authors_kv_last_round", "kv_last_round"))
    assert (published.text, own.text) == (f"\n\n{LOGS[0][1][0]}\n\n", LOGS[0][1][0])
    assert (published.kept[0] > 0, own.kept[0]) == (True, 0)
    last = published.spans[published.kept[-1]]
    assert published.text[slice(*last)].endswith("\n")  # the blank line behind is kept
    alone = encoder.read(log, POLICIES["authors_block"])
    assert (alone.text, alone.kept[0]) == (f"{LOGS[0][1][0]}\n\n", 0)
    assert len(alone.kept) == len(published.kept)


@pytest.mark.parametrize(
    ("name", "order"), [("qa_paper", ["river", "river w0", "sea"]), ("qa", ["river", "sea", "river w0"])]
)
def test_what_a_query_brings_when_it_is_asked_again_stands_with_what_it_brought_before(tmp_path, name, order):
    asks = ["<keywords>river</keywords>", "<keywords>sea</keywords>", "<keywords>river</keywords>", "<ans>x</ans>"]
    words = ["river", "river w0", "river w0 w1", "sea", "sea w0"]
    index = PassageIndex([Passage(f"p{i}", "T", text) for i, text in enumerate(words)], EMBEDDER, PROMPT.embedded)
    logs = [Trace(text, text, "", (Round("?", f"<ans>{text}</ans>"),)) for text in words]
    lm, limits = new_lm(ScriptedLM), Limits(passages=1, logs=1, max_new_tokens=NEW)
    injected: list[str] = []
    lm.generate = reading_all(lm, asks, injected)
    with open_store(tmp_path, lm, *logs) as store:
        agent = Agent(
            lm, prompt=Prompt.load(name), embedder=EMBEDDER, passages=index, policy="kv_last_round", store=store,
            limits=limits,
        )  # fmt: skip
        [trace] = agent.run([qa("river?")])
    assert [r.query for r in trace.rounds] == ["river?", "river", "sea", "river"]
    assert re.findall(r"\b(?:river|sea)\b(?: w\d)*(?=\n)", trace.rounds[-1].prompt) == order
    assert injected[-1] == "".join(f"<ans>{text}</ans>" for text in order)


def reading_all(lm: ScriptedLM, script: Sequence[str], injected: list[str]):
    """A `generate` that follows a script without stop strings, and notes what was injected."""
    said = iter(script)

    def generate(contexts, max_new_tokens, **settings):
        injected.extend(lm.read(context)[0] for context in contexts)
        return [lm._said(context, next(said)) for context in contexts]

    return generate
