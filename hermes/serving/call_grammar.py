"""The grammar of calls of tools, in the form in which a chat template writes them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hermes.chat_templates.calls import KEY, write_call
from hermes.chat_templates.template import Template
from hermes.inference.grammar import render_json_rule
from hermes.serving.tool_calls import find_function
from hermes.tokenizer import Tokenizer

__all__ = ["CallForm", "find_call_form", "render_call_grammar"]


@dataclass(frozen=True)
class CallForm:
    """How calls are written: as {"name": ..., "arguments": ...}, with texts around them.

    mark: says that calls come; '' where an answer is the bare object or no call. begin: behind it.
    between: two calls; None where there can be one only. key: of the arguments.
    """

    mark: str = ""
    begin: str = ""
    between: str | None = None
    end: str = ""
    key: str = "arguments"


# Qwen, Hermes and others; Mistral; Llama 3.1. As `tool_calls` reads them.
BLOCKS = CallForm("<tool_call>", "\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
LISTED = CallForm("[TOOL_CALLS]", " [", ", ", "]")
BARE = CallForm()


def find_call_form(template: Template, tokenizer: Tokenizer) -> CallForm:
    """Find how a template writes calls; the bare object where it has no form that is read.

    Marks that are special tokens stand for no text, so there too.
    """
    texts = (write_call(template, value) for value in ({KEY: "v"}, json.dumps({KEY: "v"})))
    written = next((text for text in texts if text is not None and KEY in text), "")
    key = "parameters" if '"parameters"' in written else "arguments"
    for form in (BLOCKS, LISTED):
        if form.mark in written and tokenizer.find_special_id(form.mark) not in (
            tokenizer.special_ids
        ):
            return replace(form, key=key)
    return replace(BARE, key=key)


def render_call_grammar(
    tools: Sequence[Any], form: CallForm, *, is_forced: bool, has_one_call: bool, schema: Any
) -> str:
    """The grammar, in Lark, of answers that call tools, or may.

    schema: of the JSON that an answer without calls is; None for any text.
    """
    rules, objects = [], []
    for number, tool in enumerate(tools):
        function = find_function(tool)
        name = json.dumps(function["name"], ensure_ascii=False)
        head = _quote(f'{{"name": {name}, "{form.key}": ')
        parameters = function.get("parameters") or {"type": "object"}
        objects.append(f"{head} arguments{number} {_quote('}')}")
        rules.append(f"arguments{number}: {render_json_rule(parameters)}")
    rules.append(f"object: {' | '.join(objects)}")
    more = "" if has_one_call or form.between is None else f"({_quote(form.between)} object)*"
    rules.append(f"calls: {_quote(form.begin)} object {more} {_quote(form.end)}")
    calls = f"{_quote(form.mark)} calls"
    if is_forced:
        start = calls
    elif schema is not None:
        start = f"{calls} | content"
        rules.append(f"content: {render_json_rule(schema)}")
    elif form.mark:  # text goes on up to a mark, which a lazy rule finds wherever it comes
        start = "TEXT | marked calls"
        rules += [f"marked[lazy]: TEXT {_quote(form.mark)}", "TEXT: /(.|\\n)*/"]
    else:
        start = 'calls | TEXT | ""'
        rules.append("TEXT: /[^{](.|\\n)*/")
    return "\n".join([f"start: {start}", *rules])


def _quote(text: str) -> str:
    """A text as a literal of the grammar; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""
