"""What the documentation points at is there: files, headings, commands, targets of make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ocr_watcher import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])


def without_code(text: str) -> str:
    """Markdown without its blocks of code, in which brackets and `#` mean something else."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and GitLab turn them into anchors."""
    found = re.findall(r"^#+ (.*)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = without_code(page.read_text("utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, to_look_at = set(), [ROOT / "README.md"]
    while to_look_at:
        page = to_look_at.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#:\s]+\.md)", page.read_text("utf-8"))
        to_look_at += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_target_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    quoted = "\n".join([*blocks, *re.findall(r"`([^`]+)`", without_code(text))])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", quoted)) <= targets
    verbs = set(re.findall(r"^    ([a-z-]+)", cli._parser().format_help(), re.MULTILINE))
    assert set(re.findall(r"(?:^|[\s/])ocr-watcher ([a-z][a-z-]+)", quoted)) <= verbs


def test_the_readmes_have_the_figures_of_the_settings_page() -> None:
    """Rows `| **balanced** … | 1.4 | 0.941 | 288 / 478 |`; whoever measures anew changes all three."""

    def figures(page: str) -> dict[str, list[str]]:
        text = (ROOT / page).read_text("utf-8")
        rows = re.findall(r"^\| \*\*([a-z-]+)\*\*(.*) \|$", text, re.MULTILINE)
        return {name: rest.split(" | ")[-3:] for name, rest in rows}

    measured = figures("docs/configuration.md")
    assert len(measured) == 3
    assert figures("README.md") == measured
    assert figures("README.zh-CN.md") == measured
