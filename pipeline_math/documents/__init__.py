"""One Markdown document per step, rendered from a template and numbers that a program computed."""
