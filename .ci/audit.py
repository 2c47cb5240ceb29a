"""Audits the pinned versions: 1 if one has a known vulnerability or the audit broke, else 0.

Where the vulnerability service cannot be reached, or knows none of the packages, that is told in one line: it is no
fault of the versions. Arguments go to pip-audit, such as `-s osv`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
HOW = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "10")
UNREACHABLE = re.compile(r"\b(?:Connection|Proxy|SSL|Service)Error\b|\b(?:Connect|Read)?Timeout\b|Could not connect")


def main(words: list[str]) -> int:
    """Run pip-audit and say how it went."""
    pins = [] if "-r" in words else ["-r", str(PINS)]
    ran = subprocess.run([sys.executable, "-m", "pip_audit", *pins, *HOW, *words], capture_output=True, text=True)
    if not ran.stdout.strip():
        said = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if UNREACHABLE.search(ran.stderr):
            print(f"Not audited: the vulnerability service cannot be reached ({said:.200}).")
            return 0
        print(f"pip-audit failed: {said}")
        return 1
    packages = json.loads(ran.stdout)["dependencies"]
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        print(f"Not audited: the vulnerability service knows none of the {len(packages)} packages.")
        return 0
    found = [(package, flaw) for package in audited for flaw in package["vulns"]]
    for package, flaw in found:
        remedy = ", ".join(flaw["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {remedy}. {flaw['description']:.200}")
    unknown = len(packages) - len(audited)
    print(f"Known vulnerabilities: {len(found)}. Packages: {len(audited)} audited, {unknown} not known to the service.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
