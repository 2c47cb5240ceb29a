"""Chat templates that behave as those of real families, in a few lines each."""

from __future__ import annotations

_CHATML = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
_ANSWERED = "{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
_LAST_QUESTION = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
_OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

# The last assistant's turn gets an empty section of reasoning, earlier ones lose theirs.
QWEN3 = (
    _LAST_QUESTION
    + "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    + "{% if loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    + _ANSWERED
    + "<|im_end|>\n{% else %}"
    + _CHATML
    + "{% endif %}{% endfor %}"
    + _OPEN
)
# As before, asks for a question, and opens the reasoning itself.
QWEN35 = (
    _LAST_QUESTION
    + "{% if ns.last < 0 %}{{ raise_exception('No user query found in messages.') }}{% endif %}"
    + QWEN3.removeprefix(_LAST_QUESTION).replace(
        "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif"
    )
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}<|User|>{{ m['content'] }}{% else %}<|Assistant|>"
    + _ANSWERED
    + "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|start|>system<|end_header|>\n\nDate: 26 Jul 2024\n\n</s>"
    "{% endif %}{% for m in messages %}<|start|>{{ m['role'] }}<|end_header|>\n\n"
    "{% if m['role'] == 'system' %}Date: 26 Jul 2024\n\n{% endif %}{{ m['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end_header|>\n\n{% endif %}"
)
# Raises for a system message, and names the assistant otherwise.
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Puts the system message into the first question's turn by itself.
GEMMA3 = (
    "{{ bos_token }}{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] != 'system' %}<turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{% if system and loop.index0 == 1 %}{{ system }}{% endif %}{{ m['content'] | trim }}<end_of_turn>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Puts the system message into the last question's turn, if that comes last.
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "[INST] {{ system if loop.last else '' }}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Nothing that ends a system message ends a question as well, and a head without a question is refused.
BAFFLING = (
    "{{ bos_token }}{% if messages[-1]['role'] == 'system' %}{{ raise_exception('Where is the question?') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}<|system|>{% else %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Reads the question before it writes the system message.
MOODY = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{{ '/no_think ' if m['role'] == 'system' and 'quick' in messages[-1]['content'] }}{{ m['content'] }}</s>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
