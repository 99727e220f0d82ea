"""The whole path on a generated shop: events, Beam, training, evaluation, SavedModel, REST. No network needed.

The shop has 480 items and a few thousand customers. What a customer looks at next follows from what they looked at
before (a tent, then the sleeping bag of the same brand), so that a sequential model has something to learn that
popularity cannot know. Some lines of the event log are broken on purpose.

Each step is one of the commands that you would give yourself; they are shown as they run.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import pathlib
import random
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from seqrec_tf.config import check_at_least
from seqrec_tf.messages import next_command

# What is bought in which order, by category.
_TRAILS = {
    category: tuple(products.split(", "))
    for category, products in {
        "camping": "tent, sleeping bag, sleeping mat, camp stove, gas cartridge, cook set, head torch, water filter",
        "coffee": "hand grinder, kettle, dripper, paper filters, coffee scale, coffee beans, carafe, cup",
        "cycling": "city bike, helmet, lock, front light, rear light, pump, repair kit, rain cape",
        "photography": "camera body, lens, memory card, spare battery, tripod, camera bag, filter set, photo book",
        "gardening": "raised bed, soil, seed box, watering can, trowel, gloves, plant labels, pruning shears",
        "running": "running shoes, socks, shorts, shirt, wind jacket, belt, watch, foam roller",
        "baking": "stand mixer, mixing bowl, kitchen scale, baking tin, proofing basket, dough scraper, apron, flour",
        "music": "guitar, strings, tuner, capo, strap, guitar case, amplifier, song book",
        "office": "desk, chair, monitor arm, keyboard, mouse, desk lamp, notebook, fountain pen",
        "nursery": "crib, mattress, changing pad, baby monitor, carrier, pram, high chair, picture book",
        "fishing": "rod, reel, line, hooks, lures, tackle box, landing net, waders",
        "painting": "easel, canvas, acrylic set, brush set, palette, varnish, sketchbook, frame",
    }.items()
}
_BRANDS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm")

_NUM_CUSTOMERS = 4000
_FOLLOW_RATE, _STAY_RATE = 0.6, 0.3  # of moving on along the trail, and of looking around in its category
_BROKEN = (
    "c17,alder-tent",
    "c23,birch-lens,last tuesday,view",
    "c42,,2026-03-05T10:00:00Z,view",
    ",cedar-rod,2026-03-05T10:00:00Z,view",
    "c99,elm-desk,2026-03-05T10:00:00Z,view,extra,columns",
    'c7,"elm-chair,2026-03-05T10:00:00Z,view',
)
_BROKEN_ENCODING = b"c11,\xff\xfe-tent,2026-03-05T10:00:00Z,view\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--output", default="demo", metavar="DIR", help="folder for everything it makes (default: demo)"
    )
    parser.add_argument("--customers", type=int, default=_NUM_CUSTOMERS, help=f"default: {_NUM_CUSTOMERS}")
    parser.add_argument("--epochs", type=int, default=10, help="of training, at most (default: 10)")


def check(args: argparse.Namespace) -> None:
    """Raise an error for what is wrong with the arguments."""
    if pathlib.Path(args.output).exists():
        raise FileExistsError(f"{args.output} exists. Remove it, or choose another --output.")
    check_at_least("--customers", args.customers, 100)  # of fewer, the broken lines are too large a share
    check_at_least("--epochs", args.epochs, 1)


def run(args: argparse.Namespace) -> None:
    """Run every step."""
    output = pathlib.Path(args.output)
    started = time.monotonic()
    raw = output / "raw"
    num_events = generate_shop(raw, num_customers=args.customers, seed=0)
    _say(f"A shop in {raw}: {num_events:,} events of {args.customers:,} customers, {len(_items())} items.")

    port = _free_port()
    url = f"http://localhost:{port}"
    lines = _commands(output, raw, epochs=args.epochs, url=url, port=port)
    server = None
    try:
        for title, words in lines.items():
            _say(f"\n== {title}\n$ seqrec {shlex.join(words)}")
            process = subprocess.Popen([sys.executable, "-m", "seqrec_tf.cli", *words])
            if words[0] == "serve":
                server = process
                _wait_until_served(f"{url}/v1/models/shop", server)
            elif process.wait():
                raise RuntimeError(f"`seqrec {words[0]}` failed with exit status {process.returncode}.")
    finally:
        if server is not None:
            server.terminate()
            server.wait()

    _say(
        f"\nDone in {time.monotonic() - started:.0f} s. Everything is in {output}. Each step by hand; those that write"
    )
    _say("a folder want a new name for it:")
    for words in lines.values():
        _say(f"  seqrec {shlex.join(words)}")
    sys.stdout.write(next_command("serve", "--models", output / "models"))


def _commands(output: pathlib.Path, raw: pathlib.Path, *, epochs: int, url: str, port: int) -> dict[str, list[str]]:
    """What each step is called, to the words that follow upon `seqrec`."""
    dataset, run_folder, models = output / "dataset", output / "runs" / "sasrec", output / "models"
    history = ["birch-tent", "birch-sleeping-bag", "birch-sleeping-mat"]
    commands = {
        "Events to sequences, with Beam": [
            *("prepare", "--input", raw / "events.csv", "--output", dataset, "--min-item-events", 5),
            *("--user-column", "customer", "--item-column", "item", "--time-column", "time"),
            *("--items", raw / "items.csv", "--item-id-column", "item"),
        ],
        "Train SASRec": [
            *("train", "--dataset", dataset, "--model", "sasrec", "--output", run_folder),
            *("--set", f"train.epochs={epochs}", "train.learning_rate=0.005"),
            *("model.max_len=30", "model.dim=48", "model.loss=softmax"),
        ],
        "Compare with popularity": ["evaluate", "--run", run_folder],
        "Export for TF Serving": ["export", "--run", run_folder, "--output", models / "shop"],
        "Serve over REST": ["serve", "--models", models, "--port", port],
        "Ask for recommendations": [
            *("recommend", "--url", url, "--model", "shop", "--history", ",".join(history)),
            *("--k", 5, "--dataset", dataset),
        ],
    }
    return {title: [str(word) for word in words] for title, words in commands.items()}


def generate_shop(folder: pathlib.Path, *, num_customers: int, seed: int) -> int:
    """Write `events.csv` (with broken lines) and `items.csv`.

    Args:
        folder: Where to; it is created.
        num_customers: Customers.
        seed: The same shop for the same seed.

    Returns:
        Events written, broken ones not counted.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    items = _items()
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["item", "title", "category", "price"])
        for item, (category, brand, product) in items.items():
            writer.writerow([item, f"{brand} {product}", category, f"{rng.uniform(4, 400):.2f}"])

    popularity = [1 / (1 + rank) for rank in range(len(items))]
    names = rng.sample(list(items), len(items))
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
    lines = []
    for customer in range(num_customers):
        seconds = start + rng.uniform(0, 80 * 86400)
        item = rng.choices(names, popularity)[0]
        for event in range(rng.choice((4, 6, 8, 10, 14, 20, 30))):
            is_new_session = event % 7 == 6
            seconds += rng.uniform(3600, 5 * 86400) if is_new_session else rng.uniform(5, 600)
            moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
            action = "buy" if rng.random() < 0.15 else "view"
            lines.append((seconds, f"c{customer},{item},{moment:%Y-%m-%dT%H:%M:%SZ},{action}"))
            item = _next_item(rng, item, items, names, popularity, is_new_session)
    lines.sort(key=lambda line: line[0])
    texts = [text for _, text in lines]
    for broken in _BROKEN:
        texts.insert(rng.randrange(len(texts)), broken)
    with (folder / "events.csv").open("wb") as stream:
        stream.write(b"customer,item,time,action\n")
        stream.writelines(f"{text}\n".encode() for text in texts)
        stream.write(_BROKEN_ENCODING)
    return len(lines)


def _items() -> dict[str, tuple[str, str, str]]:
    """Item id to (category, brand, product)."""
    return {
        f"{brand}-{product}".lower().replace(" ", "-"): (category, brand, product)
        for category, products in _TRAILS.items()
        for product in products
        for brand in _BRANDS
    }


def _next_item(rng, item, items, names, popularity, is_new_session) -> str:
    category, brand, product = items[item]
    draw = rng.random() + (0.3 if is_new_session else 0.0)
    if draw < _FOLLOW_RATE:
        trail = _TRAILS[category]
        following = trail[(trail.index(product) + 1) % len(trail)]
        wanted = (category, brand if rng.random() < 0.8 else rng.choice(_BRANDS), following)
    elif draw < _FOLLOW_RATE + _STAY_RATE:
        wanted = (category, rng.choice(_BRANDS), rng.choice(_TRAILS[category]))
    else:
        return rng.choices(names, popularity)[0]
    return next(name for name, described in items.items() if described == wanted)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _wait_until_served(url: str, server: subprocess.Popen, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE":
                    return
        except OSError:  # it listens before it has loaded, and answers after that
            pass
        time.sleep(0.2)
    if server.poll() is not None:
        raise RuntimeError(f"The server ended with status {server.returncode}; what it said stands above.")
    raise RuntimeError(f"The server did not answer at {url} within {timeout_s:.0f} s.")
