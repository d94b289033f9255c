"""Tables of the pages, from bench/results: integers, low bits, lottery tickets, files, teachers, searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def load(name: str) -> dict[str, Any]:
    """One result."""
    return dict(json.loads((ROOT / f"bench/results/{name}.json").read_text()))


def machine(result: dict[str, Any]) -> str:
    """Hardware and versions, in a line."""
    found, parts = result["hardware"], result["versions"]
    return f"{found['cpu']}, {found['cores']} cores, torch {parts['torch']}, ONNX Runtime {parts['onnxruntime']}."


def grid(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A table in Markdown: the first column is text, the others are numbers."""
    return [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}", *(f"| {' | '.join(row)} |" for row in rows)]


def page(*parts: list[str]) -> str:
    """Paragraphs and tables below each other."""
    return "\n".join("\n".join([*part, ""]) for part in parts).rstrip("\n")


def ratio(row: dict[str, Any], whole: dict[str, Any]) -> float:
    """How many times as fast as the whole network."""
    return float(whole["latency_ms"]["median"] / row["latency_ms"]["median"])


def points(rows: dict[str, Any], name: str) -> str:
    """What a row loses against floats."""
    return f"{100 * (rows['float']['accuracy'] - rows[name]['accuracy']):.2f}" if name in rows else ""


def integer() -> str:
    """Points lost by post-training quantization, ours and ONNX Runtime's; milliseconds and bytes."""
    result = load("integer")
    judged = {net: rows for net, rows in result["nets"].items() if "accuracy" in rows["float"]}
    names = list(dict.fromkeys(name for rows in judged.values() for name in rows if name != "float"))
    lost = [(name, *(points(rows, name) for rows in judged.values())) for name in names]
    theirs = "onnxruntime MinMax channel"
    head = (
        "network",
        "float, ms",
        "int8, times as fast",
        "ONNX Runtime's own",
        "int8, share of the bytes",
        "integer, float nodes",
    )
    cost = [
        (f"`{net}`", f"{rows['float']['latency_ms']['median']:.3g}", f"{ratio(rows['int8'], rows['float']):.2f}x",
         f"{ratio(rows[theirs], rows['float']):.2f}x", f"{rows['int8']['bytes'] / rows['float']['bytes']:.1%}",
         f"{sum(rows['int8']['integer_nodes'].values())}, {len(rows['int8']['float_nodes'])}")
        for net, rows in result["nets"].items()
    ]  # fmt: skip
    said = (
        f"Test accuracy of the `.onnx` files against that of the float network, {result['images']} images for calibration "
        f"(1,024 for W4A8); nothing is trained. The ResNets are on CIFAR-10."
    )
    if "mobilenet_v2_32" in judged:
        said += f" The MobileNetV2 is {result['mobilenet_v2_32']}."
    fast = "ONNX Runtime, one thread, batch 1, in turns. " + machine(result)
    return page(grid(("points lost", *(f"`{n}`" for n in judged)), lost), [said], grid(head, cost), [fast])


def integer_training() -> str:
    """What quantization-aware training leaves."""
    result = load("integer_training")
    rows = [
        (r["name"], f"{r['accuracy']:.2f}" + (f" ± {r['spread']:.2f}" if r["spread"] is not None else ""),
         "" if r["behind"] is None else f"{r['behind']:+.2f}", f"{r['epochs']} of {r['images']:,} images", str(len(r["seeds"])))
        for r in result["rows"]
    ]  # fmt: skip
    head = ("ResNet-20, CIFAR-10", "test accuracy, %", "points behind `dense`", "epochs", "seeds")
    return page(grid(head, rows), [machine(result)])


def phone() -> str:
    """Files for phones and for ONNX Runtime: milliseconds, bytes, accuracy and agreement."""
    result = load("phone")
    files, answers = [], []
    for net, found in result["nets"].items():
        for runtime, ending in (("ExecuTorch, XNNPACK", "pte"), ("ONNX Runtime", "onnx")):
            times = [found["latency_ms"][f"{kind} {ending}"]["median"] for kind in ("float", "int8")]
            sizes = [found["files"][f"{kind} {ending}"]["bytes"] for kind in ("float", "int8")]
            files.append((f"`{net}`, {runtime}", *(f"{t:.3f}" for t in times), f"{times[0] / times[1]:.2f}x",
                          *(f"{size:,}" for size in sizes)))  # fmt: skip
        for pair, one in found["agreement"].items():
            answers.append((f"`{net}`: {pair}", f"{one['top1']:.2%}", f"{one['largest']:.4f}"))
    head = ("network, runtime", "float, ms", "int8, ms", "times as fast", "float, bytes", "int8, bytes")
    same = grid(("same class of test images", "agreement", "largest difference, of the largest output"), answers)
    said = f"One thread, batch 1, in turns. ExecuTorch {result['versions']['executorch']}. {machine(result)}"
    return page(grid(head, files), same, [said])


def low_bit() -> str:
    """Quantizers of the literature beside the float network, and Deep Compression's stages."""
    result = load("low_bit")
    head = ("", "W/A, bits", "test accuracy, %", "points behind floats", "bytes", "epochs of images", "seeds")
    parts = [grid((named, *head[1:]), [low_bit_row(r, result[part]) for r in result[part]])
             for part, named in (("weights", "ResNet-20, from float weights"), ("binary", "binary layouts of ResNet-20"))
             if result[part]]  # fmt: skip
    order = ("float", "pruned", "pruned and clustered", "centroids trained")
    stages = [
        (r["name"], f"{r['accuracy']:.2f}", *(f"{r[f'bytes_{coder}']:,}" for coder in ("plain", "huffman", "context")))
        for r in sorted(result["stages"], key=lambda r: order.index(r["name"]))
    ]
    titles = ("Deep Compression, as its recipe is", "test accuracy, %", "bytes", "Huffman", "context coder")
    staged = [grid(titles, stages)] if stages else []
    images = "".join(f" Deep Compression: {r['images']:,} images." for r in result["stages"][:1])
    return page(*parts, *staged, [f"CIFAR-10, the last epoch, on test.{images} {machine(result)}"])


def low_bit_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """A row beside the floats that it began from."""
    floats = {r["name"]: r["accuracy"] for r in rows}
    behind = f"{floats[row['from']] - row['accuracy']:.2f}" if row["from"] in floats else ""
    spread = "" if row["stdev"] is None else f" ± {row['stdev']:.2f}"
    return (row["name"], f"{row['weight_bits']:.3g}/{row['input_bits']:g}", f"{row['accuracy']:.2f}{spread}", behind,
            f"{row['bytes']:,}", f"{row['epochs']} of {row['images']:,}", str(row["seeds"]))  # fmt: skip


def factor() -> str:
    """Every factorization at equal multiply-adds."""
    results = [load(f"factor_{net}") for net in ("resnet20", "resnet56")]
    rows = [
        (f"`{result['net']}`", r["method"], f"{r['effective_macs']:.2f}x", f"{r['params']:.2f}x",
         f"{r['lost']:.2f}{spread(r['spread'])}", f"{r['latency']:.2f}x", f"{r['epochs']} of {r['images']:,}",
         str(len(r["seeds"])))
        for result in results
        for r in sorted(result["rows"], key=lambda r: (-r["epochs"] * r["images"], -r["share"], r["lost"]))
    ]  # fmt: skip
    head = ("network", "method", "multiply-adds", "parameters", "points lost", "latency", "epochs of images", "seeds")
    return page(grid(head, rows), ["CIFAR-10, the last epoch, on test. " + machine(results[0])])


def spread(value: float | None) -> str:
    """A deviation, where there is one."""
    return "" if value is None else f" ± {value:.2f}"


def factor_speed() -> str:
    """Seconds and memory of each form, and tensorly's."""
    result = load("factor_speed")
    rows = [
        (f"`{r['form']}`", f"{r['plan_s'] + r['perform_s']:.2f}", f"{r['times_largest']:.1f}x",
         f"{r['resident_times_largest']:.1f}x")
        for r in result["rows"]
    ]  # fmt: skip
    against = [(r["what"], f"{r['seconds']:.2f}", f"{r['error']:.4f}") for r in result["against"]]
    head = (f"`{result['net']}`, at given ranks", "seconds", "memory, of the largest weight", "resident")
    said = f"{result['threads']} threads. {machine(result)}"
    layer = grid(("one layer, 512x512x3x3", "seconds", "relative error"), against)
    return page(grid(head, rows), layer, [said])


def factor_latency() -> str:
    """Speed at given ranks, foreseen and measured, and latency targets."""
    result = load("factor_latency")
    given = [
        (f"`{net}`", f"`{r['method']}`", f"{r['foreseen_faster']:.2f}x", f"{r['faster']:.2f}x", f"{r['off']:+.0%}")
        for net, parts in result["nets"].items() for r in parts["given"]
    ]  # fmt: skip
    aimed = [
        (f"`{net}`", f"{r['target']:.2f}x", f"{r['ratio']:.3f}x", f"{r['macs']:.2f}x", str(r["factorized"]))
        for net, parts in result["nets"].items() for r in parts["aimed"]
    ]  # fmt: skip
    said = f"Random weights, {result['size']}x{result['size']} pixels, ONNX Runtime, one thread, in turns. {machine(result)}"
    targets = grid(("network", "latency asked for", "measured", "multiply-adds", "layers factorized"), aimed)
    return page(grid(("network", "a quarter of the ranks", "faster, foreseen", "measured", "off"), given), targets, [said])


def lottery() -> str:
    """Winning tickets beside random and reinitialised ones."""
    result = load("sparse")
    by: dict[float, dict[str, dict[str, Any]]] = {}
    for r in result["lottery"]:
        by.setdefault(round(1 - r["zeros"], 3), {})[r["ticket"]] = r
    kinds = ("winning", "random", "reinitialised")
    rows = [
        (f"{left:.0%}", *(f"{found[k]['accuracy']:.2f} ± {found[k]['stdev']:.2f}" if k in found else "" for k in kinds))
        for left, found in sorted(by.items(), reverse=True)
    ]
    first = result["lottery"][0]
    said = (
        f"`{first['model']}` on {first['data']}, {first['images']:,} images, an early epoch and {first['epochs']} more a "
        f"round, {min(r['seeds'] for r in result['lottery'])} seeds, the last epoch, on test. {machine(result)}"
    )
    return page(grid(("weights left", *(f"{k}, %" for k in kinds)), rows), [said])


def codec() -> str:
    """The coder beside its bound, and how fast it is."""
    result = load("codec")
    rows = [(r["name"], f"{r['numbers']:,}", f"{r['bytes']:,}", f"{r['bound']:,}", f"{r['above']:+.2%}")
            for r in (*result["random"], *result["real"])]  # fmt: skip
    fast = [(r["name"], f"{r['encode']:.1f}", f"{r['decode']:.1f}") for r in result["speed"]]
    return page(grid(("numbers", "how many", "bytes", "adaptive order-0 bound", "above it"), rows),
                grid(("million weights a second, one core", "written", "read"), fast), [machine(result)])  # fmt: skip


def compact() -> str:
    """Bytes at equal accuracy beside the standard's coder."""
    result = load("compact")
    rows = []
    for net, found in result["networks"].items():
        for pair in found["compared"]:
            mine, their = pair["lilliput"], pair["nncodec"]
            if mine is not None:
                rows.append((f"`{net}`", f"{their['accuracy']:.2f}", f"{their['bytes']:,}", f"{mine['accuracy']:.2f}",
                             f"{mine['bytes']:,}", f"{pair['fewer']:.0%}"))  # fmt: skip
    floats = ", ".join(f"`{net}` {found['float_accuracy']:.2f} %" for net, found in result["networks"].items())
    said = f"Validation accuracy, no training on either side; in floats {floats}. nncodec {result['versions']['nncodec']}. "
    head = ("network", "nncodec, %", "bytes", "`quant.rate`, %", "bytes", "fewer")
    return page(grid(head, rows), [said + machine(result)])


def smallest() -> str:
    """What training, shared values and plain rounding come to."""
    result = load("smallest")
    trained = []
    for r in result["trained"]:
        lost = [f"{r['float']['test'] - r[part]['test']:+.2f}" if part in r else "" for part in ("trained", "packed")]
        size = f"{r['bytes']:,}" if "bytes" in r else "not reached"
        times = f"{r['float_bytes'] / r['bytes']:.0f}x" if "bytes" in r else ""
        settings = "half of the epochs as it was rounded" if r.get("held") else f"{r['rate']:.0%}, {r['strength']:g}"
        settings += f"; channels first, {r['params']:.0%} of the parameters" if "params" in r else ""
        trained.append((f"`{r['name']}`", settings, f"{r['epochs']} of {r['images']:,}", f"{r['float']['test']:.2f}", *lost,
                        f"{r['wanted_bytes']:,}", size, times))  # fmt: skip
    head = ("network", "zeros, strength", "epochs of images", "float, %", "points lost, trained", "in the file",
            "bytes asked for", "bytes", "smaller")  # fmt: skip
    lines = []
    for r in result["entropy"]:
        least = f"the order-0 entropies of its parts come to {r['order0_bytes']:,}"
        lines.append(f"SqueezeNet 1.0, 256 shared values a layer, a third of its weights: {r['bytes']:,} bytes; {least}.")
    for r in result["speed"]:
        times = f"packed in {r['pack_seconds']:.1f} s and loaded in {r['load_seconds']:.1f} s"
        lines.append(f"VGG-16 in 8 bits ({r['parameters']:,} parameters, {r['bytes']:,} bytes) is {times}.")
    lines.append(f"The last epoch, on test, seed {result['trained'][0]['seed']}. {machine(result)}")
    return page(grid(head, trained), *[[line] for line in lines])


def distill() -> str:
    """What each teacher's loss is worth, soft targets on few images, recovery after compression, and what a teacher costs."""
    result = load("distill")
    parts: list[list[str]] = []
    for student, rows in result["losses"]["students"].items():
        if rows:
            head = (f"{STUDENTS[student]} taught by ResNet-56", "accuracy, %", "points above none", "seeds")
            parts.append(grid(head, [taught(r) for r in rows]))
    parts.append([f"{result['losses']['data']}."])
    if result["little"]["rows"]:
        few = [(r["name"], f"{r['images']:,}", f"{r['accuracy']:.2f}{spread(r['spread'])}", str(len(r["seeds"])))
               for r in result["little"]["rows"]]  # fmt: skip
        back = ", ".join(f"{share:.0%}" for share in result["little"]["recovered"])
        parts.append(grid(("Fashion-MNIST, small ResNet-8", "images", "accuracy, %", "seeds"), few))
        parts.append([f"Soft targets win back {back} of what hard labels lose (one number a seed)."])
    if result["after"]["rows"]:
        again = [(r["name"], f"{r['plain']:.2f}", f"{r['distilled']:.2f}", f"{r['points']:+.2f}", str(len(r["seeds"])))
                 for r in result["after"]["rows"]]  # fmt: skip
        parts.append(grid(("recovery after", "plain, %", "distilled, %", "points", "seeds"), again))
        parts.append([f"{result['after']['data']}."])
    if "overhead" in result:
        times = [(name, f"{one['ratio']:.2f}x") for name, one in result["overhead"]["ways"].items() if "alone" not in name]
        parts.append(grid(("loss", "seconds of an epoch, beside none"), sorted(times, key=lambda row: float(row[1][:-1]))))
        parts.append([f"{result['overhead']['what'][0].upper()}{result['overhead']['what'][1:]}."])
    return page(*parts, [machine(result)])


STUDENTS = {"thin": "ResNet-20 of a quarter of the channels,", "full": "ResNet-20"}


def taught(row: dict[str, Any]) -> tuple[str, ...]:
    """One loss."""
    points = "" if row.get("points") is None or row["name"].endswith(", none") else f"{row['points']:+.2f}"
    name = row["name"].split(", ", 1)[1] + (f" (diverged {row['diverged']}x)" if row["diverged"] else "")
    return (name, f"{row['accuracy']:.2f}{spread(row['spread'])}", points, str(len(row["seeds"])))


def searches() -> str:
    """What searches by hours ended with."""
    result = load("search")["runs"]
    rows = []
    for name, run in result.items():
        lost = 100 * (run["accuracy_before"] - run["accuracy"])
        accuracy, failed = f"{100 * run['accuracy']:.2f}", "; ".join(run["failures"])
        rows.append((f"`{name}`", f"{run['hours']:g}", f"{run['seconds'] / 3600:.1f}", f"{run['bytes']:,}", f"{run['onnx']:,}",
                     f"{run['ratio']:.2f}x", accuracy, f"{lost:+.2f}", failed or "met"))  # fmt: skip
    head = (
        "search",
        "hours asked for",
        "taken",
        "`.lil`, bytes",
        "`.onnx`, bytes",
        "of the time",
        "test accuracy, %",
        "points lost",
        "budget",
    )
    first = next(iter(result.values()))
    said = f"On {first['workers']} processes of one core each. {machine(first)}"
    return page(grid(head, rows), [said])


def alone() -> str:
    """What one recipe of each family reaches in the time of the whole search, for a file as small."""
    whole, result = load("search")["runs"]["resnet56"], load("alone")["runs"]
    chosen = next(point for point in whole["front"] if point["chosen"])
    rows = [("all, searched", f"{whole['bytes']:,}", f"{whole['ratio']:.2f}x", f"{100 * chosen['accuracy']:.2f}",
             f"{100 * whole['accuracy']:.2f}", "", "")]  # fmt: skip
    for name, run in result.items():
        rows.append((f"`{name}` alone", f"{run['bytes']:,}", f"{run['ratio']:.2f}x", f"{100 * run['accuracy']:.2f}",
                     f"{100 * run['test']:.2f}", str(run["epochs"]), f"{run['beats']} of {run['of']}"))  # fmt: skip
    head = ("ResNet-56", "`.lil`, bytes", "of the time", "validation, %", "test, %", "epochs", "points of the front beaten")
    first = next(iter(result.values()))
    return page(grid(head, rows), [f"Epochs that {first['hours']:g} hours hold, 60 at most. {machine(first)}"])


def kills() -> str:
    """A search that is killed again and again."""
    result = load("kills")
    same = all(result["same"].values())
    return page([
        f"A search on the digits was killed {result['kills']} times at random moments and then left alone. It recommended "
        f"{'the same recipe and drew the same front' if same else 'something else'} as one that nobody disturbed, after "
        f"{result['epochs_killed']} epochs that ended in all of its runs together, against {result['epochs_undisturbed']}."
    ])  # fmt: skip


def reports() -> str:
    """How heavy reports are, and how fast they open."""
    result = load("report")
    rows = [(f"`{r['run']}`", f"{r['bytes'] / 1e6:.2f}", f"{r['opens_ms']['median'] / 1000:.2f}", str(r["drawings"]))
            for r in result["reports"]]  # fmt: skip
    head = ("report", "MB", "seconds until all is drawn", "drawings")
    return page(grid(head, rows), [f"{result['browser']}, headless. {machine(result)}"])


def newcomer() -> str:
    """From clone to first report."""
    result = load("newcomer")
    found = result["hardware"]
    return (
        f"From a clone to the first report by `{result['command']}` took {result['seconds']:.0f} s, everything installed in it "
        f"({found['cpu']}, {found['cores']} cores)."
    )
