"""The certificate as a page."""

from hermes_conformance.certificate.html import compute_bar_width, format_number


def test_numbers_and_bars_of_the_page():
    assert format_number(None) == "inf"
    assert format_number(0) == "0"
    widths = [compute_bar_width(ratio) for ratio in (0, 1e-6, 1.0, None)]
    assert widths == [0, 2, 100, 100]
