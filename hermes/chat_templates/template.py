"""Chat templates: Jinja as Hugging Face uses it, in a sandbox.

A template gets `messages`, `tools`, `add_generation_prompt` and the names of special tokens
(`bos_token`, ...), may call `raise_exception` and `strftime_now`, and may mark what the assistant
says with `{% generation %}`. Jinja2 is imported when a template is made.
"""

import re
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.sandbox import Refused, make_environment
from hermes.errors import DataError, StorageError

__all__ = ["Template", "choose_template"]


class Template:
    """A chat template.

    source: its text. where: what error messages call it. names: special tokens by role, such as
    eos_token. marks: whether it marks what the assistant says.
    """

    def __init__(self, source: str, *, where: str = "the chat template", names: Mapping[str, str]):
        """Compile the template. Raises DataError where it is not Jinja."""
        from jinja2 import TemplateError, TemplateSyntaxError

        self.source, self.where, self.names = source, where, dict(names)
        self.marks = bool(re.search(r"{%-?\s*generation\s*-?%}", source))
        try:
            self._compiled = make_environment().from_string(source)
        except TemplateSyntaxError as error:
            raise DataError(
                f"{where}:{error.lineno}: not a Jinja template: {error.message}"
            ) from None
        except (TemplateError, RecursionError, MemoryError, OverflowError) as error:
            raise DataError(f"{where}: not a Jinja template: {_summarize(error)}") from None

    def render(
        self, messages: Iterable[Message], *, prompt: bool, tools: Iterable[Any] | None = None
    ) -> str:
        """Render a conversation; with `prompt`, followed by what makes the assistant answer.

        What the template marks as generation is between OPEN and CLOSE. Raises DataError.
        """
        from jinja2.exceptions import SecurityError

        try:
            return str(
                self._compiled.render(
                    messages=[dict(message) for message in messages],
                    tools=None if tools is None else list(tools),
                    documents=None,
                    add_generation_prompt=prompt,
                    **self.names,
                )
            )
        except Refused as error:
            raise DataError(f"{self.where} refuses the conversation: {_summarize(error)}") from None
        except SecurityError as error:
            raise DataError(
                f"{self.where} tries to leave its sandbox{_locate_error(error)}: "
                f"{_summarize(error)}; do not use it"
            ) from None
        except Exception as error:  # a template can raise anything that Python raises
            raise DataError(
                f"{self.where} fails{_locate_error(error)}: {_summarize(error)}"
            ) from None


def _summarize(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _locate_error(error: Exception) -> str:
    """Name the line of the template at which an error was raised, if known."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return f" in line {lines[-1]}" if lines else ""


def choose_template(
    config: Mapping[str, Any] | None,
    *,
    file: str | Path | None = None,
    default: str,
    where: str = "tokenizer_config.json",
) -> Template:
    """Choose the template of a file, else of a tokenizer_config.json, else the default.

    config: the contents of tokenizer_config.json. Raises DataError, StorageError.
    """
    names = _read_token_names(config or {})
    if file is not None:
        try:
            return Template(Path(file).read_text(encoding="utf-8"), where=str(file), names=names)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: not UTF-8 at byte {error.start}, so it is not a template"
            ) from None
        except FileNotFoundError:
            raise DataError(f"{file}: no such template; check the name") from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}") from error
    source = (config or {}).get("chat_template")
    if isinstance(source, list):  # several templates by name
        named = {i.get("name"): i.get("template") for i in source if isinstance(i, dict)}
        if "default" not in named:
            shown = ", ".join(repr(name) for name in named)
            raise DataError(
                f"{where}: chat_template has no 'default', only {shown}; give one with --template"
            )
        source = named["default"]
    if source is None:
        return Template(default, where="the ChatML template", names=names)
    if not isinstance(source, str):
        raise DataError(f"{where}: chat_template must be a string, got {source!r:.40}")
    return Template(source, where=f"the chat template of {where}", names=names)


def _read_token_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Read bos_token and its like, which Hugging Face writes as strings or as objects."""
    found = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            found[key] = content
    return found
