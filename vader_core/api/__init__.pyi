"""The public names of the Python API; read at run time too, so that each is written once."""

from .bench import bench as bench
from .configure import configure as configure
from .evaluate import evaluate as evaluate
from .gradient_norms import gradient_norms as gradient_norms
from .inline import Inline as Inline
from .inline import show_clips as show_clips
from .inline import show_report as show_report
from .open_model import open_model as open_model
from .plan import plan as plan
from .push import push as push
from .sample import sample as sample
from .score import score as score
from .train import train as train
