"""What is small enough for tests that train or draw hundreds of times: a pipeline, a CLIP, and settings.
What takes their time is the number of modules, whatever their width."""
import torch

from vision_unlearning.models.tiny import tiny_pipeline, tiny_unet
from vision_unlearning.unlearners.idle import held

# One block down and one up, with three transformers that read the text.
ONE_BLOCK = dict(
    block_out_channels=(8,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    mid_block_type=None,
)


class Grey:
    "A CLIP that is right about nothing in particular."
    def encode_images(self, images): return torch.nn.functional.normalize(images.float().mean((2, 3)), dim=1)

    def encode_texts(self, texts): return torch.ones(len(texts), 3) / 3 ** .5


def small_pipeline(seed=0):
    "The tiny pipeline of SD 1.x with a UNet of three transformers."
    pipe = tiny_pipeline(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe.unet = tiny_unet(**ONE_BLOCK).eval()
    return pipe


def acting(cls, settings, *sides):
    "Those of the settings that a method has and that do something beside the others, on these data."
    known = {name: value for name, value in settings.items() if name in cls.model_fields}
    kinds = map(held, sides) if sides else ["names" if cls.reads == "names" else "pictures"]*2
    idle = cls(**known).idle(*kinds)
    return {name: value for name, value in known.items() if name not in idle}
