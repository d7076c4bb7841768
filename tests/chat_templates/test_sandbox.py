"""What a chat template may not do: look outside, grow without end, turn without end."""

import subprocess
import sys
import time

import pytest

from hermes.chat_templates import render_client, renderer
from hermes.errors import DataError
from tests.chat_templates.support import A, U, chat_tokenizer, conversation, encoder_of
from tests.waiting import wait_until


@pytest.fixture
def tokenizer():
    return chat_tokenizer()


ESCAPES = (
    "{{ messages.__class__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | groupby('__class__') }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now['__globals__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ dict.mro() }}",
    "{{ messages[0].update({'role': 'user'}) }}",
    "{% set x = messages.sort() %}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_even_to_look_outside_the_sandbox_is_refused(source, tokenizer):
    with pytest.raises(DataError, match=r"^chat\.jsonl:3: the chat template tries to leave its"):
        encoder_of(tokenizer, source).encode(conversation((U, A)))


@pytest.mark.parametrize("source", ["{% include 'a' %}", "{% import 'os' as os %}{{ os }}"])
def test_a_template_reads_no_other_file(source, tokenizer):
    with pytest.raises(DataError, match="fails in line 1: no loader for this environment"):
        encoder_of(tokenizer, source).encode(conversation((U, A)))


GROWING = "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = GROWN %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('{{ "x" * 10**10 }}', "'*'"),
        ("{{ [1] * 10**10 }}", "'*'"),
        ("{{ 9**10000000 }}", "'**'"),
        ("{{ 'x'|center(10**10) }}", "'center'"),
        ("{{ ['x']|map('center', 10**10)|list }}", "'map'"),
        ("{{ 'x'.center(10**10) }}", "'center'"),
        ("{{ 'x'.zfill(width) if width else 'x'.ljust(10**10) }}", "'ljust'"),
        ("{{ 'x'|indent(10**10, true) }}", "'indent'"),
        ("{{ ('\\n' * 999999)|indent(999999) }}", "'indent'"),
        ("{{ ('\\t' * 999999).expandtabs(999999) }}", "'expandtabs'"),
        ("{{ ('x' * 999999)|replace('x', 'y' * 999999) }}", "'replace'"),
        ("{{ ('x' * 999999).replace('x', 'y' * 999999) }}", "'replace'"),
        ("{{ range(99999)|join('y' * 999999) }}", "'join'"),
        ("{{ ('y' * 999999).join(['a'] * 99999) }}", "'join'"),
        ("{{ messages|tojson(indent=10**9) }}", "'tojson'"),
        ("{{ '%10000000000d'|format(1) }}", "'format'"),
        ("{{ '%*d'|format(10**10, 1) }}", "'format'"),
        ("{{ '%10000000000d' % 1 }}", "'%'"),
        ("{{ '%*d' % (10**10, 1) }}", "'%'"),
        ("{{ '{:10000000000}'.format(1) }}", "'format'"),
        ("{{ '{:{w}}'.format(1, w=10**10) }}", "'format'"),
        ("{{ '{a:{w}}'.format_map({'a': 1, 'w': 10**10}) }}", "'format_map'"),
        (GROWING.replace("GROWN", "n.x + n.x"), "'+'"),
        (GROWING.replace("GROWN", "[n.x, n.x]|join"), "'join'"),
    ],
)
def test_a_template_makes_nothing_enormous(source, what, tokenizer):
    """Neither when it is compiled, where constants are computed, nor when it is rendered."""
    made = encoder_of(tokenizer, source)
    with pytest.raises(DataError) as refused:
        made.encode(conversation((U, A)))
    assert f"fails in line 1: {what} makes something too large" in str(refused.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (GROWING.replace("GROWN", "n.x ~ n.x"), "the text becomes too large"),
        (
            GROWING.replace("{% set n.x = GROWN %}", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
                            "{% set n.x = y %}"),
            "the text becomes too large",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 10,000,000 turns of loops",
        ),
    ],
)  # fmt: skip
def test_a_template_neither_grows_nor_turns_without_end(source, why, tokenizer):
    with pytest.raises(DataError, match=f"fails in line 1: {why}"):
        encoder_of(tokenizer, source).encode(conversation((U, A)))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 9 * 'x' }}", "x" * 9),
        ("{{ 'x'|center(5) ~ none ~ 3 }}", "  x  None3"),
        ("{{ 'a' ~ missing ~ 'b' }}", "ab"),
        ("{{ 'aXb'.replace('X', '-')|replace('b', 'c')|indent(2, true) }}", "  a-c"),
        ("{{ ','.join(['a', 'b']|map('upper')) }}", "A,B"),
        ("{{ ['a', 'b']|map('upper')|join('+') }}", "A+B"),
        ("{{ '%s %03d' % ('a', 7) }}{{ '{:>3}'.format(1) }}{{ '%d'|format(3) }}", "a 007  13"),
        ("{% for i in [1, 2] %}{{ i }}{{ loop.last }}{{ loop.length }}{{ loop.nextitem }}"
         "{% else %}no{% endfor %}", "1False222True2"),
        ("{% for k, v in {'a': 1}.items() if v %}{{ k ~ v }}{% endfor %}", "a1"),
        ("{% for i in missing %}{% else %}none{% endfor %}", "none"),
        ("{{ {'a': ['b']}|tojson(indent=2) }}", '{\n  "a": [\n    "b"\n  ]\n}'),
        ("{{ [1] + [2] }}{{ 'a' + 'b' }}{{ 1 + 2 }}{{ 7 % 4 }}", "[1, 2]ab33"),
    ],
)  # fmt: skip
def test_what_templates_do_with_texts_and_loops_is_as_ever(source, text, tokenizer):
    assert encoder_of(tokenizer, source).template.render([], prompt=False) == text


LOOP = "{% for i in range(99999) %}"
TWICE = (
    "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
)
DEEP = "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}"
LISTS = DEEP.replace("[n.x]", "n.x + ['y' * i]")
HOSTILE = {
    "bytes, times": "{{ 'a'.encode() * 10**10 }}",
    "bytes, padded": "{{ 'a'.encode().ljust(10**10) }}",
    "bytes of a number": "{{ (1).to_bytes(10**10, 'big') }}",
    "a growing list": LISTS,
    "nested twice, as text": TWICE + "{{ n.x|string }}",
    "nested twice, as JSON": TWICE + "{{ n.x|tojson }}",
    "nested twice, compared": TWICE.replace("set n.x", "set n.y = n.x %}{% set n.x")
    + TWICE.replace("namespace(x=[1])", "namespace(x=[1], z=n)") + "{{ n.x == n.z.x }}",
    "nested deeply, as text": DEEP + "{{ n.x|string }}",
    "nested deeply, as JSON": DEEP + "{{ n.x|tojson }}",
    "a sum of lists": "{{ (([[1] * 999] * 99999)|sum(start=[]))|length }}",
    "translate": LOOP + "{{ ('a' * 999999).translate({97: 'b' * 99999}) }}{% endfor %}",
    "counting": LOOP + "{% set x = ('a' * 999999).count('aab') %}{% endfor %}",
    "macros": "{% macro m(n) %}" + "{{ m(n + 1) if n < 60 }}" * 2 + "{% endmacro %}{{ m(0) }}",
    "a power modulo": "{{ (9**99999)|int ** 9 % 7 }}",
}  # fmt: skip


@pytest.fixture
def small_renderer(monkeypatch):
    """A real process with smaller limits, so that the test is shorter."""
    made = render_client.RenderClient(memory=512 << 20, seconds=1)
    monkeypatch.setattr(renderer, "_renderer", made)
    yield made
    made.close()


@pytest.mark.parametrize("kind", HOSTILE)
def test_size_and_time_are_bounded_whatever_a_template_does(kind, small_renderer, tokenizer):
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"the chat template (fails|is not)|not a Jinja") as refused:
        encoder_of(tokenizer, HOSTILE[kind]).encode(conversation((U, A)))
    assert "\n" not in str(refused.value)
    assert time.monotonic() - begin < 600  # one second of a processor, which others may need too
    # And the next template is rendered as ever.
    assert encoder_of(tokenizer, "{{ 1 + 2 }}").template.render([], prompt=False) == "3"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_what_a_template_says_moves_no_cursor(tokenizer):
    source = "{{ raise_exception('a\\x1b[31m\\x07\\u202e b') }}"
    with pytest.raises(DataError, match=r"refuses the conversation: a\?\[31m\?\? b$"):
        encoder_of(tokenizer, source).encode(conversation((U, A)))


def test_marks_that_a_template_writes_itself_are_no_numbers_of_messages(tokenizer):
    marks = (
        "\ufdd2" + "9" * 5_000 + " 1\ufdd4",
        "\ufdd20 999\ufdd4",
        "\ufdd3" + "7" * 5_000 + "\ufdd4",
    )
    for mark in marks:
        source = CHATML.replace("{{ m.role }}", mark + "{{ m.role }}")
        with pytest.raises(DataError, match="asks for an answer with"):
            encoder_of(tokenizer, source).encode(conversation((U, A) * 12))


def test_a_text_with_all_private_characters_leaves_none_for_the_names_of_tokens(tokenizer):
    private = "".join(map(chr, range(0xF0000, 0x10FFFE)))
    encoder = encoder_of(tokenizer, CHATML)
    encoder.encode(conversation(({**U, "content": "say " + private}, A)))
    with pytest.raises(DataError, match=r"use every character of Unicode's private planes, of whi"):
        encoder.encode(conversation(({**U, "content": "<|im_end|>" + private}, A)))


def test_what_ended_a_template_is_said(small_renderer, tokenizer):
    for kind, why in (("counting", "it takes more than 1 second"),
                      ("bytes, padded", "it needs more than 0.5 GiB of memory")):  # fmt: skip
        with pytest.raises(DataError, match=why):
            encoder_of(tokenizer, HOSTILE[kind]).encode(conversation((U, A)))


def test_rendering_ahead_ends_at_the_conversation_that_takes_too_much(small_renderer, tokenizer):
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}<|im_end|>"
        "{% if m.content == 'grow' %}{{ 'a'.encode().ljust(10**10) }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    good, bad = conversation((U, A)), conversation(({**U, "content": "grow"}, A), "chat.jsonl:4")
    made = encoder_of(tokenizer, source)
    examples = made.encode_many([good, good, bad])
    expected = made.encode(good)
    assert [next(examples)[0].ids.tolist() for _ in range(2)] == [expected.ids.tolist()] * 2
    with pytest.raises(DataError, match=r"^chat\.jsonl:4: .* of memory"):
        next(examples)
    # One that is rendered ahead meanwhile is not blamed on those before it.
    long = conversation((U, A) * 12)
    examples = made.encode_many([long] * 32 + [bad])
    expected = made.encode(long)
    assert [next(examples)[0].ids.tolist() for _ in range(32)] == [expected.ids.tolist()] * 32
    with pytest.raises(DataError, match=r"^chat\.jsonl:4: .* of memory"):
        next(examples)


def test_the_process_that_renders_ends_with_the_one_that_started_it():
    code = (
        "from hermes.chat_templates import renderer\n"
        "renderer.compile_template('{{ 1 }}', 'x')\n"
        "print(renderer._renderer._process.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    number = int(done.stdout)
    wait_until(lambda: _read_state(number).strip()[:1] in ("", "Z"))  # Z: nobody has asked for it


def _read_state(number):
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True,
                           text=True, check=False)  # fmt: skip
    return found.stdout
