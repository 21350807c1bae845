"""Examples in docstrings begin with `>>>`, which Markdown takes for quotations: here, for code."""

import re

import griffe


class Examples(griffe.Extension):
    """Put a fence around each example."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            lines = obj.docstring.value.splitlines()
            obj.docstring.value = "\n".join(_fenced(lines))


def _fenced(lines):
    inside = False
    for line in lines:
        if not inside and line.startswith(">>>"):
            inside = True
            yield "\n```pycon"
        elif inside and not re.match(r"\S", line):
            inside = False
            yield "```"
        yield line
    if inside:
        yield "```"
