"""A certificate as an HTML page that needs no other file."""

import math
from typing import Any

from jinja2 import Environment

from hermes_conformance.certificate.issue import describe_passes, describe_scope

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<title>hermes conformance: {{ c.backend }} against {{ c.against }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem }
td, th { text-align: left; vertical-align: top }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { background: #e8e8e8; width: 9rem; height: .7rem; border-radius: .35rem; overflow: hidden }
.bar div { height: 100%; background: #2a7 } .bad .bar div { background: #c33 }
.bad { background: #fdecec } small, .where { color: #666 }
code { background: #f4f4f4; padding: 0 .2rem }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd } td, th { border-color: #333 }
  .bad { background: #3a1c1c }
  code, .bar { background: #333 }
}
</style>
<h1>{{ c.backend }} against {{ c.against }}:
{{ "passed" if c.passed else "failed" }}</h1>
<p>{{ c.conditions.date }}, device <code>{{ c.device }}</code>,
{% for name, version in c.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}
{%- endfor %}, {{ c.conditions.processor.model or c.conditions.processor.machine }}.
{{ passes }}; {{ scope }}.
A bar is the worst error of a law beside its bound, in powers of ten: full is the bound.</p>
{% for level in c.levels %}
<h2>{{ level.level }}: {{ level.title }}</h2>
<table><tr><th>law<th>cases<th>failed<th>expected<th>declined<th>worst<th>bound<th><th>where</tr>
{% for law in level.laws %}
<tr{% if law.failed %} class="bad"{% endif %}>
<td><b>{{ law.law }}</b><br><small>{{ law.statement }}</small>
<td class="n">{{ law.cases }}<td class="n">{{ law.failed or "" }}
<td class="n">{{ law.expected or "" }}<td class="n">{{ law.declined or "" }}
{% if law.declined == law.cases %}
<td class="n">declined<td class="n">{{ number(law.bound) }} {{ law.unit }}<td>
{% else %}
<td class="n">{{ number(law.worst) }}<td class="n">{{ number(law.bound) }} {{ law.unit }}
<td><div class="bar"><div style="width: {{ share(law.ratio) }}%"></div></div>
{% endif %}
<td class="where">{{ law.case }} {{ law.where }}</tr>
{% endfor %}</table>
{% endfor %}
{% if c.failures %}<h2>Failures</h2>
{% for failure in c.failures %}
<h3>{{ failure.law }} on {{ failure.case }}</h3>
<ul>{% for m in failure.measures %}
<li>{{ m.tensor }} {{ m.shape }} at {{ m.index }}: error {{ number(m.error) }}, bound
{{ number(m.bound) }} {{ m.unit }}</li>{% endfor %}
{% if failure.message %}<li>{{ failure.message }}</li>{% endif %}</ul>
{% endfor %}{% endif %}
{% if c.expected %}<h2>Expected to fail</h2>
<ul>{% for known in c.expected %}
<li>{{ known.law }} on {{ known.case }}: {{ known.reason }}</li>{% endfor %}</ul>{% endif %}
{% for line in c.complaints %}<p class="bad">{{ line }}</p>{% endfor %}
<p><small>golden vectors {{ c.golden }}<br>certificate {{ c.sha256 }}</small></p>
</html>
"""


def format_number(value: float | None) -> str:
    """Two digits; `inf` for None, which stands for infinity in JSON."""
    if value is None:
        return "inf"
    return "0" if value == 0 else f"{value:.1e}"


def compute_bar_width(ratio: float | None) -> int:
    """The width of a law's bar in percent: 0 for no error, 2 at 1e-6 of the bound, 100 at it."""
    if ratio is None or ratio >= 1:
        return 100
    return 0 if ratio <= 0 else max(2, round(100 * (1 + math.log10(max(ratio, 1e-6)) / 6)))


def make_page(certificate: dict[str, Any]) -> str:
    """The page of a certificate."""
    environment = Environment(autoescape=True, trim_blocks=True)
    words = {
        "c": certificate,
        "passes": describe_passes(certificate),
        "scope": describe_scope(certificate),
        "number": format_number,
        "share": compute_bar_width,
    }
    return environment.from_string(PAGE).render(**words)
