from hypothesis import given
from hypothesis import strategies as st

from model.engine.stop_strings import StopStrings


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)
)
def test_pieces_end_where_the_whole_text_would(pieces, stops):
    """Catches a stop string missed across a border, or text let through that belongs to one."""
    scanner, passed = StopStrings(tuple(stops)), ""
    consumed = ""
    for piece in pieces:
        passed += scanner.push(piece)
        consumed += piece
        if scanner.hit:
            break
    if not scanner.hit:
        passed += scanner.flush()
    found = [consumed.find(stop) for stop in stops if stop in consumed]
    assert scanner.hit == bool(found)
    assert passed == (consumed[: min(found)] if found else consumed)
