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
    Reconstruction,
    Report,
    no_report,
)
from cnd.protocols.generator import Condition, Generator, GeneratorChoice
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
    "Patterns",
    "Pool",
    "Reconstruction",
    "Report",
    "Stimuli",
    "TrainingSet",
    "Truth",
    "no_report",
]
