"""Forms in which texts are compared, so that layout and capital letters do not hide a match."""


def normal(text: str) -> str:
    """Lower case with single spaces."""
    return " ".join(text.lower().split())


def normal_expression(expression: str) -> str:
    """An expression without spaces and parentheses: (12 + 3) * 4 and 12+3*4 count as the same."""
    return "".join(character for character in expression if character not in " ()")
