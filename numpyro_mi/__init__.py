"""Certified lower and upper bounds on the mutual information of NumPyro models."""

from numpyro_mi import tasks
from numpyro_mi.annealing.kernels.hmc import AnnealedHMC
from numpyro_mi.annealing.schedules import LinearSchedule, PowerSchedule, SigmoidSchedule
from numpyro_mi.direct.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.direct.critics import MLPCritic, SeparableCritic
from numpyro_mi.direct.giwae import GIWAE
from numpyro_mi.direct.mine_ais import MINEAIS
from numpyro_mi.direct.nearest_neighbors import KSG
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.importance import IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.evidence.schemes.coupled_reverse import CR
from numpyro_mi.evidence.schemes.independent import IM
from numpyro_mi.evidence.schemes.independent_reverse import IR
from numpyro_mi.evidence.smc import AnnealedSMC
from numpyro_mi.guides.callables import GuideFunction
from numpyro_mi.guides.flow import FlowGuide
from numpyro_mi.guides.laplace import LaplaceGuide
from numpyro_mi.guides.neural import NeuralGuide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.plots import plot_bounds, plot_information_gain, plot_log_weights
from numpyro_mi.results.comparison import Comparison
from numpyro_mi.results.evidence import EvidenceBounds
from numpyro_mi.results.files.fitted import load_fitted, save_fitted
from numpyro_mi.results.gain import InformationGain
from numpyro_mi.results.gradient import GainGradient
from numpyro_mi.results.mutual_information import MIBounds, MIDifference
from numpyro_mi.results.table import InformationTable
from numpyro_mi.runs.environment import refuse_hanging_jaxlib as _refuse_hanging_jaxlib
from numpyro_mi.training.training import Training
from numpyro_mi.verbs.compare import compare
from numpyro_mi.verbs.evidence_bounds import evidence_bounds
from numpyro_mi.verbs.expected_information_gain import expected_information_gain
from numpyro_mi.verbs.information_gain_gradient import information_gain_gradient
from numpyro_mi.verbs.information_table import information_table
from numpyro_mi.verbs.mi_bounds import mi_bounds
from numpyro_mi.verbs.mi_bounds_from_samples import mi_bounds_from_samples

__version__ = "0.1.0"

_refuse_hanging_jaxlib()

__all__ = [
    "AIS",
    "AnnealedHMC",
    "AnnealedSMC",
    "BarberAgakov",
    "CR",
    "Comparison",
    "EvidenceBounds",
    "FlowGuide",
    "GIWAE",
    "GainGradient",
    "GuideFunction",
    "IM",
    "IR",
    "IWAE",
    "KSG",
    "InfoNCE",
    "InformationGain",
    "InformationTable",
    "LaplaceGuide",
    "LinearSchedule",
    "MIBounds",
    "MIDifference",
    "MINE",
    "MINEAIS",
    "MLPCritic",
    "NWJ",
    "NeuralGuide",
    "PowerSchedule",
    "RegressionGuide",
    "SeparableCritic",
    "SigmoidSchedule",
    "StructuredInfoNCE",
    "Training",
    "compare",
    "evidence_bounds",
    "expected_information_gain",
    "information_gain_gradient",
    "information_table",
    "load_fitted",
    "mi_bounds",
    "mi_bounds_from_samples",
    "plot_bounds",
    "plot_information_gain",
    "plot_log_weights",
    "save_fitted",
    "tasks",
]
