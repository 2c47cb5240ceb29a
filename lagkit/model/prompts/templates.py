"""Chat templates that write the same text every day."""

from __future__ import annotations

from datetime import datetime

# For models that come without a chat template.
PLAIN_CHAT = (
    "{{ bos_token or '' }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

# The date that Llama 3's templates write where there is no clock.
TODAY = datetime(2024, 7, 26)

_DIRECTIVES = ("-d", "-m", "-H", "-I", *"aAbBdeFHIjmMpSTyY")


def asks_for_date(template: str) -> bool:
    """Whether a template writes the date of the day on which it is rendered."""
    return "strftime_now" in template


def dated(template: str) -> str:
    """A template for which it is always `TODAY`; one that does not ask for the date stays as it is.

    The date stands in the head of a prompt: with each new day all KV that was encoded behind it would be another's.
    """
    if not asks_for_date(template):
        return template
    parts = "".join(f"|replace('%{part}', '{TODAY.strftime(f'%{part}')}')" for part in _DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{parts} }}}}{{% endmacro %}}{template}"
