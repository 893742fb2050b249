"""What each part must offer. A decoder, metric, data source, generator or judge is swapped by meeting these."""

from cnd.protocols.data import (
    DataSource,
    FmriDataset,
    FmriSplit,
    ImageArray,
    ImageSource,
    Patterns,
    Pool,
    Stimuli,
    TrainingSet,
)
from cnd.protocols.decoder import (
    Bench,
    Conditioning,
    Decoder,
    Fitted,
    Given,
    Lab,
    Noise,
    OnProgress,
    Reconstruction,
    no_progress,
)
from cnd.protocols.generator import Condition, Generator, GeneratorChoice, SamplingConfig
from cnd.protocols.metric import Judge, JudgeChoice, Judgement, Metric, Truth

__all__ = [
    "Bench",
    "Condition",
    "Conditioning",
    "DataSource",
    "Decoder",
    "Fitted",
    "FmriDataset",
    "FmriSplit",
    "Generator",
    "GeneratorChoice",
    "Given",
    "ImageArray",
    "ImageSource",
    "Judge",
    "JudgeChoice",
    "Judgement",
    "Lab",
    "Metric",
    "Noise",
    "OnProgress",
    "Patterns",
    "Pool",
    "Reconstruction",
    "SamplingConfig",
    "Stimuli",
    "TrainingSet",
    "Truth",
    "no_progress",
]
