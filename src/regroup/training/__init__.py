"""Training networks: `load_data` gives the images, `TrainConfig` says how, `train` does it."""

from regroup.training.checkpoint import load_weights as load_weights
from regroup.training.checkpoint import save_weights as save_weights
from regroup.training.config import TrainConfig as TrainConfig
from regroup.training.data import DataSet as DataSet
from regroup.training.data import load_data as load_data
from regroup.training.evaluation import Metrics as Metrics
from regroup.training.evaluation import evaluate as evaluate
from regroup.training.history import EpochResult as EpochResult
from regroup.training.history import History as History
from regroup.training.loop import train as train
