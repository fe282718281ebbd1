"""What an edit changes inside a picture and beside the concept, as a pair metric and on composed pictures."""
import pytest
import torch

from vision_unlearning.interference.inside import draw_composed, left_half
from vision_unlearning.interference.pair import Scorers
from vision_unlearning.interference.pair_metrics import PairMetricDoor
from vision_unlearning.metrics.local import InsideChange, OutsideChange
from vision_unlearning.models import tiny_pipeline
from vision_unlearning.unlearners.base import get_method

NAMES = [{"name": "fox"}, {"name": "key"}]


def side(metric, on, off):
    "Change of each picture on one side of its left half."
    metric.update(on, off, left_half(off))
    return metric.per_item()


@pytest.mark.parametrize("where,expected", [("left", 0.), ("right", 20.), ("everywhere", 20.)])
def test_a_pair_metric_of_ones_own_sees_the_outside(where, expected):
    off = torch.full((2, 3, 8, 16), 100, dtype=torch.uint8)
    columns = dict(left=slice(0, 8), right=slice(8, 16), everywhere=slice(None))[where]
    on = off.clone()
    on[..., columns] += 20
    door = PairMetricDoor()
    name = door.take(OutsideChange(left_half(off)))
    assert name == "outside_rmse" and not door[name].default
    values = door[name].values(Scorers("emoji", NAMES), on, off)
    assert values[:, 2].tolist() == [expected]*2


def test_an_edit_of_prompts_leaves_a_picture_without_the_name_alone():
    "SEOT rewrites prompts with the name alone, so that a picture without it is the same to the bit."
    pipe, how = tiny_pipeline(), dict(num_inference_steps=2, guidance_scale=3.)
    def drawn(left): return draw_composed(pipe, [left], ["key"], [42], **how)
    without, fox = drawn("crab"), drawn("fox")
    with get_method("seot")(alpha=.1, optimisation_steps=0).unlearn(pipe, "fox").on(pipe):
        assert torch.equal(drawn("crab"), without)
        changed = drawn("fox")
    assert float(side(InsideChange(), changed, fox)) > float(side(OutsideChange(), changed, fox))


def test_the_start_of_a_composed_picture_can_be_said():
    pipe, how = tiny_pipeline(), dict(num_inference_steps=2, guidance_scale=3.)
    usual = draw_composed(pipe, ["fox"], ["key"], [42], **how)
    assert torch.equal(draw_composed(pipe, ["fox"], ["key"], [42], starts=["fox | key"], **how), usual)
    assert not torch.equal(draw_composed(pipe, ["fox"], ["key"], [42], starts=["other"], **how), usual)
