"""Sentences of the README and the documentation are short, and none has a word of the list in `prose.txt`."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED_OR_DATED = {"changelog", "reproduction-tables"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.stem not in GENERATED_OR_DATED),
]
WORDS = 35
AVOIDED = [line for line in (Path(__file__).parent / "prose.txt").read_text().splitlines() if line[:1] not in ("", "#")]


def sentences(text: str) -> list[str]:
    """Of running text, list items and table cells, without code, generated blocks, formulas and targets of links."""
    text = re.sub(r"<!-- generated: \w+ -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^:::.*\n(    .*\n)*|^#.*$|^\|?[\s|:-]+\|$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|\$[^$\n]+\$", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\s?[(\[][^)\]]*[)\]]", r"\1", text)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    parts = re.split(r"\n\s*\n|(?<=[^|])\|(?=[^|])|(?<=[.!?:;])[*_)\"]*\s+(?=[A-Z`*\"(]|code)", text)
    return [" ".join(part.split()).strip("| ") for part in parts if part.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix("")))
def test_sentences_are_short(page: Path) -> None:
    long = [f"{len(one.split())}: {one}" for one in sentences(page.read_text()) if len(one.split()) > WORDS]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix("")))
def test_words_of_the_list_are_avoided(page: Path) -> None:
    text = " ".join(" ".join(sentences(page.read_text())).split())
    found = [word for word in AVOIDED if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    assert not found


def test_a_long_sentence_is_found() -> None:
    text = "A short one. Word " + "word " * WORDS + "\n\n- " + "item " * WORDS
    assert [len(one.split()) for one in sentences(text)] == [3, WORDS + 1, WORDS]
    assert sentences("Code `a b` and [a link](target).\n\n```sh\nnot this\n```\n") == ["Code code and a link."]
    assert sentences("| a | b c |\n| --- | --- |\n| d. E | f |") == ["a", "b c", "d.", "E", "f"]
    assert AVOIDED
