"""What the site has beside docs/*.md, as hooks of mkdocs.

The README is its first page, the notebook a page; every package has a page of its docstrings; and every file of the
repository that some page links to is shown, so that the site needs no other address.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
"""A relative link: path and fragment."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml", ".md": "markdown", ".sh": "bash"}
PLAIN = ("LICENSE", "NOTICE", "Makefile")
PICTURES = (".png", ".jpg")
NOTEBOOK = "quickstart.ipynb"
ROOMS = ("distill", "teacher")
"""Packages that are described, with all that is in them but the command line."""
COMMANDS = ("teacher.cli", "teacher.commands")


def on_config(config: Any) -> Any:
    """A page for each package at the end of the section that has every setting."""
    (reference,) = (section["Reference"] for section in config.nav if "Reference" in section)
    reference += [{name: api_page(name)} for name in packages()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    made = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    if (ROOT / "docs" / NOTEBOOK).is_file():
        made["quickstart.md"] = notebook_page(json.loads((ROOT / "docs" / NOTEBOOK).read_text(encoding="utf-8")))
    for name, modules in packages().items():
        made[api_page(name)] = api_text(name, modules)
    pages = {file.src_uri: Path(str(file.abs_src_path)) for file in files.documentation_pages()}
    texts = [(uri, path.read_text(encoding="utf-8")) for uri, path in pages.items()]
    for source in sorted(
        {path for uri, text in [*texts, *made.items()] if not uri.startswith("api/") for path in sources_in(text, uri)}
    ):
        made[source_page(source)] = source_text(source)
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    for picture in sorted({path for uri, text in texts for path in linked(text, uri) if Path(path).suffix in PICTURES}):
        files.append(File.generated(config, f"source/{picture}", abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ into links to the pages made for them; what is no text file loses its link."""

    def turned(match: re.Match[str]) -> str:
        target = repository_path(match[1], page.file.src_uri)
        if target is None:
            return match[0]
        up = "../" * page.file.src_uri.count("/")
        if target.startswith("docs/"):
            return f"]({up}{target.removeprefix('docs/')}{match[2] or ''})"
        if Path(target).suffix in PICTURES:
            return f"]({up}source/{target})"
        return f"]({up}{source_page(target)})" if is_shown(target) else "](#)"

    if page.file.src_uri.startswith(("source/", "api/")):
        return markdown
    return re.sub(r"\[([^\]]*)\]\(#\)", r"\1", LINK.sub(turned, markdown))


def packages() -> dict[str, list[str]]:
    """Package -> its modules, itself first; without what begins with an underscore."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.name == "__init__.py":
            found.setdefault(".".join(parts[:-1]), []).insert(0, ".".join(parts[:-1]))
        elif not path.name.startswith("_"):
            found.setdefault(".".join(parts[:-1]), []).append(".".join(parts))
    kept = {name: [m for m in modules if not m.startswith(COMMANDS)] for name, modules in found.items()}
    return {name: modules for name, modules in sorted(kept.items()) if modules}


def api_page(name: str) -> str:
    """Where a package is described."""
    return f"api/{name}.md"


def api_text(name: str, modules: list[str]) -> str:
    """A page that asks mkdocstrings for every module of a package."""
    return f"# {name}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"


def repository_path(link: str, uri: str) -> str | None:
    """Path in the repository of a link that leaves docs/, or of any link of the README; None for the others."""
    folder = ROOT if uri == "index.md" else (ROOT / "docs" / uri).parent
    target = (folder / link).resolve()
    inside = target.is_relative_to(ROOT / "docs") and uri != "index.md"
    return None if inside or not target.is_relative_to(ROOT) else str(target.relative_to(ROOT))


def linked(text: str, uri: str) -> set[str]:
    """Files of the repository outside docs/ that a page links to."""
    found = {repository_path(match[1], uri) for match in LINK.finditer(text)}
    return {path for path in found if path and not path.startswith("docs/") and (ROOT / path).is_file()}


def sources_in(text: str, uri: str) -> set[str]:
    """Those of which there is a page."""
    return {path for path in linked(text, uri) if is_shown(path)}


def is_shown(path: str) -> bool:
    """Whether there is a page for a file: for text of kinds that are known."""
    return (ROOT / path).is_file() and (Path(path).suffix in LANGUAGES or Path(path).name in PLAIN)


def source_page(path: str) -> str:
    """Where the text of a file is shown."""
    return f"source/{path}.md"


def source_text(path: str) -> str:
    """A page with the text of a file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"# {path}\n\n{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n{fence}\n"


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook with its outputs as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown for output in cell.get("outputs", []) if (shown := output_text(output))]
    return "\n\n".join(parts) + "\n"


def output_text(output: dict[str, Any]) -> str:
    """What a cell printed or drew."""
    if output["output_type"] == "stream":
        return "```text\n" + "".join(output["text"]).rstrip() + "\n```"
    data = output.get("data", {})
    for kind in ("image/jpeg", "image/png"):
        if kind in data:
            return f"![output of the cell](data:{kind};base64,{''.join(data[kind]).replace(chr(10), '')})"
    return "```text\n" + "".join(data["text/plain"]) + "\n```" if "text/plain" in data else ""
