"""Pages of the site that are made from other files: start page, changelog, API, benchmarks.

`mkdocs build --strict` runs this, see mkdocs.yml.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
COPIES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
# From links between files of the repository to links between pages of the site.
LINKS = (
    (r"\((?:\.\./)?docs/", "("),
    (r"\(\.\./benchmarks/results/?\)", "(benchmarks/index.md)"),
    (r"\(\.\./benchmarks/results/", "(benchmarks/"),
    (r"\((?:\.\./)?(CONTRIBUTING|CHANGELOG)\.md", lambda found: f"({found[1].lower()}.md"),
)


def on_config(config):
    """List the pages of the API in the navigation."""
    for item in config.nav:
        if isinstance(item, dict) and "API" in item:
            item["API"] = list(_api_pages())
    return config


def on_files(files, config):
    """Add the pages that no file of this folder holds."""
    texts = {page: (ROOT / source).read_text() for page, source in COPIES.items()}
    for uri, text in {**texts, **_api_pages(), "benchmarks/index.md": _benchmarks()}.items():
        files.append(File.generated(config, uri, content=text))
    for path in sorted([*RESULTS.rglob("*.md"), *RESULTS.rglob("*.png")]):
        uri = f"benchmarks/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """Links of the repository, as links of the site."""
    if page.file.src_uri.startswith(("api/", "benchmarks/")):
        return markdown
    for pattern, replacement in LINKS:
        markdown = re.sub(pattern, replacement, markdown)
    return markdown


def _api_pages():
    """A page for each public module, and one for the names of the package itself."""
    modules: dict[str, list[str]] = {}
    for line in (ROOT / "docs/api.txt").read_text().splitlines():
        _, *names = re.split(r"[(]", line)[0].split(".")
        module = names[0] if len(names) > 1 and names[0].islower() else ""
        item = names[1] if module else names[0]
        if item not in modules.setdefault(module, []):
            modules[module].append(item)
    pages, rows = {"api/index.md": ""}, []
    for module, items in sorted(modules.items()):
        path = f"keras_fsa.{module}" if module else "keras_fsa"
        entries = "\n\n".join(f"::: {path}.{item}" for item in items)
        uri = f"api/{module or 'keras_fsa'}.md"
        pages[uri] = f"# {path}\n\n{entries}\n"
        rows.append(f"- [{path}]({module or 'keras_fsa'}.md): {', '.join(items)}")
    pages["api/index.md"] = "# API\n\n" + "\n".join(rows) + "\n"
    return pages


def _benchmarks():
    """An index of the tables that the benchmarks left."""
    rows = []
    for path in sorted(RESULTS.rglob("*.md")):
        uri = path.relative_to(RESULTS).as_posix()
        rows.append(f"- [{uri.removesuffix('.md')}]({uri})")
    return "# Benchmarks\n\nTables and their commands, as they were written.\n\n" + "\n".join(rows)
