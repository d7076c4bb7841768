"""tokenizer_config.json, which Hugging Face reads beside tokenizer.json."""

from typing import Any

from hermes.tokenizer.tokenizer import Tokenizer

__all__ = ["CHAT_TEMPLATE", "build_tokenizer_config"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, in Jinja as Hugging Face reads it."""

# Hugging Face's model_max_length of a tokenizer without a limit.
NO_LIMIT = int(1e30)


def build_tokenizer_config(
    tokenizer: Tokenizer, *, max_seq_len: int | None = None
) -> dict[str, Any]:
    """Build tokenizer_config.json, which Hugging Face reads beside tokenizer.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": NO_LIMIT if max_seq_len is None else max_seq_len,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": False,
    }
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    for role, number in ids.items():
        if number is not None:
            config[f"{role}_token"] = tokenizer.get_name(number)
    if None not in (
        tokenizer.find_special_id("<|im_start|>"),
        tokenizer.find_special_id("<|im_end|>"),
    ):
        config["chat_template"] = CHAT_TEMPLATE
    return config
