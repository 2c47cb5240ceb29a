"""Tiny language models with a real tokenizer, and one whose answers are written down; all built in-process."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lagkit.logs.header import Header
from lagkit.logs.retrieve import HashEmbedder
from lagkit.logs.store import LogStore
from lagkit.model.context import Context, Generation
from lagkit.model.families import tiny
from lagkit.model.lm import LM
from lagkit.model.prompts.prompt import NotesTemplates, PassageTemplates, Prompt
from lagkit.model.tokens import decoded
from lagkit.runs.config import RunConfig
from lagkit.runs.experiment import Experiment
from lagkit.types import Passage, Question, Round, TaskKind, Trace, Usage

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
VOCAB = 600
Kind = TypeVar("Kind", bound=LM)

_TURNS = "{{ bos_token }}{% for m in messages %}"
_TURN = "<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n"
_OPEN = "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
CHAT = _TURNS + _TURN + _OPEN
NO_SYSTEM_CHAT = (
    _TURNS
    + "{% if m['role'] == 'system' %}{{ raise_exception('no system messages, please') }}{% endif %}"
    + _TURN
    + _OPEN
)
# Keeps only the last word of what the assistant said before, as templates of thinking models drop thoughts.
FORGETFUL_CHAT = (
    _TURNS
    + "{% if m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'].split(' ')[-1] }}</s>\n"
    + "{% else %}"
    + _TURN
    + "{% endif %}"
    + _OPEN
)


@cache
def _trained() -> str:
    """A byte-level BPE learnt from passages: tokens of several characters, characters of several tokens.

    The first ones suffice, so that the vocabulary stays the same when the sample grows.
    """
    passages = json.loads((SAMPLE / "dev_docs.json").read_text(encoding="utf-8"))
    words = [f"{p['title']}\n{p['content']} <ans>{p['title']}</ans> <keywords>" for p in [*passages.values()][:41]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer.to_str()


def tokenizer(template: str | None = CHAT, **special: str | None) -> PreTrainedTokenizerFast:
    """A fast tokenizer with offsets, BOS `<s>`, EOS `</s>` and a chat template; `special` overrides its tokens."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained()), **names)
    made.chat_template = template
    return made


@cache
def tiny_lm(family: str = "llama", template: str | None = CHAT) -> LM:
    """A random model of the family, fp32; the same object every time, so never change it."""
    return new_lm(LM, family, template)


def new_lm(kind: type[Kind], family: str = "llama", template: str | None = CHAT, **config: object) -> Kind:
    """A fresh LM of class `kind`; `config` goes to the model's configuration."""
    model = tiny(family, **{"vocab_size": VOCAB, "max_position_embeddings": 4096, **config})
    return kind(model, tokenizer(template), f"tiny-{family}")


def saved(folder: Path, **config: object) -> Path:
    """A tiny model in a folder, as `LM.load` reads it; `config` as in `new_lm`."""
    lm = new_lm(LM, **config)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


class ActingLM(LM):
    """A tiny model whose every response ends with an action that its words decide: an answer or a search."""

    def generate(self, contexts: Sequence[Context], max_new_tokens: int, **settings: object) -> list[Generation]:
        return [self._acting(g) for g in super().generate(contexts, max_new_tokens, **settings)]

    @staticmethod
    def _acting(said: Generation) -> Generation:
        number = zlib.crc32(said.text.encode())
        tag = "ans" if number % 3 == 0 else "keywords"
        return replace(said, text=f"{said.text} <{tag}>word{number % 7} {number % 5}</{tag}>")


class ScriptedLM(LM):
    """Answers from a script, question text -> its responses in turn; an exception in their place is raised.

    `notes` are the responses to requests for notes. `seen` collects what the model read for each response: the text
    that was injected and the text that was prefilled; `batches` how many contexts each call held.
    """

    def play(
        self, script: Mapping[str, Sequence[str | Exception]], notes: Mapping[str, str] | None = None
    ) -> ScriptedLM:
        """Set the script; everything that was seen before is forgotten."""
        self.script, self.notes = script, notes or {}
        self.turn: Counter[str] = Counter()
        self.seen: dict[str, list[tuple[str, str]]] = {question: [] for question in script}
        self.notes_read: list[str] = []
        self.batches: list[int] = []
        return self

    def generate(
        self, contexts: Sequence[Context], max_new_tokens: int, *, stop: Sequence[str] = (), batch_size: int = 16
    ) -> list[Generation]:
        """The next response of each context's question; nothing is used up when one of them is an exception."""
        for context in contexts:
            self.check(context, max_new_tokens)
        self.batches.append(len(contexts))
        read = [self.read(context) for context in contexts]
        if not stop:
            self.notes_read += [words for _, words in read]
            return [self._said(c, self.notes[self._question(w)]) for c, (_, w) in zip(contexts, read, strict=True)]
        asked = [self._question(words) for _, words in read]
        said = [self.script[question][self.turn[question]] for question in asked]
        for response in said:
            if isinstance(response, Exception):
                raise response
        for question, what in zip(asked, read, strict=True):
            self.turn[question] += 1
            self.seen[question].append(what)
        return [self._said(context, text) for context, text in zip(contexts, said, strict=True)]

    def read(self, context: Context) -> tuple[str, str]:
        """What a context holds, as text: the injected part and the prefilled part."""
        injected = "".join(decoded(self.tokenizer, block.ids.tolist()) for block in context.blocks)
        return injected, decoded(self.tokenizer, context.ids)

    def _question(self, words: str) -> str:
        """The question of the script that comes last in a prompt: earlier ones stand in logs."""
        return max(self.script, key=words.rfind)

    def _said(self, context: Context, text: str) -> Generation:
        ids = tuple(self.tokenize(text))
        return Generation(text, ids, Usage(len(context.ids), context.injected, len(ids), 0.5))


def trace_of(*responses: str, question: str = "Where does the river end?", id: str = "q1") -> Trace:
    """A trace with these responses; its prompts are numbered."""
    rounds = tuple(Round(f"Passage {i}. Question: {question}", said) for i, said in enumerate(responses, 1))
    return Trace(id, question, "Be brief.", rounds)


def qa(text: str, *answers: str) -> Question:
    """A question whose id is its text."""
    return Question(text, text, answers or ("?",))


def passages_about(*words: str) -> list[Passage]:
    """One passage for each word, in which the word occurs; ids are p1, p2, ..."""
    return [Passage(f"p{i}", word.capitalize(), f"All about {word}.") for i, word in enumerate(words, 1)]


NOTES = NotesTemplates("Notes:\n$notes", system="Distil.", request="Logs:\n$logs\n\nQuestion: $question")


def short_prompt(kind: TaskKind = "qa", **changes: object) -> Prompt:
    """A prompt with few words, so that texts can be told whole; `changes` replace its parts."""
    return Prompt(
        **{
            "name": "short",
            "kind": kind,
            "system": "Be brief.",
            "user": "$passages\n\nQuestion: $question"
            if kind == "qa"
            else "$information\nQuestion: $question\n$choices",
            "opening": "Re: $question" if kind == "qa" else "",
            "passages": PassageTemplates("[$number] $title: $text"),
            "notes": NOTES,
            "information": "So far:\n$previous",
            **changes,
        }
    )


def open_store(path: Path, lm: LM, *traces: Trace) -> LogStore:
    """A log store of these traces, open for writing; `HashEmbedder` is its embedder."""
    embedder = HashEmbedder()
    store = LogStore.new(path, Header.of(lm, embedder), exist_ok=True)
    vectors = embedder.documents([trace.key for trace in traces])
    store.add_many((trace, vector, {}) for trace, vector in zip(traces, vectors, strict=True))
    return store


def small_run(out: Path, lm: LM | None, **settings: object) -> Experiment:
    """A run of seconds on the sample: six logs, three questions a split, two rounds of a few tokens.

    Without `lm` the run loads the model of its settings.
    """
    chosen = {
        **{"data": SAMPLE, "out": out, "embedder": "hash", "dtype": "float32", "wording": "plain"},
        **{"log_questions": 6, "seen_questions": 3, "unseen_questions": 3, "max_rounds": 2, "max_new_tokens": 4},
        **{"policies": ("no_logs", "kv_last_round", "text_last_round_user_turn"), "batch_size": 3},
    }
    return Experiment(RunConfig.parse({**chosen, **settings}), lm=lm, embedder=HashEmbedder())
