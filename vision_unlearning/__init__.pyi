# The everyday names of `import vision_unlearning as vu`, each imported when it is first used.
# A name is offered by adding it here. Methods and metrics, at the end, are found by tools/face.py (make face).

# Tasks, their entities, and the files of their results
from .core import DivergedError, ForeignFileError, MissingSessionError, UnknownNameError
from .tasks import get_prompt, get_task
from .data.emoji import emoji_entities
from .data.splits import image_dataset, make_split
from .store import Session, Store

# Models, and pictures that they draw
from .interference.generate import generate_array
from .models import load_clip, load_judge, load_pipeline
from .plotting import heatmap, image_grid

# Unlearning: settings in, an edit out
from .explore.neighbours import near_neighbours
from .unlearners.base import Edit, Unlearner, get_method, load_edit, push_edit
from .unlearners.between import edit_between, what_changed
from .unlearners.diffusion.foreign import export_edit, import_edit
from .unlearners.classifiers.base import get_classifier_method
from .unlearners.tuned import tuned_settings

# One concept out of one model, with a go or no-go
from .running.erase import Erasure, erase, save_erasure

# A model that somebody else edited, with the same
from .running.audit import Audit, Budget, audit
from .running.audit_page import save_audit

# Batches of sessions, and what they found
from .interference.entity import InterferencePerEntity
from .running.batch import batch_status, run_batch
from .running.own import new_task
from .running.demo import demo
from .running.tuning.search import tune

# begin: written by tools/face.py
# Methods for text-to-image models
from .unlearners.diffusion.adavd import AdaVD
from .unlearners.diffusion.advunlearn import AdvUnlearn
from .unlearners.diffusion.concept_ablation import ConceptAblation
from .unlearners.diffusion.debias import Debias
from .unlearners.diffusion.erase_anything import EraseAnything
from .unlearners.diffusion.erasediff import EraseDiff
from .unlearners.diffusion.esd import ESD
from .unlearners.diffusion.fade import FADE
from .unlearners.diffusion.fade_sparse import FADEModule
from .unlearners.diffusion.fade_sparse import FADEWeight
from .unlearners.diffusion.gloce import GLoCE
from .unlearners.diffusion.guidance import SafeLatentGuidance
from .unlearners.diffusion.lora_negation import LoraNegation
from .unlearners.diffusion.mace import MACE
from .unlearners.diffusion.munba import MUNBa
from .unlearners.diffusion.prompt_filter import FilterPrompts
from .unlearners.diffusion.rece import RECE
from .unlearners.diffusion.receler import Receler
from .unlearners.diffusion.safree import SAFREE
from .unlearners.diffusion.salun import SalUn
from .unlearners.diffusion.seot import SEOT
from .unlearners.diffusion.spm import SPM
from .unlearners.diffusion.stereo import STEREO
from .unlearners.diffusion.trasce import TraSCE
from .unlearners.diffusion.uce import UCE

# Methods for classifiers
from .unlearners.classifiers.amun import AMUN
from .unlearners.classifiers.base import Finetune
from .unlearners.classifiers.boundary import BoundaryExpand
from .unlearners.classifiers.boundary import BoundaryShrink
from .unlearners.classifiers.fisher import FisherForget
from .unlearners.classifiers.gkt import GKT
from .unlearners.classifiers.influence import Influence
from .unlearners.classifiers.jit import JiT
from .unlearners.classifiers.lfssd import LFSSD
from .unlearners.classifiers.mumis import MUMis
from .unlearners.classifiers.salun import ClassifierMUNBa
from .unlearners.classifiers.salun import ClassifierSalUn
from .unlearners.classifiers.simple import CFk
from .unlearners.classifiers.simple import EUk
from .unlearners.classifiers.simple import L1Sparse
from .unlearners.classifiers.simple import NegGrad
from .unlearners.classifiers.simple import NegGradPlus
from .unlearners.classifiers.simple import RandomLabel
from .unlearners.classifiers.simple import Retrain
from .unlearners.classifiers.ssd import SSD
from .unlearners.classifiers.teachers import BadTeacher
from .unlearners.classifiers.teachers import SCRUB
from .unlearners.classifiers.uam import UAM
from .unlearners.classifiers.unsir import UNSIR
from .unlearners.classifiers.zero_shot import ZeroShot

# Metrics
from .metrics.classification import JudgeAccuracy
from .metrics.concepts import ConceptAccuracy
from .metrics.detectors import PaintingStyle
from .metrics.detectors import NSFW
from .metrics.distribution import FID
from .metrics.distribution import KID
from .metrics.distribution import CMMD
from .metrics.embedding import EmbeddingSimilarity
from .metrics.fidelity import PSNR
from .metrics.fidelity import SRE
from .metrics.fidelity import SpectralAngle
from .metrics.fidelity import UIQ
from .metrics.fidelity import MSSSIM
from .metrics.identity import FaceIdentity
from .metrics.image_image import RMSE
from .metrics.image_image import SSIM
from .metrics.image_text import ClipScore
from .metrics.image_text import TextSimilarity
from .metrics.local import InsideChange
from .metrics.nudity import NudeNet
from .metrics.perceptual import LPIPS
from .metrics.quality import BRISQUE
from .metrics.structure import FSIM
from .metrics.structure import ISSM
# end
