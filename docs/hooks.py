"""What happens to pages while the site is built: links lead where they do on GitHub, and formulas become MathML."""

import html
import re

from latex2mathml.converter import convert

# GitHub follows no symbolic links, so pages name the files themselves. In docs/, they are these links' targets.
LINKED = {
    "benchmarks/results/": "results/",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "REPRODUCTION.md": "reproduction-tables.md",
    "SECURITY.md": "security.md",
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with links to files outside docs/ as links to the pages that show them."""
    for path, page in LINKED.items():
        markdown = re.sub(rf"\]\((?:((?:\.\./)*)\.\./)?{re.escape(path)}", rf"](\g<1>{page}", markdown)
    return markdown


def on_page_content(content: str, **_: object) -> str:
    """The page with what the `arithmatex` extension marked as a formula, `\\(...\\)`, as MathML, without any script."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[1]), display="inline")

    return re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', mathml, content, flags=re.DOTALL)
