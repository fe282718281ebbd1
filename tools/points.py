"""A record that grows: the points of a measurement, a way of forgetting and an emoji each.

The record beside the page is the only memory, so that a fresh clone continues where the last one stopped.
It is written whole after every point."""
import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vision_unlearning.core import versions
from vision_unlearning.metrics.speed import processor
from vision_unlearning.store import write_json


@dataclass(frozen=True)
class Asked:
    "Who is asked, where a name says it all."
    label: str


def minutes_asked(doc: str) -> float:
    "How long a call may take, from the command line."
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.)
    return parser.parse_args().minutes


def fill(record: Path, emitters: list[str], ways: list, measure, about: dict, minutes: float) -> list[dict]:
    "Measure what a record lacks until the time is up; its points in the order of emitters and ways."
    end = time.monotonic() + 60*minutes
    points = json.loads(record.read_text(encoding="utf-8"))["points"] if record.exists() else []
    known = {(point["emitter"], point["label"]): point for point in points}
    for emitter in emitters:
        for way in ways:
            if (emitter, way.label) in known: continue
            if time.monotonic() > end: return list(known.values())
            known[emitter, way.label] = measure(way, emitter)
            order = [known[e, w.label] for e in emitters for w in ways if (e, w.label) in known]
            write_json(record, dict(**about, versions=versions(), machine=processor(), points=order))
    return list(known.values())


def put_row(sheet: Path, labels: list[str], label: str, row: np.ndarray):
    "Put (H,W,3) pictures of one of several into its row of a sheet, where those of the others stay."
    if sheet.exists(): rows = np.array(Image.open(sheet).convert("RGB"))
    else: rows = np.full((len(labels)*len(row), *row.shape[1:]), 255, np.uint8)
    if len(rows) != len(labels)*len(row):
        raise ValueError(f"{sheet} has not {len(labels)} rows; delete it and its points, and measure again")
    place = labels.index(label)*len(row)
    rows[place:place + len(row)] = row
    Image.fromarray(rows).save(sheet, lossless=True, method=6)
