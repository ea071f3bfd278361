"""What can be said of the page without a browser."""

import re

from tasks.chat.server import PAGE

HTML, SCRIPT, STYLE = ((PAGE / name).read_text() for name in ("index.html", "app.js", "style.css"))


def test_text_can_only_enter_the_page_as_text():
    """Catches a convenience that would let a model's reply run as a script."""
    forbidden = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "DOMParser",
        "srcdoc",
    )
    assert [word for word in forbidden if word in SCRIPT] == []


def test_the_policy_of_the_server_does_not_break_the_page():
    """No inline script, style or handler; nothing from another origin."""
    assert re.findall(r"<script(?![^>]*\bsrc=)", HTML) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", HTML) == []
    assert re.findall(r"(?:https?:)?//[\w.]+\.\w+", HTML + STYLE + re.sub(r"//.*", "", SCRIPT)) == []
    assert ".style." not in SCRIPT


def test_every_element_the_script_asks_for_exists():
    ids = set(re.findall(r'byId\("([\w-]+)"\)', SCRIPT))
    assert len(ids) > 10
    assert ids <= set(re.findall(r'id="([\w-]+)"', HTML))


def test_hidden_elements_are_hidden_whatever_their_class():
    """A rule with `display: flex` beats the hidden attribute: the key field was visible to everybody."""
    assert "[hidden] { display: none !important; }" in STYLE
