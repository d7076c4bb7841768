"""The page to talk to a model, in a real browser, where there is one."""

import re
import time

import pytest

from tests.browser import Browser, needs_browser

pytestmark = [pytest.mark.long, needs_browser]
LAST = "document.querySelector('#messages .message:last-child .said').textContent"
DONE = "document.querySelector('#stop').hidden && !document.querySelector('.writing')"


@pytest.fixture
def page(server, tmp_path):
    browser = Browser(tmp_path / "profile")
    browser.open(server.address)
    browser.wait("document.body.dataset.ready === 'yes'")
    yield browser
    faults = browser.faults
    browser.close()
    assert faults == []


def say(page, text):
    page.run("document.querySelector('#input').focus()")
    page.type(text)
    page.press("Enter", 13)
    page.wait("document.querySelectorAll('.message').length >= 2")
    page.wait(DONE)
    return page.run(LAST)


def set_value(page, name, value):
    page.run(
        f"(() => {{ const it = document.getElementById('{name}'); it.value = '{value}';"
        " it.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def click(page, text):
    buttons = "[...document.querySelectorAll('button')]"
    page.run(f"{buttons}.find(b => b.textContent === '{text}').click()")


def test_a_message_is_answered_and_kept(page, server):
    assert page.run("document.querySelector('#model').textContent").startswith("little, context of")
    set_value(page, "max_tokens", 12)
    set_value(page, "temperature", 0)
    said = say(page, "the cat <b>sat</b>")
    assert said
    assert page.run("document.querySelector('.failed')?.textContent") is None
    assert page.run("document.querySelector('.message.user .said').textContent") == (
        "the cat <b>sat</b>"
    )
    assert page.run("document.querySelector('.message.user .said b')") is None
    assert say(page, "and then?")
    assert page.run("document.querySelectorAll('.message').length") == 4
    assert page.run("document.querySelector('.failed')?.textContent") is None
    # Both the conversation and the settings are there after the page is loaded anew.
    page.open(server.address)
    page.wait("document.body.dataset.ready === 'yes'")
    assert page.run("document.querySelector('#max_tokens').value") == "12"
    page.run("document.querySelector('#conversations .title').click()")
    assert page.run("document.querySelectorAll('.message').length") == 4


def test_an_answer_is_made_anew_and_a_message_edited(page):
    set_value(page, "max_tokens", 20)
    set_value(page, "seed", 1)
    first = say(page, "the cat")
    click(page, "Regenerate")
    page.wait(DONE)
    assert page.run("document.querySelectorAll('.message').length") == 2
    assert page.run(LAST) != first
    click(page, "Edit")
    assert page.run("document.querySelector('#input').value") == "the cat"
    assert page.run("document.querySelectorAll('.message').length") == 0


def test_a_long_conversation_loses_its_oldest_turns_and_says_so(page, server, monkeypatch):
    # Slow enough for the speed to be shown, which does not take the place of what is lost.
    plain = server.model.engine.step
    monkeypatch.setattr(server.model.engine, "step", lambda: (time.sleep(0.03), plain())[1])
    set_value(page, "max_tokens", 30)
    set_value(page, "temperature", 0)
    for _ in range(4):
        assert say(page, "the cat sat on a mat")
    assert page.run("document.querySelector('.failed')?.textContent") is None
    assert page.run("document.querySelectorAll('.message').length") == 8
    told = page.run("document.querySelector('#rate').textContent")
    assert re.fullmatch(
        r"the oldest (\d+ messages no longer fit|message no longer fits) the context; "
        r"\d+ pieces, [\d.]+ a second",
        told,
    )
    page.faults.clear()  # the browser reports the refused requests


def test_a_message_that_is_too_long_does_not_stand_in_the_way_of_the_next(page):
    set_value(page, "max_tokens", 4)
    assert say(page, "the cat")
    assert "more than the model's max_seq_len 128; shorten it" in say(page, "the cat sat " * 60)
    assert page.run("document.querySelector('#rate').textContent") == ""
    assert "shorten it" not in say(page, "a mat")
    told = page.run("document.querySelector('#rate').textContent")
    assert told.startswith("the oldest 3 messages no longer fit the context")
    page.run("document.querySelector('#new').click()")
    assert page.run("document.querySelector('#rate').textContent") == ""
    page.faults.clear()  # the browser reports the refused requests


def test_escape_stops_an_answer(page, server):
    engine, plain = server.model.engine, server.model.engine.step

    def step():
        time.sleep(0.05)
        return plain()

    engine.step = step
    try:
        set_value(page, "temperature", 1)
        page.run("document.querySelector('#input').focus()")
        page.type("the cat")
        page.press("Enter", 13)
        page.wait(f"document.querySelector('.writing') && {LAST}.length > 3")
        page.press("Escape", 27)
        page.wait(DONE)
        assert page.run(LAST)
        assert engine.num_running <= 1
    finally:
        engine.step = plain


def test_conversations_are_listed_and_deleted(page):
    set_value(page, "max_tokens", 3)
    for text in ("the cat", "a mat"):
        page.run("document.querySelector('#new').click()")
        say(page, text)
    titles = "[...document.querySelectorAll('#conversations .title')].map(b => b.textContent)"
    assert page.run(titles) == ["a mat", "the cat"]
    page.run("document.querySelector('#conversations .remove').click()")
    assert page.run(titles) == ["the cat"]
    assert page.run("document.querySelectorAll('.message').length") == 0


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(
    page, server, monkeypatch
):
    plain = server.model.engine.step
    monkeypatch.setattr(server.model.engine, "step", lambda: (time.sleep(0.05), plain())[1])
    page.run("document.querySelector('#input').focus()")
    page.type("the cat")
    page.press("Enter", 13)
    page.wait(f"document.querySelector('.writing') && {LAST}.length > 3")
    page.run("document.querySelector('#conversations .remove').click()")
    page.wait(DONE)
    assert page.run("document.querySelectorAll('.message').length") == 0
    assert page.run("document.querySelectorAll('#conversations li').length") == 0
    assert page.run("JSON.parse(localStorage.getItem('hermes.conversations')).length") == 0


def test_an_answer_is_copied_or_said_not_to_be(page):
    """Also where the browser has no clipboard for scripts, as over http from another machine."""
    set_value(page, "max_tokens", 8)
    set_value(page, "temperature", 0)
    said = say(page, "the cat")
    own = "[...document.querySelectorAll('.message.assistant button')][0]"
    page.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.run(
        "window.copied = []; document.addEventListener('copy', () => copied.push("
        "document.activeElement.value))"
    )
    page.run(f"{own}.focus(), {own}.click()")
    page.wait(f"{own}.textContent === 'Copied'")
    assert page.run("copied") == [said]
    assert page.run(f"document.activeElement === {own}")
    page.run("document.execCommand = () => false")
    page.run(f"{own}.click()")
    page.wait(f"{own}.textContent === 'Not copied'")


def test_tabs_keep_each_others_conversations(page, server):
    """A frame of the same origin is another document, as a tab is."""
    set_value(page, "max_tokens", 3)
    say(page, "the cat")
    other = (
        "(() => { const tab = document.body.appendChild(document.createElement('iframe'));"
        " const store = tab.contentWindow.localStorage, name = 'hermes.conversations';"
        " const kept = JSON.parse(store.getItem(name));"
        " kept.unshift({id: 'x', messages: [{role: 'user', content: 'of another tab'}]});"
        " store.setItem(name, JSON.stringify(kept)); })()"
    )
    titles = "[...document.querySelectorAll('#conversations .title')].map(b => b.textContent)"
    page.run(other)
    page.wait(f"{titles}.length === 2")
    say(page, "a mat")
    assert page.run(titles) == ["of another tab", "the cat"]
    page.open(server.address)
    page.wait("document.body.dataset.ready === 'yes'")
    assert page.run(titles) == ["of another tab", "the cat"]


def test_a_store_that_is_full_is_said(page):
    set_value(page, "max_tokens", 3)
    page.run("Storage.prototype.setItem = () => { throw new Error('full'); }")
    say(page, "the cat")
    told = page.run("document.querySelector('#rate').textContent")
    assert told == "the browser keeps no more: this is lost with the page"


def test_an_error_of_the_server_is_shown(page):
    set_value(page, "top_p", 7)
    assert "top_p must be a number" in say(page, "the cat")
    assert page.run("document.querySelector('.message.failed') !== null")
    page.faults.clear()  # the browser reports the refused request, too


def test_it_fits_a_phone_and_the_dark(server, tmp_path):
    page = Browser(tmp_path / "profile", width=390, height=800)
    page.prefer("dark")
    page.open(server.address)
    page.wait("document.body.dataset.ready === 'yes'")
    set_value(page, "max_tokens", 30)
    say(page, "the cat " * 20)
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert page.run("document.querySelector('#input').clientHeight") < 120
    page.save_picture(tmp_path / "phone.png")
    page.close()


def test_on_a_phone_nothing_is_cut_and_a_touch_beside_the_list_closes_it(server, tmp_path):
    page = Browser(tmp_path / "phone", 390, 780)
    page.open(server.address)
    page.wait("document.body.dataset.ready === 'yes'")
    for name in ("input", "model"):
        wide, high, has_wide, has_high = page.run(
            f"(it => [it.scrollWidth, it.scrollHeight, it.clientWidth, it.clientHeight])"
            f"(document.getElementById('{name}'))"
        )
        assert wide <= has_wide + 1, name
        assert high <= has_high + 1, name
    is_open = "document.querySelector('#side').classList.contains('open')"
    page.run("document.querySelector('#open-side').click()")
    assert page.run(is_open)
    page.run("document.querySelector('#messages').click()")
    assert not page.run(is_open)
    page.close()
    assert page.faults == []


def test_a_server_that_is_gone_is_said_in_words(page):
    page.run("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    assert say(page, "Hello?") == "The server does not answer; is it still running?"
