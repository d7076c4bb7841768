"""Templates: which one is chosen, what it is given, and what is no template."""

import os
import subprocess

import pytest

from hermes.chat_templates.template import Template, choose_template
from hermes.errors import DataError, HermesError
from hermes.tokenizer import CHAT_TEMPLATE, build_tokenizer_config
from tests.chat_templates.support import TURNS


def test_the_default_template_is_chatml(tokenizer):
    found = choose_template(build_tokenizer_config(tokenizer), default=CHAT_TEMPLATE)
    assert found.render(TURNS[:1], prompt=True) == (
        "<|im_start|>user\nwho are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert choose_template(None, default=CHAT_TEMPLATE).source == CHAT_TEMPLATE


def test_a_template_that_is_not_there_is_a_mistake_like_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.jinja: no such template; check the name$"):
        choose_template({}, file=tmp_path / "none.jinja", default=CHAT_TEMPLATE)


def test_a_template_is_taken_from_a_list_by_the_name_default():
    held = [{"name": "rag", "template": "x"}, {"name": "default", "template": "y"}]
    assert choose_template({"chat_template": held}, default="z").source == "y"
    config = {"chat_template": "y", "bos_token": {"content": "<s>", "lstrip": False}}
    assert choose_template(config, default="z").names == {"bos_token": "<s>"}


@pytest.mark.parametrize(
    "held", [[{"name": ["default"]}], [{"name": {}}, 3], [], [None], ["default"]]
)
def test_a_list_without_a_default_is_refused_whatever_its_names_are(held):
    with pytest.raises(DataError, match="chat_template has no 'default', only "):
        choose_template({"chat_template": held}, default="z")


def test_a_template_is_no_device_no_folder_and_of_bounded_size(tmp_path):
    for file, why in (
        ("/dev/zero", "has more than 1,048,576 bytes, which"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(HermesError, match=why):
            choose_template(None, file=file, default="")
    (tmp_path / "a.jinja").write_bytes(b"a\r\nb\xff")
    with pytest.raises(DataError, match=r"a.jinja: not UTF-8 at byte 4, so it is not a template$"):
        choose_template(None, file=tmp_path / "a.jinja", default="")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["bash", "-c", f"printf 'a\\r\\nb' > {pipe}"]):
        assert choose_template(None, file=pipe, default="").source == "a\nb"


def test_templates_have_what_hugging_faces_have():
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}\n{% break %}\n    {% endif %}\n"
        "{{ {'ä': m.content} | tojson }}{{ strftime_now('%%') }}\n{% endfor %}"
    )
    made = Template(source, names={}).render([{"role": "user", "content": "<b>"}] * 2, prompt=False)
    assert made == '{"ä": "<b>"}%\n'


def test_what_is_no_jinja_is_refused_by_line(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("a\n{% for m in messages %}")
    with pytest.raises(DataError) as refused:
        choose_template(None, file=file, default="")
    assert str(refused.value).startswith(f"{file}:2: not a Jinja template: Unexpected end of")


def test_only_arguments_that_others_set_are_named():
    """Not what the template sets itself before it reads it, nor functions."""
    source = (
        "{%- set ns = namespace(last=0) %}{%- set thinking = thinking | default(true) %}"
        "{%- if messages[0].role == 'system' %}{%- set head = messages[0].content %}{%- endif %}"
        "{%- if not date is defined %}{%- set date = 'today' %}{%- endif %}"
        "{{ head }}{{ date }}{{ thinking }}{{ ns.last }}{{ bos_token }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ range(2) }}"
    )
    with pytest.raises(DataError, match=r"reads no argument 'nope'; it reads date, thinking$"):
        Template(source, names={"bos_token": "<s>"}, arguments={"nope": 1})
    Template(source, names={}, arguments={"date": "1", "thinking": False})
