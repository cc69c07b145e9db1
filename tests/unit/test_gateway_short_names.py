"""Variables of a script get short names; names that other scripts may use are kept."""

import pytest
from footfall_gateway.browser.short_names import with_short_names


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("const visit=1;use(visit,visit)", "const a=1;use(a,a)"),
        ("function send(body){return body.send(body)}", "function b(a){return a.send(a)}"),
        ("const key='k';a[key].key={key:1,key,[key]:2}", "const b='k';a[b].key={key:1,key:b,[b]:2}"),
        ("const {site,name:title='x',...rest}=o;f(site,title,rest)", "const{site:a,name:b='x',...c}=o;f(a,b,c)"),
        ("const act=(first,again=window,[one]=[])=>first+again+one", "const d=(a,b=window,[c]=[])=>a+b+c"),
        ("const {size=limit}=o;let limit=2", "const{size:b=a}=o;let a=2"),
        ("try{}catch(error){log(error)}", "try{}catch(a){log(a)}"),
        (
            "const o={go(step){return step},get size(){return 1}};o.go",
            "const a={go(b){return b},get size(){return 1}};a.go",
        ),
        ("let text=`${text} text`", "let a=`${a} text`"),
    ],
)
def test_only_declared_names_are_renamed(source: str, expected: str) -> None:
    assert with_short_names(source).replace("const {", "const{") == expected


def test_no_new_name_is_a_word_of_the_language_or_a_global_that_the_script_uses() -> None:
    names = [f"variable{number}" for number in range(2_700)]
    shortened = with_short_names(f"let {','.join(names)};a(bb)")
    found = shortened.removeprefix("let ").partition(";")[0].split(",")
    assert len(set(found)) == len(names)
    assert {"a", "bb", "as", "do", "if", "in", "is", "of"}.isdisjoint(found)
