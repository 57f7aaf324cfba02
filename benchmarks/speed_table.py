"""What a run of `benchmarks.speed` says: its tables, the ratios that were aimed at, and a plot, from its speed.json.

Run: python -m benchmarks.speed_table runs/speed/speed.json
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.setting import describe, markdown

LABELS = {
    "ours": "**distmnist**",
    "off": "distmnist, plain PyTorch: `--fast off`",
    "published": "published loop: DataLoader, per-sample transforms",
    "resident": "digits in memory, whole-batch indexing, eager",
    "tuned": "the same under distmnist's machine settings",
    "lightning": "Lightning",
    "accelerate": "Accelerate",
    "keras": "Keras 3 on JAX",
    "jax": "JAX, `lax.scan` over the epoch, one `jit`",
}
ONE, TWO = "ours, 1 process of 1 thread", "ours, 2 processes of 1 thread"
PRECISIONS = {"off": "fp32", "bf16": "bf16"}

Found = dict[str, Any]


class Measured:
    """Medians over the rounds of one run. A case is (net, batch, amp)."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.rows: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
        for row in found["training"]:
            self.rows.setdefault((row["contestant"], row["net"], row["batch"], row["amp"]), []).append(row)
        self.peaks = {
            amp: max(limits[amp] for limits in found["limits"]) for amp in PRECISIONS if amp in found["limits"][0]
        }
        self.auto = "bf16" if found["setting"]["native_bf16"] else "off"

    def median(self, what: str, *key: Any) -> float | None:
        rows = self.rows.get(key)
        return statistics.median(row[what] for row in rows) if rows else None

    def speed(self, *key: Any) -> float | None:
        return self.median("images_per_second", *key)

    def ratio(self, upper: tuple, lower: tuple) -> float | None:
        """The median over the rounds of the ratio within a round."""
        if upper not in self.rows or lower not in self.rows:
            return None
        pairs = zip(self.rows[upper], self.rows[lower], strict=True)
        return statistics.median(above["images_per_second"] / below["images_per_second"] for above, below in pairs)

    def share_of_peak(self, *key: Any) -> float | None:
        """Of the FLOP/s of the best matrix product in the same precision."""
        _, net, _, amp = key
        speed = self.speed(*key)
        peak = self.peaks.get(amp)
        return speed * self.found["flops"][net] / peak if speed and peak else None

    def batches(self, net: str) -> list[int]:
        return sorted({row["batch"] for row in self.found["training"] if row["net"] == net})

    def best_share(self, net: str, amp: str) -> float | None:
        shares = [s for batch in self.batches(net) if (s := self.share_of_peak("ours", net, batch, amp))]
        return max(shares, default=None)

    def against_best_peer(self, net: str, batch: int) -> float | None:
        """Ours, in the precision that --amp auto takes, against the fastest other in any precision."""
        ratios = [
            ratio
            for name, amp in ((n, a) for n in LABELS if n not in ("ours", "off") for a in PRECISIONS)
            if (ratio := self.ratio(("ours", net, batch, self.auto), (name, net, batch, amp)))
        ]
        return min(ratios, default=None)

    def loader_share(self, net: str, batch: int) -> float | None:
        """Seconds of shuffling, gathering and normalising an epoch, of those of training on it."""
        seconds = [row["seconds"] for row in self.found["loader"] if (row["net"], row["batch"]) == (net, batch)]
        epoch = self.median("seconds", "ours", net, batch, self.auto)
        return statistics.median(seconds) / epoch if seconds and epoch else None


def show(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def table(measured: Measured, net: str) -> str:
    batches = measured.batches(net)
    head = [f"{net}, images a second", "amp"]
    for batch in batches:
        head += [f"batch {batch}", "of the GEMM peak", "test accuracy", "digits"]
    rows = []
    for name, label in {**LABELS, ONE: f"distmnist{ONE[4:]}", TWO: f"distmnist{TWO[4:]}"}.items():
        if name in measured.found["absent"]:
            rows.append([label, "not installed: the extra [bench]", *[""] * 4 * len(batches)])
        for amp, precision in PRECISIONS.items():
            if not any((name, net, batch, amp) in measured.rows for batch in batches):
                continue
            row = [label, precision]
            for batch in batches:
                key = (name, net, batch, amp)
                row += [
                    show(measured.speed(*key), ",.0f"),
                    show(measured.share_of_peak(*key), ".1%"),
                    show(measured.median("test_accuracy", *key), ".1%"),
                    show(measured.median("digits", *key), ",.0f"),
                ]
            rows.append(row)
    return markdown(head, rows)


def aims(measured: Measured) -> list[list[str]]:
    """The ratios that were aimed at: [what, must, goal, measured]. Ours in the precision that --amp auto takes here."""
    auto = measured.auto

    def against(net: str, peer: str) -> str:
        return show(measured.ratio(("ours", net, 64, auto), (peer, net, 64, "off")), ".2f")

    def off(net: str) -> str:
        return show(measured.ratio(("off", net, 64, auto), ("tuned", net, 64, auto)), ".2f")

    def processes(batch: int) -> str:
        return show(measured.ratio((TWO, "cnn", batch, auto), (ONE, "cnn", batch, auto)), ".2f")

    bf16 = show(measured.ratio(("ours", "cnn", 64, "bf16"), ("ours", "cnn", 64, "off")), ".2f")
    shares = {amp: show(measured.best_share("cnn", amp), ".1%") for amp in PRECISIONS}
    rows = [
        ["cnn, batch 64, against the published loop", "3", "4", against("cnn", "published")],
        ["cnn, batch 64, against the best other peer", "2.2", "3", show(measured.against_best_peer("cnn", 64), ".2f")],
        ["cnn, batch 64, bf16 / fp32", "1.4", "1.7", bf16],
        [
            "cnn, best batch, share of the bf16 GEMM peak",
            "40 %",
            "55 %",
            show(measured.best_share("cnn", "bf16"), ".1%"),
        ],
        ["cnn, best batch, share of the fp32 GEMM peak", "", "", shares["off"]],
        ["mlp, batch 64, against the published loop", "10", "24", against("mlp", "published")],
        *(
            [f"{net}, batch 64, `--fast off` against eager under the same settings", "1.0", "", off(net)]
            for net in ("mlp", "cnn")
        ),
        ["mlp, batch 64, against JAX `lax.scan`", "", "1", against("mlp", "jax")],
        ["cnn, batch 64, 2 processes / 1, one thread each", "1.45", "1.7", processes(64)],
        ["cnn, batch 512, 2 processes / 1, one thread each", "1.7", "1.9", processes(512)],
        ["shuffle and loader, share of a cnn step of 64", "3 %", "1 %", show(measured.loader_share("cnn", 64), ".2%")],
        ["the whole main job / the published loop's", "1/2.5", "1/4", "`benchmarks.whole_job`"],
    ]
    return [[*row[:3], row[3] or "not measured"] for row in rows]


def report(found: Found) -> str:
    """All of it, as Markdown."""
    measured = Measured(found)
    rounds = max(entry["round"] for entry in found["training"])
    peaks = ", ".join(f"{PRECISIONS[amp]} {peak / 1e9:,.0f}" for amp, peak in measured.peaks.items())
    data = sorted({f"{row['dataset']} ({row['test_digits']:,} test digits)" for row in found["training"]})
    flops = ", ".join(f"{net} {count / 1e6:.2f}" for net, count in found["flops"].items())
    parts = [
        describe(found["setting"]),
        f"Data: {', '.join(data)}. Medians of {rounds} round{'s' if rounds > 1 else ''}."
        f" GFLOP/s of a 2048^3 matrix product, all cores: {peaks}."
        f" MFLOP a training image: {flops}. Where the digits are fewer than 60,000, the epoch is one over the first of"
        " them, and the accuracy is what that little training gives.",
        *(table(measured, net) for net in found["flops"]),
        markdown(["ratio", "must", "goal", "measured"], aims(measured)),
        f"Ours in the precision that `--amp auto` takes here, {PRECISIONS[measured.auto]}; the published loop and"
        " JAX in fp32; the best other peer is the fastest of all others in either precision.",
    ]
    if not found["setting"]["native_bf16"]:
        parts.append("This processor emulates bf16, so its bf16 rows say nothing about one that has it.")
    return "\n\n".join(parts)


def plot(found: Found, path: Path) -> None:
    """Bars of images a second at the smallest batch in fp32, on a logarithmic axis, one panel a net."""
    from matplotlib.figure import Figure  # of the extra [bench], needed here alone

    measured, nets = Measured(found), list(found["flops"])
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        batch = measured.batches(net)[0]
        speeds = {name: speed for name in LABELS if (speed := measured.speed(name, net, batch, "off"))}
        bars = axes.barh(list(speeds)[::-1], list(speeds.values())[::-1])
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set(xscale="log", title=f"{net}, batch {batch}, fp32: training images a second")
        axes.margins(x=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="a speed.json")
    print(report(json.loads(parser.parse_args().found.read_text())))


if __name__ == "__main__":
    main()
