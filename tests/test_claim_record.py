"""Every claim about chance has been run: the record says with how many seeds, and that it held."""
import pytest
from chance import marked, read_record
from test_notebooks import code_cells, nbs, notebooks

SEEDS = 6
record = read_record(nbs / "explanations" / "claims_about_chance.json")
waiting = record.pop("not yet run", {})
claims = {name: [c for _, source in code_cells(nbs / name, nbs)[0] for c in marked(source).values()]
          for name in notebooks}
claims = {name: found for name, found in claims.items() if found}


def runs(name: str, claim: str) -> list: return record.get(name, {"claims": {}})["claims"].get(claim, [])


def was_run(name: str, claim: str) -> bool: return len({seed for seed, *_ in runs(name, claim)}) >= SEEDS


@pytest.mark.parametrize("name", claims)
def test_claims_were_run(name):
    asked = [c for c in claims[name] if not was_run(name, c) and c not in waiting.get(name, [])]
    assert not asked, f"new claims: make claims PYTEST_ARGS='-k {name.removesuffix('.ipynb')}' runs {asked}"
    false = [c for c in claims[name] if not all(holds for *_, holds, _ in runs(name, c))]
    assert not false, f"some runs of {name} say otherwise: {false}"


def test_record_is_of_these_claims():
    "What is listed was not run, and what was run is still claimed: the list can only shrink."
    listed = [(name, claim) for name, found in waiting.items() for claim in found]
    recorded = [(name, claim) for name, kept in record.items() for claim in kept["claims"]]
    gone = [(name, claim) for name, claim in listed + recorded if claim not in claims.get(name, [])]
    assert not gone, f"not claimed any more: {gone}"
    late = [(name, claim) for name, claim in listed if was_run(name, claim)]
    assert not late, f"run by now, and still listed as not yet run: {late}"
