"""Pages of a nightly run: what a browser may do on them."""

from __future__ import annotations

import re

from tests.test_hostile_text import write_night


def test_no_page_of_a_night_runs_what_it_shows(tmp_path):
    found = {name: path.read_text(encoding="utf-8") for name, path in write_night(tmp_path, {}).items()}
    for name, page in found.items():
        [policy] = re.findall(r'<meta (?=[^>]*"Content-Security-Policy")[^>]*content="([^"]*)"', page)
        assert policy.startswith("default-src 'none'; "), name
        assert ("script-src 'nonce-" in policy) == (name == "job")
    [script] = re.findall(r"<script[^>]*>", found["job"])
    assert 'src="../plotly.min.js"' in script
    assert re.search('nonce="[^"]{20,}"', script)
    assert (tmp_path / "night" / "jobs" / "plotly.min.js").exists()
    assert '<a href="../../report.html">All jobs</a>' in found["job"]
