"""The testbed's tokenizer: one token a name, a word, or what stands between the names of a fact ("was directed by").

With a fact of three tokens (and the full stop) a small model learns sooner to find it. Other text falls back to bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lagkit.datasets.world.world import language, name_pool
from lagkit.model.prompts.prompt import Prompt

BOS, END, PAD = "<s>", "<|end|>", "<pad>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
_PASSAGES = 64  # numbers of passages that are one token each

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# A word keeps the space before it, so that a name is the same token wherever it stands; tags and signs are apart.
_APART = r"▁?</?(?:ans|keywords)>|'s▁\w+|▁?[^\w▁\s]|▁?\w+"


@cache
def _serialized() -> str:
    words = sorted({piece for text in _texts() for piece in _pieces(text)})
    tokens = [PAD, BOS, END, *_ROLES, "\n", "\n\n", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (PAD, BOS, END, *_ROLES)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("\n\n", "\n")])
    return tokenizer.to_str()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same every time, with BOS, end-of-turn token and chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_serialized()),
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex("|".join([*_phrases(), _APART])), "isolated"),
        ]
    )


@cache
def _phrases() -> list[str]:
    """Patterns of the words between subject and object, the longest first."""
    tongue = language()
    says = [wording for r in (*tongue.by_name.values(), *tongue.trivia.values()) for wording in r.says]
    between = {found.replace(" ", "▁") for wording in says for found in re.findall(r"\$s(.*?) \$o", wording)}
    return [re.escape(phrase) + r"(?!\w)" for phrase in sorted(between, key=lambda phrase: (-len(phrase), phrase))]


def _pieces(text: str) -> list[str]:
    return [piece for line in text.split("\n") for piece, _ in _pre_tokenizer().pre_tokenize_str(line) if line]


def _texts() -> Iterator[str]:
    """All that is said in the testbed: names, wordings, trivia, prompts and numbers."""
    tongue = language()
    yield from name_pool()
    for relation in (*tongue.by_name.values(), *tongue.trivia.values()):
        yield from (*relation.words, *(re.sub(r"\$\w", "X", wording) for wording in relation.says))
        yield f"X's {relation.name}"
    prompt = Prompt.load("qa_short")
    notes = prompt.notes
    for text in (prompt.system, prompt.user, notes.shown, prompt.passages.shown, notes.system, notes.request):
        yield re.sub(r"\$\w+", "X", text)
    yield from ("Who is X?", "What is unknown.", "Nothing helps.")
    yield "X <ans> X</ans> <keywords> X</keywords>"
    yield from (f"[{number}]" for number in range(_PASSAGES))
