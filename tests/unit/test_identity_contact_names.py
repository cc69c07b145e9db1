"""Words of names as contacts are found by them."""

import pytest
from footfall_identity.contact_names import begin_all, folded_words, name_beginnings, stored_beginning

NAMES = [
    ("Özgür", "Y\u0131ld\u0131z", "ozgur yildiz"),
    ("İPEK", "ŞAHİN", "ipek sahin"),
    ("Jørgen", "Łukasiewicz", "jorgen lukasiewicz"),
    ("Þóra", "Guðmundsdóttir", "thora gudmundsdottir"),
    ("Đorđe", "Weiß", "dorde weiss"),
    ("Jean-Pierre", "d\u2019Angelo", "jean pierre dangelo"),
    ("Zoë", "van  der Berg", "zoe van der berg"),
    ("\uff21\uff4e\uff4e", "Müller (Köln)", "ann muller koln"),
]


@pytest.mark.parametrize(("first", "last", "plain"), NAMES)
def test_a_name_is_found_by_the_beginning_of_each_of_its_words_typed_plainly(first: str, last: str, plain: str) -> None:
    words = folded_words(f"{first} {last}")
    assert words == tuple(plain.split())
    beginnings = name_beginnings(first, last)
    for word in words:
        for length in range(1, len(word) + 1):
            typed = folded_words(word[:length].upper())
            assert begin_all(typed, first, last)
            assert stored_beginning(typed) in beginnings
    assert begin_all(words[::-1], first, last)
    assert not begin_all((*words, "x"), first, last)
    assert not begin_all((words[0] + "x",), first, last)


@pytest.mark.parametrize(("one", "other"), [("हिन्दी", "हन्दी"), ("김민준", "김민서"), ("王", "李")])
def test_names_in_other_scripts_stay_different(one: str, other: str) -> None:
    assert begin_all(folded_words(one), one, "")
    assert not begin_all(folded_words(one), other, "")


@pytest.mark.parametrize("text", ["", " ", "'", "?!", "\u0301"])
def test_a_text_without_letters_and_digits_has_no_words(text: str) -> None:
    assert folded_words(text) == ()
