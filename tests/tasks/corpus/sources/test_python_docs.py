"""Harvesting documentation without importing anything."""

from pathlib import Path

from tasks.corpus.sources.python_docs import (
    SourceFile,
    harvest_descriptions,
    harvest_files,
    harvest_topics,
    list_files,
    locked_distributions,
    readable_markup,
    share_out,
)

MODULE = '''"""Module text."""
raise SystemExit("imported!")

class Outer(Base, metaclass=M):
    """Class text.

        kept indentation
    End.
    """

    def method(self, a: int, /, *rest: str, key: dict[str, int] = 3, **more) -> None:
        """Method text."""

        def inner():
            """Not reachable by a reader."""

    class Inner:
        """Inner text."""

if True:
    async def conditional(x):
        \'\'\'Conditional text.\'\'\'
else:
    def other(x): "Single-line string."

def silent(x):
    return x
'''


def _source(path: Path, text: str | bytes, module: str = "pkg.mod") -> SourceFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SourceFile(str(path), module, "packages", path.stat().st_size)


def test_every_documented_object_becomes_a_document(tmp_path: Path) -> None:
    harvest = harvest_files([_source(tmp_path / "m.py", MODULE)])
    assert harvest.bad == []
    assert {d.title: (d.kind, d.text) for d in harvest.documents} == {
        "pkg.mod": ("module", "module pkg.mod\n\nModule text."),
        "pkg.mod.Outer": ("class", "class pkg.mod.Outer(Base)\n\nClass text.\n\n    kept indentation\nEnd."),
        "pkg.mod.Outer.method": (
            "function",
            "def pkg.mod.Outer.method(self, a, /, *rest, key=3, **more)\n\nMethod text.",
        ),
        "pkg.mod.Outer.Inner": ("class", "class pkg.mod.Outer.Inner\n\nInner text."),
        "pkg.mod.conditional": ("function", "async def pkg.mod.conditional(x)\n\nConditional text."),
        "pkg.mod.other": ("function", "def pkg.mod.other(x)\n\nSingle-line string."),
    }
    assert all(d.id == f"python_docs:{d.title}" for d in harvest.documents)


def test_unparsable_source_is_reported_and_reading_goes_on(tmp_path: Path) -> None:
    good = _source(tmp_path / "b.py", '"""Good."""')
    for number, text in enumerate(['"""x"""\ndef broken(:', b'"""x"""\n\x00', b'# coding: nonsense\n"""x"""']):
        harvest = harvest_files([_source(tmp_path / f"a{number}.py", text), good])
        assert [d.text for d in harvest.documents] == ["module pkg.mod\n\nGood."]
        assert "cannot be parsed" in harvest.bad[0].reason


def test_only_locked_distributions_and_the_standard_library_are_listed(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("# comment\nPyYAML==6.0  # pinned\nno-such-package==1.0\n")
    assert [d.metadata["Name"] for d in locked_distributions(lock)] == ["PyYAML"]
    modules = {file.module: file for file in list_files(lock, 10**9)}
    assert "yaml" in modules
    assert modules["yaml"].domain == "packages"
    assert modules["argparse"].domain == "stdlib"
    assert "pytest" not in modules
    assert not any(name.startswith(("test.", "site-packages")) or ".tests." in name for name in modules)
    limited = [f for f in list_files(lock, 60_000) if f.domain == "packages"]
    assert 0 < sum(f.bytes for f in limited) <= 60_000


def test_portions_hold_every_file_once() -> None:
    files = [SourceFile(f"{i}", f"m{i}", "d", size) for i, size in enumerate([1, 1_999_999, 1, 5_000_000, 3])]
    portions = share_out(files)
    assert [file for portion in portions for file in portion] == files
    assert [len(portion) for portion in portions] == [2, 1, 1, 1]


def test_topics_and_descriptions_have_text(tmp_path: Path) -> None:
    topics = {d.title: d for d in harvest_topics().documents}
    assert "for" in topics
    assert "sequence" in topics["for"].text
    lock = tmp_path / "requirements.lock"
    lock.write_text("pyyaml==6.0\n")
    [description] = harvest_descriptions(lock).documents
    assert description.id == "python_docs:package:PyYAML"
    assert description.text.startswith("PyYAML: ")


def test_readable_markup_drops_badges_tags_and_link_targets() -> None:
    text = (
        '[![ci](https://x/y.svg)](https://x) <img src="a">See [the docs](https://d/a_(b)) <b>now</b>: 1 < 2 and 3 > 2'
    )
    assert readable_markup(text).strip() == "See the docs now: 1 < 2 and 3 > 2"
