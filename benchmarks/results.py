"""`python -m benchmarks.results`: docs/results.md, drawn from the files in benchmarks/results.

The prose is in benchmarks/results_page.md; `{{ name }}` in it stands for a section of
`benchmarks.sections`. No figure of a section is typed by hand.
"""

import argparse
import re
from pathlib import Path

from benchmarks.sections import SECTIONS
from keras_fsa.files import whole_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/results.md"
TEMPLATE = ROOT / "benchmarks/results_page.md"


def draw(template: str, folder: Path = RESULTS) -> str:
    """The page: the template with its sections filled in.

    Raises:
        ValueError: for a place without a section of its name.
    """

    def fill(place):
        name = place[1]
        if name not in SECTIONS:
            raise ValueError(
                f"A place in the template must name a section. Received: {name!r}. The sections "
                f"are {', '.join(SECTIONS)}: add a function to benchmarks/sections.py."
            )
        return SECTIONS[name](folder)

    return re.sub(r"\{\{ (\w+) \}\}", fill, template)


def main(arguments=None):
    """Draw the page."""
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(arguments)
    with whole_file(PAGE) as unfinished:
        unfinished.write_text(draw(TEMPLATE.read_text()))
    print(f"Drawn: {PAGE}")


if __name__ == "__main__":
    main()
