"""The text that tokenizers are trained on here."""

import json

TEXT = (
    "the quick brown fox jumps over the lazy dog; the dog doesn't mind.\n\n"
    "In 1984 there were 12345 foxes,  and two  spaces\tand a tab.\r\n"
    "  def f(x):\n    return x + 1\n\n\n"
    "À la carte — “quoted” naïve café, Straße, 日本語のテキスト。\n"
) * 3


def edited(tokenizer, **stages):
    return json.dumps(json.loads(tokenizer.to_json()) | stages)
