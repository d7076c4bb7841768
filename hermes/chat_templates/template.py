"""Chat templates: Jinja as Hugging Face uses it, in a sandbox.

A template gets `messages`, `tools`, `add_generation_prompt` and the names of special tokens
(`bos_token`, ...), may call `raise_exception` and `strftime_now`, and may mark what the assistant
says with `{% generation %}`. A process of its own renders it (`renderer`).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.renderer import begin_ahead, compile_template, render_template
from hermes.chat_templates.turns import Turn
from hermes.errors import DataError, StorageError, explain_os_error, suggest_nearest
from hermes.storage.plain_json import load_json
from hermes.storage.reading import read_bounded

__all__ = ["Rendering", "Template", "choose_template", "parse_template_args", "require_template"]

Rendering = tuple[int | tuple[int, ...], bool, bool]
"""What is rendered: the first so many messages, or those of these numbers; whether with the prompt
to answer; whether with the marks of `turns.split_marked`."""

# What a template is given besides arguments and the names of special tokens.
GIVEN = ("messages", "tools", "documents", "add_generation_prompt")

LARGEST_FILE = 1 << 20  # bytes; templates have thousands

# Python's words for JSON's. As text, all of them would be true in a template.
PYTHON_WORDS = {"False": "false", "True": "true", "None": "null"}


class Template:
    """A chat template.

    source: its text. where: what error messages call it. names: special tokens by role, such as
    eos_token. arguments: further variables, such as enable_thinking. marks: whether it marks what
    the assistant says.
    """

    def __init__(
        self,
        source: str,
        *,
        where: str = "the chat template",
        names: Mapping[str, str],
        arguments: Mapping[str, Any] | None = None,
    ):
        """Compile the template. Raises DataError if it is no Jinja or reads no such argument."""
        self.source, self.where, self.names = source, where, dict(names)
        self.arguments = dict(arguments or {})
        self.marks = bool(re.search(r"{%-?\s*generation\s*-?%}", source))
        self._reads, self._outside = compile_template(source, where)
        self._check_arguments()

    def _check_arguments(self) -> None:
        for name in self.arguments:
            if name in GIVEN or name not in self._reads:
                known = sorted(self._outside.difference(GIVEN, self.names))
                hint = suggest_nearest(name, known)
                known_here = f"; it reads {', '.join(known)}" if known else "; it reads none"
                raise DataError(f"{self.where} reads no argument {name!r}{hint or known_here}")

    def suggest_other_prompt(self) -> str:
        """What to do where the prompt to answer is not what precedes an answer."""
        given = {name: f"{name}={json.dumps(value)}" for name, value in self.arguments.items()}
        deciding = [text for name, text in given.items() if "think" in name or "reason" in name]
        change = "choose another --template"
        if given:
            texts = " and ".join(deciding or given.values())
            change = f"leave out --template-arg {texts}, or the reasoning of the answers"
        elif "enable_thinking" in self._outside:
            change = "give --template-arg enable_thinking=false, or choose another --template"
        return f"{change}, or mark what the assistant says with {{% generation %}} in the template"

    def render(
        self, messages: Iterable[Message], *, prompt: bool, tools: Iterable[Any] | None = None
    ) -> str:
        """Render a conversation; with `prompt`, followed by what makes the assistant answer.

        What the template marks as generation is between OPEN and CLOSE. Raises DataError.
        """
        return self._render(messages, prompt, tools, marks_turns=False)

    def render_marked(
        self, messages: Iterable[Turn], *, prompt: bool, tools: Iterable[Any] | None = None
    ) -> str:
        """Render with the marks of `turns.split_marked`, which say what belongs to which message.

        Without them the text is that of `render`, unless the template reads what it wrote.
        """
        return self._render(messages, prompt, tools, marks_turns=True)

    def begin_ahead(
        self, conversations: Iterable[tuple[Iterable[Message], Any, Sequence[Rendering]]]
    ) -> list[Any]:
        """Begin to render parts of conversations (messages, tools, what to render).

        -> what `renderer.finish_ahead` waits for. Raises DataError.
        """
        variables = {"documents": None, **self.names, **self.arguments}
        return begin_ahead(self.source, self.where, conversations, variables)

    def _render(
        self,
        messages: Iterable[Message],
        prompt: bool,
        tools: Iterable[Any] | None,
        *,
        marks_turns: bool,
    ) -> str:
        variables = {
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": prompt,
            **self.names,
            **self.arguments,
        }
        return render_template(
            self.source, self.where, messages, variables, marks_turns=marks_turns
        )


def require_template(file: str | Path) -> None:
    """Refuse a template that is not there, before anything is loaded. Raises DataError."""
    if not Path(file).exists():
        raise DataError(_describe_missing(file))


def _describe_missing(file: str | Path) -> str:
    return f"{file}: no such template; check the name"


def choose_template(
    config: Mapping[str, Any] | None,
    *,
    file: str | Path | None = None,
    default: str,
    where: str = "tokenizer_config.json",
    arguments: Mapping[str, Any] | None = None,
) -> Template:
    """Choose the template of a file, else of a tokenizer_config.json, else the default.

    config: the contents of tokenizer_config.json. arguments: as of Template. Raises DataError,
    StorageError.
    """

    def make(source: str, where: str) -> Template:
        return Template(source, where=where, names=names, arguments=arguments)

    names = _read_token_names(config or {})
    if file is not None:
        try:
            return make(_read_template(Path(file)), str(file))
        except FileNotFoundError:
            raise DataError(_describe_missing(file)) from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {explain_os_error(error)}") from error
    source = (config or {}).get("chat_template")
    if isinstance(source, list):  # several templates by name
        named = {str(i.get("name")): i.get("template") for i in source if isinstance(i, dict)}
        if "default" not in named:
            shown = ", ".join(repr(name) for name in named)
            raise DataError(
                f"{where}: chat_template has no 'default', only {shown or 'none'}; give one with "
                "--template"
            )
        source = named["default"]
    if source is None:
        return make(default, "the ChatML template")
    if not isinstance(source, str):
        raise DataError(f"{where}: chat_template must be a string, got {source!r:.40}")
    return make(source, f"the chat template of {where}")


def _read_template(path: Path) -> str:
    """Read a template, which may come through a pipe. Raises DataError, OSError."""
    try:
        return (
            read_bounded(path, LARGEST_FILE)
            .decode("utf-8")
            .replace("\r\n", "\n")
            .replace("\r", "\n")
        )
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}, so it is not a template"
        ) from None


def _read_token_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Read bos_token and its like, which Hugging Face writes as strings or as objects."""
    found = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            found[key] = content
    return found


def parse_template_args(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Parse arguments of a template: a mapping, or texts KEY=VALUE whose values are JSON.

    A value that is not JSON is a string: enable_thinking=false, date=2024-07-26. Raises DataError,
    also for False, True and None.
    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise DataError(f"template argument {text!r} must be KEY=VALUE, such as thinking=false")
        if value in PYTHON_WORDS:
            raise DataError(
                f"template argument {text!r}: values are JSON; write {key}={PYTHON_WORDS[value]}, "
                f"or {key}='\"{value}\"' for that word"
            )
        try:
            found[key] = load_json(value)
        except ValueError:
            found[key] = value
    return found
