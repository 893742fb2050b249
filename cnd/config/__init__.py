"""Every setting of an experiment, typed. Defaults are the paper's; what METHOD-level rulings leave open is a field.

An experiment is YAML (``experiments/*.yaml``); a sweep is a table of edits to it. Sizes known only from
the data (voxel count, number of classes) are never written here. Importing this package loads no torch.
"""

from cnd.config.analysis import AnalysisConfig
from cnd.config.base import Config
from cnd.config.data import (
    Bold5000Data,
    DataConfig,
    Digits69Data,
    FileData,
    FolderData,
    GodData,
    HcpPool,
    PoolConfig,
    SimulatedData,
    SubjectPool,
)
from cnd.config.decoding import (
    ClassifierConfig,
    CndDecoder,
    DecoderConfig,
    DitGenerator,
    EmbeddedClassifier,
    EmbeddedGenerator,
    EvaluationConfig,
    GeneratorConfig,
    LdmGenerator,
    OracleDecoder,
    RidgeDecoder,
    SamplingConfig,
    TimmClassifier,
)
from cnd.config.experiment import Experiment, load_experiment, override, parse_assignments
from cnd.config.model import EncoderConfig, Layout, Phase1Config, Phase2Config
from cnd.config.reading import explain, read_yaml

__all__ = [
    "AnalysisConfig",
    "Bold5000Data",
    "ClassifierConfig",
    "CndDecoder",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "Digits69Data",
    "DitGenerator",
    "EmbeddedClassifier",
    "EmbeddedGenerator",
    "EncoderConfig",
    "EvaluationConfig",
    "Experiment",
    "FileData",
    "FolderData",
    "GeneratorConfig",
    "GodData",
    "HcpPool",
    "Layout",
    "LdmGenerator",
    "OracleDecoder",
    "Phase1Config",
    "Phase2Config",
    "PoolConfig",
    "RidgeDecoder",
    "SamplingConfig",
    "SimulatedData",
    "SubjectPool",
    "TimmClassifier",
    "explain",
    "load_experiment",
    "override",
    "parse_assignments",
    "read_yaml",
]
