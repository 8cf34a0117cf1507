"""Certified lower and upper bounds on the mutual information of NumPyro models."""

from numpyro_mi import tasks
from numpyro_mi.api import mi_bounds, mi_bounds_from_samples
from numpyro_mi.bounds.contrastive import MINE, NWJ, InfoNCE
from numpyro_mi.bounds.giwae import GIWAE
from numpyro_mi.bounds.mine_ais import MINEAIS
from numpyro_mi.bounds.nearest_neighbors import KSG
from numpyro_mi.comparing import compare
from numpyro_mi.comparison import Comparison
from numpyro_mi.critics import MLPCritic, SeparableCritic
from numpyro_mi.design_gradient import GainGradient, information_gain_gradient
from numpyro_mi.designs import expected_information_gain
from numpyro_mi.environment import refuse_hanging_jaxlib as _refuse_hanging_jaxlib
from numpyro_mi.evidence.ais import AIS
from numpyro_mi.evidence.coupled_reverse import CR
from numpyro_mi.evidence.importance import IWAE, BarberAgakov, StructuredInfoNCE
from numpyro_mi.evidence.independent import IM
from numpyro_mi.evidence.independent_reverse import IR
from numpyro_mi.evidence.smc import AnnealedSMC
from numpyro_mi.fitted import load_fitted, save_fitted
from numpyro_mi.gains import InformationGain
from numpyro_mi.guides.callables import GuideFunction
from numpyro_mi.guides.flow import FlowGuide
from numpyro_mi.guides.laplace import LaplaceGuide
from numpyro_mi.guides.neural import NeuralGuide
from numpyro_mi.guides.regression import RegressionGuide
from numpyro_mi.information import information_table
from numpyro_mi.kernels.hmc import AnnealedHMC
from numpyro_mi.model_evidence import EvidenceBounds, evidence_bounds
from numpyro_mi.plots import plot_bounds, plot_information_gain, plot_log_weights
from numpyro_mi.results import MIBounds, MIDifference
from numpyro_mi.schedules import LinearSchedule, PowerSchedule, SigmoidSchedule
from numpyro_mi.tables import InformationTable
from numpyro_mi.training import Training

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
