"""From a raw document to clean text: HTML, mojibake, normal form, personal data, in this order.

Promise  cleaning twice equals cleaning once; with every option off the text is unchanged; each step counts what it did
Covered  HTML documents: main text by trafilatura (precision, no comments), by tag stripping where it finds none;
         UTF-8 that was decoded as another encoding (ftfy), and pages decoded as Latin-1 though they name their charset
Limits   HTML is recognised by how it begins, so a fragment without <html> or a doctype stays as it is, and so does a
         tutorial that shows one; mojibake is mended line by line; what an encoder replaced by "?" or U+FFFD is lost
"""

import codecs
import logging
import re
from collections import Counter
from functools import lru_cache
from typing import Any, Literal

from tasks._params import StageParams
from tasks.corpus.records import Document
from tasks.corpus.text.normalise import controls, line_ends, unicode_nfc, whitespace
from tasks.corpus.text.personal_data import replace_personal_data

MAX_HTML_CHARACTERS = 5_000_000
"""A larger page is left as it is and counted: parsing takes many times its size in memory."""
HEAD_CHARACTERS = 2_000
"""Where the doctype or <html> must begin."""
MAX_HTML_ELEMENTS = 500_000
"""Of a larger tree all text is taken: the search for the main text can take quadratic time."""
_MAX_ROUNDS = 8  # more than any text needs that was not made to need more

# XML declaration, comments and white space may precede it; anything else, such as front matter, makes it no HTML page.
_HTML_HEAD = re.compile(
    r"[\s\ufeff]*+(?:<\?[^>]{0,300}\?>\s*+|<!--(?:[^-]|-(?!->)){0,1500}-->\s*+){0,5}<(?:!doctype\s+html|html[\s>])",
    re.IGNORECASE,
)
_CHARSET = re.compile(r"""(?:charset|encoding)\s{0,3}=\s{0,3}["']?([A-Za-z0-9_:.-]{3,30})""", re.IGNORECASE)


class TextOptions(StageParams):
    """What is done to the text of a document; each step can be switched off, also per domain."""

    html: Literal["auto", "off"] = "auto"
    """auto: a document that begins like an HTML page becomes its main text."""
    mojibake: bool = True
    """Mend text that was decoded with the wrong encoding."""
    line_ends: bool = True
    """Write every line end as "\\n"."""
    controls: bool = True
    """Remove control and other invisible characters."""
    unicode: bool = True
    """Compose characters (Unicode NFC)."""
    whitespace: bool = True
    """Remove white space at line ends and around the text, and all but one of several blank lines."""
    emails: bool = True
    """Replace e-mail addresses by <EMAIL>, except at domains reserved for examples."""
    ip_addresses: bool = True
    """Replace public IP addresses by <IP>."""
    keys: bool = True
    """Replace private keys and access tokens by <KEY>."""
    phones: bool = False
    """Replace phone numbers by <PHONE>. Off: in technical text a rule loose enough to be useful hits other numbers."""


def clean(document: Document, options: TextOptions, counts: Counter[str]) -> Document:
    """The document with clean text, which may be empty. `counts` gains "<step>.documents" and "<kind>.replacements"."""
    done: Counter[str] = Counter()
    text = document.text
    for _ in range(_MAX_ROUNDS):
        before = text
        if options.html == "auto" and looks_like_html(text):
            text = _html_to_text(_with_named_charset(text, done) if options.mojibake else text, done)
        text = _one_round(text, options, done)
        # A removed character may bring mojibake together or uncover a page, and a page may show the source of a page.
        if text == before or (text.isascii() and not looks_like_html(text)):
            break
    counts.update({name: n if name.endswith(".replacements") else 1 for name, n in done.items() if n})
    return document if text == document.text else document._replace(text=text)


def looks_like_html(text: str) -> bool:
    """Whether the text begins as an HTML document does."""
    return "<" in text[:HEAD_CHARACTERS] and _HTML_HEAD.match(text[:HEAD_CHARACTERS]) is not None


def _one_round(text: str, options: TextOptions, done: Counter[str]) -> str:
    steps = (
        (options.mojibake, "mojibake", mend_mojibake),
        (options.line_ends, "line_ends", line_ends),
        (options.controls, "controls", controls),
        (options.unicode, "unicode", unicode_nfc),
        (options.whitespace, "whitespace", whitespace),
    )
    for wanted, name, step in steps:
        if wanted:
            after = step(text)
            done[f"{name}.documents"] += after != text
            text = after
    switches = {"email": options.emails, "ip": options.ip_addresses, "phone": options.phones, "key": options.keys}
    text, replaced = replace_personal_data(text, [kind for kind, wanted in switches.items() if wanted])
    for kind, number in replaced.items():
        done[f"{kind}.documents"] += 1
        done[f"{kind}.replacements"] += number
    return text


# --- HTML -----------------------------------------------------------------------------------------------------------
def _html_to_text(page: str, done: Counter[str]) -> str:
    if len(page) > MAX_HTML_CHARACTERS:
        done["html.too_large.documents"] += 1
        return page
    done["html.documents"] += 1
    text = _main_text(page, done)
    if not text:
        done["html.fallback.documents"] += 1
        text = _all_text(page)
    if not text:
        done["html.empty.documents"] += 1
    return text


def _main_text(page: str, done: Counter[str]) -> str:
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports every odd page; we count them
    try:
        text = trafilatura.extract(
            page, fast=True, favor_precision=True, include_comments=False, config=_trafilatura_settings()
        )
    except Exception:  # whatever a hostile page provokes inside the parser: counted, and the fallback has its text
        done["html.failed.documents"] += 1
        return ""
    return (text or "").strip()


@lru_cache(maxsize=1)
def _trafilatura_settings() -> Any:
    import copy

    from trafilatura.settings import DEFAULT_CONFIG

    settings = copy.deepcopy(DEFAULT_CONFIG)
    settings["DEFAULT"]["MAX_TREE_SIZE"] = str(MAX_HTML_ELEMENTS)
    return settings


def _all_text(page: str) -> str:
    from lxml import etree, html

    try:
        tree = html.document_fromstring(
            controls(page).encode("utf-8", "replace"), parser=html.HTMLParser(encoding="utf-8", remove_comments=True)
        )
    except etree.LxmlError:  # a page without any element
        return ""
    etree.strip_elements(tree, "script", "style", "template", "noscript", "head", with_tail=False)
    return str(tree.text_content()).strip()


def _with_named_charset(page: str, done: Counter[str]) -> str:
    """A page whose bytes were read as Latin-1 though its head names another charset, decoded again if that is exact."""
    match = _CHARSET.search(page, 0, HEAD_CHARACTERS)
    if match is None or page.isascii():
        return page
    try:
        name = codecs.lookup(match[1]).name
        if name not in _RECODABLE:
            return page
        text = page.encode("latin-1").decode(name)
    except (LookupError, UnicodeError):
        return page
    done["charset.documents"] += 1
    return text


_RECODABLE = frozenset(
    ("euc_kr", "cp949", "euc_jp", "shift_jis", "cp932", "gb2312", "gbk", "gb18030", "big5", "koi8-r", "koi8-u", "utf-8")
)
"""Encodings in which Latin-1 text is almost never valid by chance, and the two in which it has no meaning."""


# --- mojibake -------------------------------------------------------------------------------------------------------
def mend_mojibake(text: str) -> str:
    """Lines that are UTF-8 decoded as something else, as ftfy mends them. All other lines stay as they are."""
    if text.isascii():
        return text
    suspicious = _suspicious_characters()
    if not suspicious.search(text):
        return text
    from ftfy import fix_encoding

    return "\n".join(
        [line if line.isascii() or not suspicious.search(line) else fix_encoding(line) for line in text.split("\n")]
    )


@lru_cache(maxsize=1)
def _suspicious_characters() -> re.Pattern[str]:
    """What text needs for ftfy to change it: a C1 control, or the characters of a UTF-8 sequence in some encoding.

    ftfy's own test reads 6 MB/s; this one reads all but a few lines away. A continuation byte 0xA0 may have become a
    space, which is looked for behind the two most common lead bytes only.
    """
    from ftfy.chardata import CHARMAP_ENCODINGS

    def characters(first: int, last: int) -> str:
        decoded = {
            bytes([byte]).decode(encoding, "ignore") for encoding in CHARMAP_ENCODINGS for byte in range(first, last)
        }
        return re.escape("".join(sorted(decoded)))

    two, three, four = characters(0xC2, 0xE0), characters(0xE0, 0xF0), characters(0xF0, 0xF5)
    rest = characters(0x80, 0xC0)
    return re.compile(
        f"[\x80-\x9f{two}{three}{four}](?:(?<=[\x80-\x9f])|(?<=[{two}])[{rest}]|(?<=[ÃÂ]) "
        f"|(?<=[{three}])[{rest} ][{rest} ]|(?<=[{four}])[{rest} ]{{3}})"
    )
