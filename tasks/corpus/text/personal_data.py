"""Personal data in text, replaced by placeholders: <EMAIL>, <IP>, <PHONE>, <KEY>.

Covered      e-mail addresses in ASCII; public IPv4 and IPv6 addresses; phone numbers in international form (+NN ...)
             and as (NNN) NNN-NNNN; keys whose issuer gave them a recognisable form (private key blocks, AWS, GitHub,
             GitLab, Google, Hugging Face, OpenAI-like, Slack, Stripe, JSON Web Tokens), documentation's samples too
Not covered  names, postal addresses, identity and card numbers; e-mail spelt out ("name at host"); local phone
             numbers; passwords and keys without a form of their own; private key blocks whose end is missing
Left alone   addresses at domains that RFC 2606 reserves for examples, and git@host, which names no person; IP addresses
             that are not global (private, loopback, link-local, documentation). Dotted numbers with every part below
             `SMALL_PART`, or behind the word version or release, are taken for versions and section numbers: one public
             address in 4,096 is missed by that

The result is a fixed point: replacing twice equals replacing once. Every pattern is linear in the length of the text.
"""

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

KINDS = ("key", "email", "ip", "phone")
"""In the order of replacement: a key block may hold an address, never the other way round."""
SMALL_PART = 32
"""Version and section numbers rarely have a part as large as this; of all addresses 1 in 8^4 has four smaller ones."""
_MAX_LOCAL_PART = 64  # RFC 5321
_MAX_BLOCK = 20_000  # characters of a private key block; the longest in use (RSA 16384) has about 13,000
_COMBINES_WITH_GREATER_THAN = "\u0338"  # ">" and this compose to one character, which would undo a placeholder

Accept = Callable[[re.Match[str]], bool]


def replace_personal_data(text: str, kinds: Collection[str]) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and how many of each kind were put in (kinds without any are absent)."""
    counts: dict[str, int] = {}
    while True:
        found = 0
        for kind in KINDS:
            if kind in kinds:
                text, replaced = _REPLACERS[kind](text)
                if replaced:
                    counts[kind] = counts.get(kind, 0) + replaced
                    found += replaced
        # A replacement may uncover a neighbour. This ends: no placeholder is ever matched again.
        if not found:
            return text, counts


def _substitute(pattern: re.Pattern[str], text: str, placeholder: str, accept: Accept) -> tuple[str, int]:
    replaced = 0

    def choose(match: re.Match[str]) -> str:
        nonlocal replaced
        if not accept(match) or text[match.end() : match.end() + 1] == _COMBINES_WITH_GREATER_THAN:
            return match[0]
        replaced += 1
        return placeholder

    return pattern.sub(choose, text), replaced


# --- e-mail ---------------------------------------------------------------------------------------------------------
# Starts with the literal "@" for speed; the local part is looked up backwards. All repetitions are bounded.
_AT_DOMAIN = re.compile(r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,24}))(?![\w-])")
_LOCAL_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-")
_RESERVED_DOMAINS = ("example.com", "example.net", "example.org")
_NO_TOP_LEVEL_DOMAINS = frozenset(
    (
        "example",
        "test",
        "invalid",
        "localhost",
        "local",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "bmp",
        "ico",
        "css",
    )
) | {"html", "js", "json", "jsx", "ts", "tsx", "txt"}
"""Reserved names, and file endings that stand in names such as icon@2x.png."""


def _emails(text: str) -> tuple[str, int]:
    if "@" not in text:
        return text, 0
    parts: list[str] = []
    end = 0
    for match in _AT_DOMAIN.finditer(text):
        start = _local_part_start(text, match.start(), end)
        if start is None or not _is_personal(text[start : match.start()], match[1].lower(), match[2].lower()):
            continue
        if text[match.end() : match.end() + 1] == _COMBINES_WITH_GREATER_THAN:
            continue
        parts += [text[end:start], "<EMAIL>"]
        end = match.end()
    if not parts:
        return text, 0
    return "".join([*parts, text[end:]]), len(parts) // 2


def _local_part_start(text: str, at: int, lowest: int) -> int | None:
    start = at
    while start > lowest and text[start - 1] in _LOCAL_PART:
        start -= 1
        if at - start > _MAX_LOCAL_PART:
            return None
    while start < at and text[start] in ".-+%":
        start += 1
    return start if start < at else None


def _is_personal(local: str, domain: str, top_level: str) -> bool:
    if top_level in _NO_TOP_LEVEL_DOMAINS or local == "git":
        return False
    return not any(domain == reserved or domain.endswith("." + reserved) for reserved in _RESERVED_DOMAINS)


# --- IP addresses ---------------------------------------------------------------------------------------------------
_IPV4 = re.compile(r"[0-9][0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?!\w|\.[0-9]|-[A-Za-z])")
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:])")  # 2000::/3 is all of the global unicast space
_BEFORE_VERSION = re.compile(r"""(?:version|release|\bv|\bver)\.?[\s:='"]{0,8}\Z""", re.IGNORECASE)
_DIGIT_CLASS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))


def _ip_addresses(text: str) -> tuple[str, int]:
    digits = text.encode("utf-8", "surrogatepass").translate(_DIGIT_CLASS)
    replaced = 0
    if b"0.0" in digits:
        text, replaced = _substitute(_IPV4, text, "<IP>", _is_public_ipv4)
    if b":" in digits and (b"::" in digits or digits.count(b":") >= 7):
        text, more = _substitute(_IPV6, text, "<IP>", _is_public_ipv6)
        replaced += more
    return text, replaced


def _is_public_ipv4(match: re.Match[str]) -> bool:
    text, start = match.string, match.start()
    before = text[max(0, start - 20) : start]
    if before and (before[-1] in "._" or before[-1].isalnum()):
        return False
    if before[-1:] == "-" and before[-2:-1].isalpha():  # library-1.2.3.40
        return False
    if not SMALL_PART <= max(map(int, match[0].split("."))) < 256 or _BEFORE_VERSION.search(before):
        return False
    return _is_global(match[0])


def _is_public_ipv6(match: re.Match[str]) -> bool:
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    return not (before and (before in ":._" or before.isalnum())) and _is_global(match[0])


def _is_global(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast


# --- phone numbers --------------------------------------------------------------------------------------------------
_INTERNATIONAL = re.compile(r"\+[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,4}\))?(?:[ .-]?[0-9]{2,5}){2,5}(?![\w+]|[.,-][0-9])")
_NORTH_AMERICAN = re.compile(r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}-[0-9]{4}(?![\w-])")
_DATE = re.compile(r"\+[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")


def _phones(text: str) -> tuple[str, int]:
    replaced = 0
    for literal, pattern in (("+", _INTERNATIONAL), ("(", _NORTH_AMERICAN)):
        if literal in text:
            text, more = _substitute(pattern, text, "<PHONE>", _is_phone)
            replaced += more
    return text, replaced


def _is_phone(match: re.Match[str]) -> bool:
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    if before and (before in "+-=/*_.)" or before.isalnum()):
        return False
    digits = sum(character.isdigit() for character in match[0])
    least = 9 if len(match[0]) > digits + 1 else 11  # a signed number such as +2147483647 has no separators either
    return least <= digits <= 15 and not _DATE.match(match[0])  # E.164 allows 15


# --- keys -----------------------------------------------------------------------------------------------------------
class _Key(NamedTuple):
    literals: tuple[str, ...]
    """One of these must occur; looking for them is far cheaper than the pattern."""
    pattern: re.Pattern[str]
    min_digits: int = 0
    """Fewer digits make it a word, such as a class name."""

    def accepts(self, match: re.Match[str]) -> bool:
        return sum(map(str.isdigit, match[0])) >= self.min_digits


def _key(literals: tuple[str, ...], form: str, min_digits: int = 0) -> _Key:
    return _Key(literals, re.compile(rf"(?<![A-Za-z0-9_-]){form}(?![A-Za-z0-9_-])"), min_digits)


# Possessive repetitions (`++`): no backtracking, so that a long run of such characters is read once.
_KEYS = (
    _key(("AKIA", "ASIA"), r"A[KS]IA[A-Z0-9]{16}"),
    _key(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}+", 1),
    _key(("github_pat_",), r"github_pat_[A-Za-z0-9_]{22,255}+", 1),
    _key(("glpat-",), r"glpat-[A-Za-z0-9_-]{20,255}+"),
    _key(("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,255}+", 4),
    _key(("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    _key(("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+"),
    _key(("sk-",), r"sk-[A-Za-z0-9_-]{20,255}+", 4),
    _key(("k_live_",), r"[rs]k_live_[A-Za-z0-9]{16,255}+", 1),
    _key(("hf_",), r"hf_[A-Za-z0-9]{30,64}+"),
)
_BLOCK_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,30})PRIVATE KEY( BLOCK)?-----")


def _keys(text: str) -> tuple[str, int]:
    replaced = 0
    if "-----BEGIN " in text:
        text, replaced = _key_blocks(text)
    for key in _KEYS:
        if any(literal in text for literal in key.literals):
            text, more = _substitute(key.pattern, text, "<KEY>", key.accepts)
            replaced += more
    return text, replaced


def _key_blocks(text: str) -> tuple[str, int]:
    parts: list[str] = []
    end = 0
    for match in _BLOCK_BEGIN.finditer(text):
        if match.start() < end:
            continue
        closing = f"-----END {match[1]}PRIVATE KEY{match[2] or ''}-----"
        stop = text.find(closing, match.end(), match.end() + _MAX_BLOCK)
        if stop < 0:
            continue
        stop += len(closing)
        if text[stop : stop + 1] != _COMBINES_WITH_GREATER_THAN:
            parts += [text[end : match.start()], "<KEY>"]
            end = stop
    return "".join([*parts, text[end:]]), len(parts) // 2


_REPLACERS: dict[str, Callable[[str], tuple[str, int]]] = {
    "email": _emails,
    "ip": _ip_addresses,
    "phone": _phones,
    "key": _keys,
}
