"""What a certificate says it covers, as text and as a page."""

from dataclasses import replace

from hermes_conformance.certificate import html, storage
from hermes_conformance.certificate.issue import describe_scope, issue_certificate
from hermes_conformance.suite import runner
from hermes_conformance.suite.selection import load_backends, make_selection
from tests.conformance.support import make_outcome, run_hermes


def test_it_says_what_was_covered_and_what_was_expected_to_fail(capsys, tmp_path):
    file = tmp_path / "c.json"
    known = replace(make_outcome(runner.EXPECTED), message="the fused kernel")
    certificate = issue_certificate(
        load_backends("torch"), make_selection(("L1",), ("L1/logits",)), [make_outcome(), known]
    )
    storage.write_certificate(certificate, file)
    _, out, _ = run_hermes(capsys, "verify", str(file))
    assert "\npartial: 1 law, 2 checks, by --level L1 --law L1/logits\n" in out
    assert "expected to fail: L1/logits on default/hot: the fused kernel" in out
    assert "<li>L1/logits on default/hot: the fused kernel</li>" in html.make_page(certificate)
    assert describe_scope({**certificate, "whole": True}) == "whole: 1 law, 2 checks"
