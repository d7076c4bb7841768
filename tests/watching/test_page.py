"""The page in a real browser, where there is one: what it draws of two runs."""

import re
import threading

import pytest

from hermes.watching.server import WatchServer
from tests.browser import Browser, needs_browser
from tests.training.support import Runs, corpus_in

pytestmark = [pytest.mark.long, needs_browser]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's elements, once two runs are drawn."""
    folder = tmp_path_factory.mktemp("watched")
    go = Runs(corpus_in(tmp_path_factory.mktemp("corpus")), folder)
    go("first", eval_every=4, sample_every=6, sample_tokens=3, sample_prompt="<b>the cat")
    go("second", lr=1e-2)
    with WatchServer([folder]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = Browser(tmp_path_factory.mktemp("profile"), 1200, 1400)
        browser.open(server.url)
        browser.wait("document.body.dataset.drawn === 'yes'")
        found = browser.run("document.documentElement.outerHTML")
        browser.close()
        server.shutdown()
    assert browser.faults == []
    return found


def test_both_runs_are_drawn(page):
    assert 'data-drawn="yes"' in page
    assert "2 runs, 0 in training" in page
    assert re.findall(r'class="name"[^>]*>(\w+)<', page) == ["first", "second"]
    assert page.count("finished, step 12 of 12, loss ") == 2


def test_each_measure_has_its_chart(page):
    titles = re.findall(r"<figcaption><span>([^<]*)</span>", page)
    assert titles[:6] == [
        "Loss (nats per token, or per pair)", "Validation, bits per byte", "Learning rate",
        "Gradient norm before clipping", "Tokens per second", "Peak memory (bytes)",
    ]  # fmt: skip
    assert all(title[0].isupper() for title in titles)
    assert page.count("<canvas") == len(titles)


def test_text_of_a_run_stays_text(page):
    assert '<span class="prompt">&lt;b&gt;the cat</span>' in page


def test_settings_that_differ_are_a_table(page):
    differs = '<td class="differs">{}</td>'
    assert f"<th>lr</th>{differs.format(0.003)}{differs.format(0.01)}" in page
    assert "<th>seq_len</th>" not in page
