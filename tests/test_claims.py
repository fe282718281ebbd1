"""Claims about chance, each under other seeds, one and two threads, and other rounding: `make claims`.

Collected only with `pytest --claims N`, and then alone: N seeds, each with one and with two threads.
"""
import pytest
import test_notebooks
from chance import drawn, needed, run
from test_notebooks import code_cells, nbs, notebooks

shell = test_notebooks.shell
claiming = [name for name in notebooks if needed(code_cells(nbs / name, nbs)[0])]


def pytest_generate_tests(metafunc):
    seeds = metafunc.config.getoption("--claims")
    variants = [(name, seed, threads) for name in claiming for seed in range(seeds) for threads in (1, 2)]
    if "threads" in metafunc.fixturenames: metafunc.parametrize("name,seed,threads", variants)


@pytest.mark.global_rng
def test_claims_hold(name, seed, threads, shell, tmp_path, monkeypatch, record_property):
    cells = needed(code_cells(nbs / name, tmp_path / "out")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IN_TEST", "1")
    with drawn(seed, threads): notes = run(shell, cells)
    record_property("chance", dict(notebook=name, seed=seed, threads=threads, found=notes.as_rows()))
    false = [
        f"cell {where}: {seen.text}" for where, seen in notes.found.items() if seen.claim and not seen.holds
    ]
    assert not false, f"nbs/{name} with seed {seed} and {threads} threads: " + "; ".join(false)
