"""Claims about chance, each under other seeds, one and two threads, and other rounding: `make claims`.

Collected only with `pytest --claims N`, and then alone: N seeds, the even ones with one thread, the odd ones
with two; with `--claims-threads both`, each with one and with two. Runs that the record has are left out.
"""
import pytest
import test_notebooks
from chance import already, digest, drawn, needed, run
from test_notebooks import code_cells, nbs, notebooks

shell = test_notebooks.shell
cells_of = {name: needed(code_cells(nbs / name, nbs)[0]) for name in notebooks}


def pytest_generate_tests(metafunc):
    if "threads" not in metafunc.fixturenames: return
    option = metafunc.config.getoption
    both = option("--claims-threads") == "both"
    seeds = range(option("--claims"))
    runs = [(seed, threads) for seed in seeds for threads in ((1, 2) if both else (1 + seed % 2,))]
    variants = []
    for name, cells in cells_of.items():
        if not cells: continue
        record = option("--claims-record")
        done = already(record, name, digest(cells)) if record else set()
        variants += [(name, seed, threads) for seed, threads in runs if (seed, threads) not in done]
    metafunc.parametrize("name,seed,threads", variants)


@pytest.mark.global_rng
def test_claims_hold(name, seed, threads, shell, tmp_path, monkeypatch, record_property):
    now = needed(code_cells(nbs / name, nbs)[0])
    cells = needed(code_cells(nbs / name, tmp_path / "out")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IN_TEST", "1")
    with drawn(seed, threads): notes = run(shell, cells)
    found = dict(notebook=name, cells=digest(now), seed=seed, threads=threads)
    record_property("chance", found | dict(found=notes.as_rows()))
    false = [
        f"cell {where}: {seen.text}" for where, seen in notes.found.items() if seen.claim and not seen.holds
    ]
    assert not false, f"nbs/{name} with seed {seed} and {threads} threads: " + "; ".join(false)
