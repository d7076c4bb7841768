"""What an answer must be: JSON of a schema, calls of tools, or text; and its grammar."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hermes.errors import HermesError
from hermes.inference.grammar import Grammar, compile_json_schema, compile_lark
from hermes.serving.body import Body
from hermes.serving.call_grammar import render_call_grammar
from hermes.serving.errors import ApiError
from hermes.serving.served_model import ServedModel
from hermes.serving.tool_calls import find_function

__all__ = ["AnswerForm", "take_answer_form"]


@dataclass(frozen=True)
class AnswerForm:
    """What a request says of the form of its answers.

    tools: which the template is given. callable: those of them that may be called. is_forced:
    whether one must be. has_one_call: at most one may be. schema: of the JSON that an answer
    without calls is, None for text.
    """

    tools: list[Any] = field(default_factory=list)
    callable: list[Any] = field(default_factory=list)
    is_forced: bool = False
    has_one_call: bool = False
    schema: Any = None

    @property
    def needs_grammar(self) -> bool:
        """Whether the model must be held to the form."""
        is_strict = any(find_function(tool).get("strict") for tool in self.callable)
        promised = self.is_forced or (self.callable and (self.has_one_call or is_strict))
        return bool(promised or self.schema is not None)

    async def compile(self, model: ServedModel) -> Grammar | None:
        """The grammar of the answers; None where they are what the model says. Raises ApiError."""
        if not self.needs_grammar:
            return None
        if self.callable:
            form = await model.find_call_form()
            return await asyncio.to_thread(self._compile_calls, model, form)
        return await asyncio.to_thread(_compile_schema, model, self.schema, "response_format")

    def _compile_calls(self, model: ServedModel, form: Any) -> Grammar:
        for tool in self.callable:  # each by itself, so that what is wrong is said of it
            function = find_function(tool)
            _compile_schema(model, function.get("parameters", {}), f"tool {function['name']!r}")
        if self.schema is not None:
            _compile_schema(model, self.schema, "response_format")
        text = render_call_grammar(
            self.callable,
            form,
            is_forced=self.is_forced,
            has_one_call=self.has_one_call,
            schema=self.schema,
        )
        try:
            return compile_lark(model.tokenizer, text)
        except HermesError as error:
            raise ApiError(400, f"tools: {error}", param="tools") from None


def _compile_schema(model: ServedModel, schema: Any, where: str) -> Grammar:
    try:
        return compile_json_schema(model.tokenizer, schema)
    except HermesError as error:
        param = "response_format" if where == "response_format" else "tools"
        raise ApiError(400, f"{where}: {error}", param=param) from None


def take_answer_form(body: Body) -> AnswerForm:
    """Take the fields that say it. Raises ApiError."""
    tools = _take_tools(body)
    one_call = not body.take_bool("parallel_tool_calls", True)
    schema = _take_schema(body)
    choice = body.take("tool_choice", "auto")
    allowed, mode = tools, choice
    if isinstance(choice, Mapping):
        mode, allowed, names_one = _read_choice(body, choice, tools)
        one_call = one_call or names_one
    if mode not in ("auto", "none", "required"):
        raise body.refuse(
            "tool_choice", "must be 'auto', 'none', 'required' or name a function", choice
        )
    if mode == "none":
        return AnswerForm(schema=schema)
    if mode == "required" and not tools:
        raise ApiError(400, "tool_choice needs tools; give them, too", param="tool_choice")
    return AnswerForm(tools, allowed, mode == "required", one_call, schema)


def _take_tools(body: Body) -> list[Any]:
    tools = body.take("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise body.refuse("tools", "must be a list of tools", tools)
    for tool in tools:
        if not isinstance(find_function(tool).get("name"), str):
            raise body.refuse("tools", "must be functions with names", tool)
    return tools


def _read_choice(
    body: Body, choice: Mapping[str, Any], tools: list[Any]
) -> tuple[str, list[Any], bool]:
    """A choice that names functions. -> the mode, the tools that may be called, whether it is one

    Raises ApiError.
    """
    kind, mode = choice.get("type"), "required"
    named: Any = [choice]
    if kind == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        inner = inner if isinstance(inner, Mapping) else {}
        mode, named = str(inner.get("mode", "auto")), inner.get("tools")
    elif kind != "function":
        raise body.refuse("tool_choice", "must have the type function or allowed_tools", choice)
    names = (
        [find_function(one).get("name") if isinstance(one, Mapping) else None for one in named]
        if isinstance(named, list)
        else []
    )
    known = {find_function(tool)["name"]: tool for tool in tools}
    if not names or not all(isinstance(name, str) and name in known for name in names):
        why = f"must name tools of the request, which are {', '.join(known) or 'none'}"
        raise body.refuse("tool_choice", why, choice)
    return mode, [known[name] for name in names], kind == "function"


def _take_schema(body: Body) -> Any:
    """The schema of `response_format`; None for text. Raises ApiError."""
    value = body.take("response_format", {"type": "text"})
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise body.refuse(
            "response_format", "must have the type text, json_object or json_schema", value
        )
    inner = value.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        raise body.refuse("response_format", "needs a schema in its json_schema", value)
    return schema
