"""The check of prose names the line, the words and what to say instead."""

import pytest

from docs.pages import Page
from docs.prose import MAX_WORDS, Text, findings, texts


def faults(text: str) -> list[str]:
    return [fault.partition(": ")[2] for fault in findings(Text("page.md", 1, text))]


def test_a_forbidden_word_is_found_in_its_line_with_what_to_say_instead() -> None:
    assert [*findings(Text("page.md", 7, "One\ntwo, and Nobody."))] == ['page.md:8: "Nobody": say no client, no person']


@pytest.mark.parametrize("text", ["A key `nobody` has.", "[what](nobody.md)", "A nobodyness."])
def test_names_and_parts_of_words_are_no_words(text: str) -> None:
    assert faults(text) == []


def test_a_long_sentence_is_found_where_it_begins() -> None:
    long = " ".join(["word"] * (MAX_WORDS + 1))
    page = f"First.\n\n- item\n- Second. {long.capitalize()}. Third."
    assert [*findings(Text("page.md", 1, page))] == [
        'page.md:4: "Word word word word word ..." has 41 words: make several sentences or a list'
    ]


def test_sentences_end_at_items_and_paragraphs_and_tables_have_none() -> None:
    half = " ".join(["word"] * (MAX_WORDS // 2 + 1))
    assert faults(f"{half}\n- {half}\n\n{half}\n1. {half}\n") == []
    assert faults(f"| {half} {half} |") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("One; two; three.", '"One; two; three. ..." is a chain of semicolons: make several sentences or a list'),
        ("Of two keys one counts.", '"Of two keys one counts. ...": begin with the subject'),
    ],
)
def test_inverted_and_chained_sentences_are_found(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_comments_and_docstrings_of_a_module_are_prose() -> None:
    found = [*texts("docs/prose.py")]
    assert ("docs/prose.py", 1) in {(text.file, text.line) for text in found}
    assert "Print what is wrong" in "".join(text.text for text in found)


def test_blocks_of_code_are_no_prose() -> None:
    page = Page("README.md")
    assert "make run     #" in page.text
    assert "make run     #" not in page.prose
    assert page.prose.count("\n") == page.text.count("\n")
