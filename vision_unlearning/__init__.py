"""Machine unlearning for computer vision: make an image model forget, and measure what else it forgot.

`import vision_unlearning as vu` costs nothing and offers the everyday names: `vu.load_pipeline`, `vu.UCE`,
`vu.erase`, `vu.image_grid`. Each is imported when it is first used.
`__init__.pyi`, beside this file, says which names these are and where they live, to editors and type checkers
too. nbdev keeps this file as it is, except for the version.
"""
import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
