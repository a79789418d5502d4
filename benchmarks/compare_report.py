"""Tables and plots of what compare.py measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compare_corpus import f1

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Figures:
    """One contestant. `per_image_s`: median over the rounds. `f1` is None where no truth is known."""

    facts: dict[str, Any]
    per_image_s: dict[str, float]
    cpu_s: float
    f1: float | None
    rest_mb: float
    peak_mb: float
    failed: int

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.facts["name"])

    @property
    def median_s(self) -> float:
        """Seconds for the image in the middle."""
        return statistics.median(self.per_image_s.values())

    @property
    def mean_s(self) -> float:
        """Seconds for an image, over all of them."""
        return statistics.fmean(self.per_image_s.values())


def figures(result: dict[str, Any]) -> list[Figures]:
    """What there is to say about everybody who read at least one image."""
    samples = defaultdict(list)
    for sample in result["samples"]:
        samples[sample["contestant"]].append(sample)
    return [
        _figures(facts, samples[facts["name"]])
        for facts in result["contestants"]
        if any("elapsed_s" in sample for sample in samples[facts["name"]])
    ]


def _figures(facts: dict[str, Any], samples: list[dict[str, Any]]) -> Figures:
    done = [sample for sample in samples if "elapsed_s" in sample]
    times = defaultdict(list)
    for sample in done:
        times[sample["image"]].append(sample["elapsed_s"])
    known = [sample for sample in samples if "there" in sample]
    return Figures(
        facts,
        {image: statistics.median(of_image) for image, of_image in times.items()},
        statistics.fmean(sample["cpu_s"] for sample in done),
        f1(*(sum(sample[key] for sample in known) for key in ("hit", "got", "there"))) if known else None,
        statistics.median(sample["rss_mb"] for sample in done),
        max(sample["peak_mb"] for sample in done),
        len(samples) - len(done),
    )


def ratios(own: Figures, other: Figures) -> tuple[float, float] | None:
    """Time of the one by time of the other on the images both read: median of ratios, ratio of sums."""
    both = sorted(own.per_image_s.keys() & other.per_image_s.keys())
    if not both:
        return None
    pairs = [(own.per_image_s[image], other.per_image_s[image]) for image in both]
    return statistics.median(a / b for a, b in pairs), sum(a for a, _ in pairs) / sum(b for _, b in pairs)


# -- tables ------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """Everything in words and tables."""
    everybody = figures(result)
    parts = [_conditions(result), _table(everybody), _against(everybody), _notes(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(result: dict[str, Any]) -> str:
    machine, corpus = result["machine"], result["corpus"]
    return (
        f"{corpus['images']} images ({corpus['name']}; truth known for {corpus['with_truth']}), "
        f"{result['rounds']} rounds{', stopped before the end' if 'stopped' in result else ''}, interleaved, "
        f"{result['started_at']}. {machine['cpus']} cores of {machine['cpu']}, "
        f"{machine['memory_mb'] / 1024:.0f} GB, Linux {machine['kernel']}, Python {machine['python']}. "
        f"Load before {result['load_before']:.1f}, after {result['load_after']:.1f}. "
        "Everybody may use all the cores and takes the number of threads it takes by itself."
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _rows(*head: str) -> list[str]:
    return [_row(*head), f"|{'---|' * len(head)}"]


def _table(everybody: list[Figures]) -> str:
    if not everybody:
        return ""
    rows = _rows(
        "contestant",
        "model",
        "images/s (median)",
        "images/s (mean)",
        "s/image (median)",
        "CPU s/image",
        "F1",
        "first result after, s",
        "RSS at rest, MiB",
        "peak, MiB",
        "failed",
    )
    for one in everybody:
        rows.append(
            _row(
                f"{one.name} ({one.facts['what']})",
                one.facts["model"],
                f"{1 / one.median_s:.3g}",
                f"{1 / one.mean_s:.3g}",
                f"{one.median_s:.3f}",
                f"{one.cpu_s:.2f}",
                "-" if one.f1 is None else f"{one.f1:.3f}",
                f"{min(one.facts['starts_s']):.1f}",
                f"{one.rest_mb:.0f}" if one.rest_mb else "none stays",
                f"{one.peak_mb:.0f}",
                one.failed,
            )
        )
    return "\n".join(rows)


def _against(everybody: list[Figures]) -> str:
    own = [one for one in everybody if one.facts["ours"]]
    if not own or len(everybody) < 2:
        return ""
    rows = _rows("time of … by time of →", *(one.name for one in everybody))
    for one in own:
        cells = []
        for other in everybody:
            pair = None if one is other else ratios(one, other)
            cell = f"{pair[0]:.2f} ({pair[1]:.2f})" if pair else "-"
            same = pair and one.facts["model"] == other.facts["model"]
            cells.append(f"**{cell}**" if same else cell)
        rows.append(_row(one.name, *cells))
    return (
        "Paired by image: median of the ratios, and in brackets the ratio of the sums. Below 1 the row is "
        "the faster one. Bold: the same model.\n\n" + "\n".join(rows)
    )


def _notes(result: dict[str, Any]) -> str:
    notes = []
    for facts in result["contestants"]:
        for key, words in (
            ("skipped", "left out"),
            ("failed", "failed on the first page"),
            ("gone", "gone"),
        ):
            if key in facts:
                reason = facts[key] if key == "skipped" else _code(facts[key])
                notes.append(f"- {facts['name']} {words}: {reason}")
    errors = sorted({(s["contestant"], s["image"], s["error"]) for s in result["samples"] if "error" in s})
    notes += [f"- {name} failed on {image}: {_code(error)}" for name, image, error in errors]
    used = {
        f"{package} {version}"
        for facts in result["contestants"]
        for package, version in facts.get("versions", {}).items()
    }
    if used:
        notes.append(f"- Versions: {', '.join(sorted(used))}")
    return "\n".join(notes)


def _code(text: str) -> str:
    """What a program said, with nothing in it that Markdown would take for its own."""
    return f"`{text.replace('`', chr(39))}`"


# -- plots -------------------------------------------------------------------------------------


def plots(result: dict[str, Any], stem: Path) -> list[str]:
    """Draw STEM-speed.png and STEM-memory.png; their names."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only wanted here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, and only after use()

    everybody = figures(result)[::-1]  # the first one is to be at the top
    if not everybody:
        return []
    names = [one.name for one in everybody]
    colours = ["tab:blue" if one.facts["ours"] else "tab:grey" for one in everybody]
    height = 1.2 + 0.42 * len(everybody)

    figure, axes = plt.subplots(figsize=(9, height))
    speeds = [1 / one.median_s for one in everybody]
    bars = axes.barh(names, speeds, color=colours)
    marks = [
        f"{speed:.3g}" + ("" if one.f1 is None else f"  F1 {one.f1:.3f}")
        for speed, one in zip(speeds, everybody, strict=True)
    ]
    axes.bar_label(bars, marks, padding=3, fontsize=8)
    axes.set(xlabel="images a second (1 / median)", xlim=(0, max(speeds) * 1.25), title="Speed and accuracy")
    figure.tight_layout()
    speed = f"{stem}-speed.png"
    figure.savefig(speed, dpi=100)

    figure, axes = plt.subplots(figsize=(9, height))
    peaks = [one.peak_mb for one in everybody]
    axes.barh(names, peaks, color=colours, alpha=0.4, label="peak")
    bars = axes.barh(names, [one.rest_mb for one in everybody], color=colours, label="at rest")
    marks = [f"{one.rest_mb:.0f} / {one.peak_mb:.0f}" for one in everybody]
    for row, (peak, mark) in enumerate(zip(peaks, marks, strict=True)):
        axes.annotate(mark, (peak, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(xlabel="MiB", xlim=(0, max(peaks) * 1.2), title="Resident memory: at rest (dark) / peak (light)")
    figure.tight_layout()
    memory = f"{stem}-memory.png"
    figure.savefig(memory, dpi=100)
    return [speed, memory]
