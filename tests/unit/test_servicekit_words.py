"""The service kit stays small and knows no word of the domain."""

import re
from pathlib import Path

import footfall_servicekit

SOURCES = sorted(Path(footfall_servicekit.__file__).parent.glob("*.py"))
DOMAIN_WORDS = re.compile(r"visit|identit|event|beacon|contact|person|session|tracker|website|browser", re.IGNORECASE)
# Words of the standard library and of structlog that only look like ours.
FOREIGN = re.compile(r"asyncio\.Event|EventDict|personal data")


def test_no_word_of_the_domain() -> None:
    found = {
        source.name: words
        for source in SOURCES
        if (words := DOMAIN_WORDS.findall(FOREIGN.sub("", source.read_text(encoding="utf-8"))))
    }
    assert not found


def test_it_stays_small() -> None:
    lines = [line for source in SOURCES for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 1_050
