"""The public names of the Python API; read at run time too, so that each is written once."""

from .bench import bench as bench
from .compare import compare as compare
from .configure import configure as configure
from .evaluate import evaluate as evaluate
from .export_site import export_site as export_site
from .gradient_norms import gradient_norms as gradient_norms
from .open_model import Opened as Opened
from .open_model import open_model as open_model
from .plan import plan as plan
from .recipes import recipes as recipes
from .report import batch_body as batch_body
from .report import breakable as breakable
from .report import number as number
from .report import page_script as page_script
from .report import page_style as page_style
from .report import report as report
from .report import run_body as run_body
from .runs import run_facts as run_facts
from .runs import runs as runs
from .sample import check_sample as check_sample
from .sample import sample as sample
from .sample_options import sample_options as sample_options
from .score import score as score
from .score import score_clips as score_clips
from .train import StoppedError as StoppedError
from .train import train as train
