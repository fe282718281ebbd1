"""Every claim about chance has been run: the record says with how many seeds, and that it held."""
import pytest
from chance import marked, read_record
from test_notebooks import code_cells, nbs, notebooks

SEEDS = 6
record = read_record(nbs / "explanations" / "claims_about_chance.json")
claims = {name: [c for _, source in code_cells(nbs / name, nbs)[0] for c in marked(source).values()]
          for name in notebooks}
claims = {name: found for name, found in claims.items() if found}


def runs(name: str, claim: str) -> list: return record.get(name, {"claims": {}})["claims"].get(claim, [])


def was_run(name: str, claim: str) -> bool: return len({seed for seed, *_ in runs(name, claim)}) >= SEEDS


@pytest.mark.parametrize("name", claims)
def test_claims_were_run(name):
    asked = [c for c in claims[name] if not was_run(name, c)]
    assert not asked, f"new claims: make claims PYTEST_ARGS='-k {name.removesuffix('.ipynb')}' runs {asked}"
    false = [c for c in claims[name] if not all(holds for *_, holds, _ in runs(name, c))]
    assert not false, f"some runs of {name} say otherwise: {false}"


def test_record_is_of_these_claims():
    "What was run is still claimed."
    recorded = [(name, claim) for name, kept in record.items() for claim in kept["claims"]]
    gone = [(name, claim) for name, claim in recorded if claim not in claims.get(name, [])]
    assert not gone, f"not claimed any more: {gone}"
