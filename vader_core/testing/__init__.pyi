"""The public names of the conformance kit; read at run time too, so that each is written once."""

from .backbones import backbone_clauses as backbone_clauses
from .backbones import backbone_subject as backbone_subject
from .backbones import check_backbone as check_backbone
from .conformance import Clause as Clause
from .conformance import ConformanceError as ConformanceError
from .conformance import Report as Report
from .objectives import check_objective as check_objective
from .objectives import objective_clauses as objective_clauses
from .objectives import objective_subject as objective_subject
from .options import TinyConfig as TinyConfig
from .plugin import add_testing_plugin as add_testing_plugin
from .prompt_sources import check_prompt_source as check_prompt_source
from .prompt_sources import prompt_source_clauses as prompt_source_clauses
from .prompt_sources import prompt_source_subject as prompt_source_subject
from .rewards import check_reward as check_reward
from .rewards import reward_clauses as reward_clauses
from .rewards import reward_subject as reward_subject
from .samplers import check_sampler as check_sampler
from .samplers import sampler_clauses as sampler_clauses
from .samplers import sampler_subject as sampler_subject
from .tiny import BrightnessReward as BrightnessReward
from .tiny import FixedPrompts as FixedPrompts
from .tiny import MotionReward as MotionReward
from .tiny import TinyBackbone as TinyBackbone
from .tiny import TinyImageBackbone as TinyImageBackbone
from .tiny import tiny_backbone as tiny_backbone
