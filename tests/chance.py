"""Claims about chance: what a lesson asserts of a trained or drawn outcome, and the chance that decides it.

A claim is an assertion under a comment that begins with `# Claim:`.
`Watch` rewrites a cell so that its assertions are written down instead of raised;
`drawn` changes all that chance decides while cells run, and nothing else.
"""
import ast
import functools
import hashlib
import json
import os
import platform
import re
import tempfile
import weakref
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest

MARK = re.compile(r"^\s*# Claim: (.+)$")
SEEDS_APART = 1_000_003
# Of float32 weights: larger than any difference between two processors, far smaller than anything that was
# learned. Of others in proportion to their precision.
ROUNDING = 1e-6


@dataclass
class Seen:
    "One assertion, as one run found it."
    text: str  # the claim in words; the assertion's source where it is not called a claim
    claim: bool
    holds: bool = True
    # smallest distance from the bound, as a share of the larger side; None: no `<`
    margin: float | None = None
    sides: tuple[float, float] | None = None  # the two numbers of that comparison


@dataclass
class Notes:
    "What one run found, by cell and line."
    found: dict[str, Seen] = field(default_factory=dict)

    def as_rows(self) -> list[dict]:
        return [dict(asdict(seen), where=where) for where, seen in self.found.items()]


def marked(source: str) -> dict[int, str]:
    "{line of an assertion: its claim in words}; the comment may go on over several lines."
    lines, found = source.split("\n"), {}
    for number, line in enumerate(lines):
        if not (mark := MARK.match(line)): continue
        words = [mark[1]]
        rest = number + 1
        while rest < len(lines) and lines[rest].lstrip().startswith("#"):
            words.append(lines[rest].strip(" #"))
            rest += 1
        if rest == len(lines) or not lines[rest].lstrip().startswith(("assert ", "test_eq(", "test_close(")):
            raise ValueError(f"no assertion stands under the claim {words[0]!r}")
        found[rest + 1] = " ".join(words)
    return found


DISTANCE = {ast.Lt: 1, ast.LtE: 1, ast.Gt: -1, ast.GtE: -1}
COMPARE = {
    "Lt": lambda a, b: a < b,
    "LtE": lambda a, b: a <= b,
    "Gt": lambda a, b: a > b,
    "GtE": lambda a, b: a >= b,
}


class Watch(ast.NodeTransformer):
    "Assertions of one cell become calls of `_seen`, and the comparisons in them calls of `_compared`."
    def __init__(self,
        source: str,
        cell: str,  # its name in the notes
    ):
        self.claims, self.cell, self.where, self.sign = marked(source), cell, None, 1

    def visit_Assert(self, node):
        claim = self.claims.get(node.lineno)
        self.where = f"{self.cell}:{node.lineno}"
        text = claim or ast.unparse(node.test)[:160]
        test = self.visit(node.test)
        self.where = None
        return self.call(node, test, text, bool(claim))

    def visit_Expr(self, node):
        "fastcore's tests raise by themselves."
        call = node.value
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in ("test_eq", "test_close"):
            return node
        claim = self.claims.get(node.lineno)
        return self.call(node, call, claim or ast.unparse(call)[:160], bool(claim))

    def visit_UnaryOp(self, node):
        if not isinstance(node.op, ast.Not): return self.generic_visit(node)
        self.sign = -self.sign
        node = self.generic_visit(node)
        self.sign = -self.sign
        return node

    def visit_Compare(self, node):
        # What is compared may count comparisons, as in `(p < .05).mean() < .1`; those are not looked into.
        if self.where is None or any(type(o) not in DISTANCE for o in node.ops): return node
        names = ast.List([ast.Constant(type(o).__name__) for o in node.ops], ast.Load())
        sides = ast.List([node.left, *node.comparators], ast.Load())
        return self.expression("_compared", names, sides, self.where, self.sign)

    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])

    def expression(self, name, *given):
        given = [g if isinstance(g, ast.AST) else ast.Constant(g) for g in given]
        return ast.Call(ast.Name(name, ast.Load()), given, [])

    def call(self, node, test, text, claim):
        test = ast.Lambda(self.nothing, test)
        made = self.expression("_seen", test, f"{self.cell}:{node.lineno}", text, claim)
        return ast.copy_location(ast.Expr(made), node)


def watchers(
    notes: Notes,  # filled while the cells run
) -> dict:  # names for the cells to call
    "What the rewritten cells call."
    weakest = {}

    def compared(operations, sides, where, sign):
        answer = True
        for name, left, right in zip(operations, sides, sides[1:]):
            keep_weakest(weakest, where, left, right, sign if name.startswith("L") else -sign)
            step = COMPARE[name](left, right)
            answer = step if answer is True else answer and step
        return answer

    def seen(test, where, text, claim):
        weakest.pop(where, None)
        # None: fastcore's tests return nothing when they hold.
        try: holds = (answer := test()) is None or bool(answer)
        except AssertionError: holds = False
        margin, sides = weakest.get(where, (None, None))
        before = notes.found.get(where)
        # In a loop an assertion is as good as its weakest turn.
        if before and holds and (not before.holds or before.margin is None or margin > before.margin): return
        notes.found[where] = Seen(text, claim, holds, margin, sides)

    return {"_seen": seen, "_compared": compared}


def keep_weakest(weakest, where, left, right, sign):
    "Keep the element of a comparison that comes nearest to failing."
    try: left, right = np.broadcast_arrays(*(np.asarray(s, float).ravel() for s in (left, right)))
    except (TypeError, ValueError, RuntimeError): return
    if not len(left): return
    # What never comes is far from everything.
    left, right = (np.clip(s, -1e300, 1e300) for s in (left, right))
    share = sign*(right - left)/np.maximum(np.maximum(np.abs(left), np.abs(right)), 1e-300)
    worst = int(np.argmin(np.where(np.isnan(share), -np.inf, share)))
    if where not in weakest or share[worst] < weakest[where][0]:
        weakest[where] = float(share[worst]), (float(left[worst]), float(right[worst]))


def needed(
    cells: list,  # (number, source) of all code cells of a notebook, in order
) -> list:  # those that its claims need
    "A cell without a claim is left out when no cell that is kept uses a name that it makes."
    claiming = {i for i, (_, source) in enumerate(cells) if MARK_ANYWHERE.search(source)}
    if not claiming: return []
    before = [names_of(source) for _, source in cells[:max(claiming) + 1]]
    kept, found = set(), claiming
    while found - kept:
        kept |= found
        wanted = set().union(*(before[i][1] for i in kept))
        # A cell that makes nothing, such as a call, may change what it is given; so may a patch.
        found = {i for i, (made, used) in enumerate(before) if made & wanted or not made and used & wanted}
        found |= {i for i in range(len(before)) if "@patch" in cells[i][1]}
    return [cells[i] for i in sorted(kept)]


MARK_ANYWHERE = re.compile(MARK.pattern, re.M)


def digest(
    cells: list,  # (number, source), in order
) -> str:
    "Changes with what the cells do, and not with their comments: a result is known to be of these cells."
    text = "\0".join(without_comments(source) for _, source in cells)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def without_comments(source: str) -> str:
    try: return ast.unparse(ast.parse(source))
    # A magic.
    except SyntaxError: return source


def names_of(source: str) -> tuple[set, set]:
    "Names that a cell makes at its top level or below, and names that it uses."
    made, used = set(), set()
    try: nodes = ast.walk(ast.parse(source))
    # A magic.
    except SyntaxError: return made, used
    for node in nodes:
        if isinstance(node, ast.Name): (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)): made.add(node.name)
        elif isinstance(node, ast.alias): made.add((node.asname or node.name).split(".")[0])
    return made, used


@contextmanager
def drawn(
    seed: int,  # 0: the seeds as they are written
    threads: int,
    rounding: float = ROUNDING,  # relative, of the weights; 0: as they are
):
    "Other seeds, another number of threads, and weights as another processor might have rounded them."
    import torch
    forget_caches()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
            if seed: shift_seeds(patch, seed*SEEDS_APART)
            if rounding: stack.callback(perturb(patch, seed, rounding).remove)
            yield
    finally:
        torch.set_num_threads(before)
        forget_caches()


def run(
    shell,  # an IPython shell of its own
    cells: list,  # (number, source), in order
) -> Notes:
    "Run cells whose assertions are written down."
    notes = Notes()
    shell.user_ns.update(watchers(notes))
    for number, source in cells:
        watch = Watch(source, str(number))
        shell.ast_transformers[:] = [watch]
        result = shell.run_cell(source)
        if result.exception is not None: raise result.exception
    return notes


def forget_caches():
    "A run loads and draws by itself."
    import gc
    for one in gc.get_objects():
        if type(one) is not functools._lru_cache_wrapper: continue
        if str(getattr(one, "__module__", "")).startswith("vision_unlearning"): one.cache_clear()


def shift_seeds(patch, shift: int):
    "Every seed that torch or numpy is given, moved by the same number."
    import torch
    by_torch, by_numpy = torch.manual_seed, np.random.default_rng

    class Generator(torch.Generator):
        def manual_seed(self, seed): return super().manual_seed(seed + shift)

    def default_rng(seed=None):
        return by_numpy([seed, shift] if isinstance(seed, (int, np.integer)) else seed)

    patch.setattr(torch, "Generator", Generator)
    patch.setattr(torch, "manual_seed", lambda seed: by_torch(seed + shift))
    patch.setattr(np.random, "default_rng", default_rng)


def perturb(patch, seed: int, rounding: float):
    "Noise on weights when a model is loaded, and on what an optimiser trains before its first step."
    import torch
    from diffusers import ModelMixin
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from transformers import PreTrainedModel
    @torch.no_grad()
    def shake(parameters):
        # Begun anew for each model: what is said to be equal for two trainings of one seed stays equal.
        noise = np.random.Generator(np.random.PCG64(seed))
        for p in parameters:
            if p.is_floating_point():
                share = rounding*torch.finfo(p.dtype).eps/torch.finfo(torch.float32).eps
                p.mul_(1 + share*torch.from_numpy(noise.standard_normal(tuple(p.shape))).to(p))

    def loading(original):
        def from_pretrained(cls, *args, **options):
            made = original.__func__(cls, *args, **options)
            shake((made[0] if isinstance(made, tuple) else made).parameters())
            return made
        return classmethod(from_pretrained)

    for kind in (ModelMixin, PreTrainedModel):
        patch.setattr(kind, "from_pretrained", loading(kind.from_pretrained))
    started = weakref.WeakSet()

    def first_step(optimizer, *_):
        # One that has a state goes on with a training that was shaken when it began.
        if optimizer in started or optimizer.state: return
        started.add(optimizer)
        shake(p for group in optimizer.param_groups for p in group["params"])

    return register_optimizer_step_pre_hook(first_step)


def collected(
    rows: list,  # one a run: notebook, seed, threads, found
) -> dict:  # {(notebook, claim): its runs as (seed, threads, holds, margin), in order}
    "Results by claim."
    claims = {}
    for row in sorted(rows, key=lambda r: (r["notebook"], r["seed"], r["threads"])):
        for seen in row["found"]:
            if not seen["claim"]: continue
            result = row["seed"], row["threads"], seen["holds"], seen["margin"]
            claims.setdefault((row["notebook"], seen["text"]), []).append(result)
    return claims


def table(rows: list) -> list[str]:
    """A line a claim: runs in which it held, margins, what it says; then what failed without being called a
    claim."""
    lines = ["  held   smallest  median margin  claim"]
    for (notebook, text), runs in collected(rows).items():
        margins = [m for *_, m in runs if m is not None]
        shown = f"{min(margins):9.0%} {np.median(margins):8.0%}" if margins else f"{'':18}"
        lines.append(f"{sum(r[2] for r in runs):3}/{len(runs):<3} {shown}        {notebook}: {text}")
    lost = {}
    for row in rows:
        for seen in row["found"]:
            if seen["claim"] or seen["holds"]: continue
            lost.setdefault(f"{row['notebook']}, cell {seen['where']}: {seen['text']}", []).append(
                row["seed"]
            )
    if lost:
        lines += [
            "",
            "  failed, but is not called a claim (an exact number for the seeds as they are written?)",
        ]
    return lines + [f"  {len(seeds)} runs  {what}" for what, seeds in lost.items()]


def already(
    path: Path,  # the record
    notebook: str,
    cells: str,  # digest of the cells that its claims need now
) -> set:  # of (seed, threads)
    "Runs that need not be made again: of these very cells, and every claim held."
    kept = read_record(path).get(notebook, {})
    if kept.get("cells") != cells: return set()
    runs = [run for claim in kept["claims"].values() for run in claim]
    failed = {(seed, threads) for seed, threads, holds, _ in runs if not holds}
    return {(seed, threads) for seed, threads, *_ in runs} - failed


def read_record(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def write_record(
    path: Path,  # what was found before stays, as long as the cells are the same
    rows: list,  # one a run: notebook, cells (their digest), seed, threads, found
    command: str,
):
    "The results beside the page that shows them: merged, and the file replaced at one stroke."
    import fcntl

    import torch
    made = dict(
        command=command,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        torch=torch.__version__,
        numpy=np.__version__,
    )
    # Two commands may write at a time.
    with open(Path(tempfile.gettempdir())/"vision_unlearning_claims.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read_record(path)
        for row in rows:
            record[row["notebook"]] = merged(record.get(row["notebook"]), row, made)
        text = json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False)
        # A run is a line.
        text = re.sub(r"\[\s[^\[\]{}]+\]", lambda run: " ".join(run[0].split()), text)
        beside = path.with_suffix(".new")
        beside.write_text(text + "\n")
        os.replace(beside, path)


def merged(
    kept: dict | None,  # what the record has of a notebook
    row: dict,  # one run of it
    made: dict,  # by which command and versions
) -> dict:
    "A run of other cells begins the notebook's record anew; a run with the same seed replaces the older one."
    claims = kept["claims"] if kept and kept.get("cells") == row["cells"] else {}
    for seen in row["found"]:
        if not seen["claim"]: continue
        margin = None if seen["margin"] is None else float(f"{seen['margin']:.3g}")
        run = [row["seed"], row["threads"], seen["holds"], margin]
        others = [old for old in claims.get(seen["text"], []) if old[:2] != run[:2]]
        claims[seen["text"]] = sorted([*others, run], key=lambda r: r[:2])
    return dict(made=made, cells=row["cells"], claims=claims)
