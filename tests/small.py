"""A pipeline smaller than the tiny one, for tests that train or draw hundreds of times.
What takes their time is the number of modules, whatever their width."""
import torch

from vision_unlearning.models.tiny import tiny_pipeline, tiny_unet

# One block down and one up, with three transformers that read the text.
ONE_BLOCK = dict(
    block_out_channels=(8,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    mid_block_type=None,
)


def small_pipeline(seed=0):
    "The tiny pipeline of SD 1.x with a UNet of three transformers."
    pipe = tiny_pipeline(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe.unet = tiny_unet(**ONE_BLOCK).eval()
    return pipe
