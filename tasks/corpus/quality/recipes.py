"""Published sets of thresholds, and our own. What each bound means stands in rules.py.

gopher    arXiv 2112.11446, quality and repetition rules with the values of its tables A1 and A2
c4        JMLR 21 (2020) 140, its rules about documents. Its rules about lines REMOVE lines; nothing is rewritten
          here, instead a document is rejected when more than half of its lines would go. That half is ours. So is it
          that lines without terminal punctuation are not among them (max_unterminated_line_fraction adds them): most
          documentation consists of such lines, and FineWeb found the rule to remove too much as well.
fineweb   arXiv 2406.17557, the three rules of its own, and the share of lines (as shipped in datatrove: of characters)
zero2chat documentation, tutorials and other technical text in any language
"""

RECIPES: dict[str, dict[str, float]] = {
    "gopher": {
        "min_nonsymbol_words": 50,
        "max_nonsymbol_words": 100_000,
        "min_mean_nonsymbol_word_characters": 3,
        "max_mean_nonsymbol_word_characters": 10,
        "max_hashes_per_word": 0.1,
        "max_ellipses_per_word": 0.1,
        "max_bullet_line_fraction": 0.9,
        "max_ellipsis_line_fraction": 0.3,
        "min_alphabetic_word_fraction": 0.8,
        "min_stop_words": 2,
        "max_duplicate_line_fraction": 0.3,
        "max_duplicate_line_character_fraction": 0.2,
        "max_duplicate_paragraph_fraction": 0.3,
        "max_duplicate_paragraph_character_fraction": 0.2,
        "max_top_2gram_character_fraction": 0.20,
        "max_top_3gram_character_fraction": 0.18,
        "max_top_4gram_character_fraction": 0.16,
        "max_duplicate_5gram_character_fraction": 0.15,
        "max_duplicate_6gram_character_fraction": 0.14,
        "max_duplicate_7gram_character_fraction": 0.13,
        "max_duplicate_8gram_character_fraction": 0.12,
        "max_duplicate_9gram_character_fraction": 0.11,
        "max_duplicate_10gram_character_fraction": 0.10,
    },
    "c4": {
        "min_sentences": 5,
        "max_curly_brackets": 0,
        "max_lorem_ipsums": 0,
        "max_javascript_line_fraction": 0.5,
        "max_policy_line_fraction": 0.5,
        "max_few_word_line_fraction": 0.5,
        "max_longest_word_characters": 1000,
    },
    "fineweb": {
        "min_terminal_line_fraction": 0.12,
        "max_short_line_fraction": 0.67,
        "max_duplicate_line_character_fraction": 0.01,
        "max_newlines_per_word": 0.3,
    },
    "zero2chat": {
        "min_characters": 160,
        "max_characters": 2_000_000,
        "min_words": 20,
        "min_mean_word_characters": 3.0,
        "max_mean_word_characters": 14.0,
        "min_alphabetic_word_fraction": 0.6,
        "max_symbol_fraction": 0.2,
        "max_digit_fraction": 0.3,
        "max_duplicate_line_fraction": 0.3,
        "max_duplicate_shingle_fraction": 0.35,
    },
}


def merge(names: tuple[str, ...]) -> dict[str, float]:
    """All bounds of some recipes; where two bound the same statistic from the same side, the stricter one."""
    merged: dict[str, float] = {}
    for name in names:
        for rule, bound in RECIPES[name].items():
            stricter = max if rule.startswith("min_") else min
            merged[rule] = stricter(bound, merged.get(rule, bound))
    return merged
