"""The public names of the core; read at run time too, so that each is written once."""

from .backbone import Backbone as Backbone
from .backbone import Defaults as Defaults
from .conditioning import Conditioning as Conditioning
from .errors import MachineError as MachineError
from .errors import MissingDependencyError as MissingDependencyError
from .errors import VaderError as VaderError
from .geometry import Geometry as Geometry
from .geometry import GeometryRequest as GeometryRequest
from .hookspecs import hookimpl as hookimpl
from .method.objective import Batch as Batch
from .method.objective import Objective as Objective
from .method.objective import StepResult as StepResult
from .prediction import Prediction as Prediction
from .prompts import Prompt as Prompt
from .prompts import PromptSource as PromptSource
from .randomness import Randomness as Randomness
from .reward import ClipReward as ClipReward
from .reward import ImageReward as ImageReward
from .reward import Reward as Reward
from .reward import RewardOutput as RewardOutput
from .sampler import Plan as Plan
from .sampler import Sampler as Sampler
from .sampler import State as State
from .schedule import RectifiedFlow as RectifiedFlow
from .schedule import VarianceExploding as VarianceExploding
from .schedule import VariancePreserving as VariancePreserving
from .text import Text as Text
from .weights import WeightFile as WeightFile

__version__: str
